"""README "The model": its three blocks run as they stand, and estimate ancestry."""

import contextlib
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator import match_components, rmse
from pipeline import load_estimator, run
from pipeline.config import ApplyConfig, FitConfig, QCConfig, RunConfig
from pipeline.errors import InputError
from pipeline.store import Store
from tests import helpers, oracle

K, N_PEOPLE, N_VARIANTS = 3, 400, 2_000
README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks() -> list[str]:
    """The indented blocks of the section."""
    section = README.partition("### The model\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?:^    .*\n|^\n)+", section, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found if block.strip()]


@pytest.fixture(scope="module")
def truth() -> Any:
    return oracle.simulate(N_PEOPLE, N_VARIANTS, K, seed=5, fst=0.1)


@pytest.fixture(scope="module")
def fitted(truth: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    calls = np.stack([truth.genotypes >= 1, truth.genotypes >= 2], axis=2)
    source = helpers.write_cohort(
        folder / "cohort.vcz", calls.astype(np.int8).transpose(1, 0, 2)
    )
    config = RunConfig(
        qc=QCConfig(enabled=False),
        fit=FitConfig(n_populations=K),
        apply=ApplyConfig(standard_errors="none", fit_check_people=0),
    )
    ready: Any = contextlib.nullcontext(helpers.SerialCluster())
    run.run(source, folder / "out", config, ready)
    return folder


def error_of(ancestry: Any, truth: Any) -> float:
    ancestry = np.asarray(ancestry)
    order = match_components(ancestry, truth.ancestry)
    return rmse(ancestry[:, order], truth.ancestry)


@pytest.mark.timeout(900)
def test_readme__the_model(
    truth: Any, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fitted)
    store = Store.open(fitted / "out" / "ancestry.zarr", "ancestry")
    exact = error_of(store.read("sample_ancestry_proportion"), truth)
    names: dict[str, Any] = {"genotypes": truth.genotypes.astype(np.int8)}
    errors = []
    for block in blocks():
        exec(block, names)
        found = names["estimator"].apply({"genotypes": names["genotypes"]}, {}, None)
        errors.append(error_of(found[0]["ancestry_proportions"], truth) / exact)
    print(f"rmse of run {exact:.4f}; of the blocks, in shares of it: {errors}")
    assert len(errors) == 3
    started, trained, loaded = errors
    assert started < 1.5
    assert trained < 1.5
    assert loaded < 1.5
    # An untrained network, as a caution that the measure tells the two apart.
    assert error_of(np.full((N_PEOPLE, K), 1 / K), truth) > 5 * exact


def test_load_estimator__refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; check the path"):
        load_estimator(tmp_path / "none.zarr")
