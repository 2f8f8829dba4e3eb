"""A chunk that is damaged, or lost after the checks, is named by every stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator import training
from estimator.acceleration import Point
from pipeline import bundle
from pipeline.apply import apply_model
from pipeline.cohort import open_cohort
from pipeline.config import ApplyConfig, FitConfig, QCConfig, TrainConfig
from pipeline.errors import InputError
from pipeline.fit import FitResult, fit
from pipeline.prepared import Prepared
from pipeline.qc import quality_control
from pipeline.train import Encoder, train
from tests.helpers import (
    SerialCluster,
    local,
    random_genotypes,
    small_prepared,
    write_cohort,
)

N_VARIANTS, N_SAMPLES, K = 18, 96, 2
IDENTITY: dict[str, Any] = {"seed": 1, "stamp": "stamp"}
SERIAL = SerialCluster()


def _damage(chunk: Path) -> None:
    chunk.write_bytes(b"damaged")


def _flip(chunk: Path) -> None:
    """Flip a bit where the genotypes are, which no decompressor minds by itself."""
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)


def _lose(chunk: Path) -> None:
    chunk.unlink()


def _fitted() -> FitResult:
    rng = np.random.default_rng(0)
    ancestry = rng.dirichlet(np.ones(K), N_SAMPLES).astype(np.float32)
    frequencies = rng.uniform(0.2, 0.8, (K, N_VARIANTS)).astype(np.float32)
    return FitResult(Point(ancestry, frequencies), -1.0, [-1.0], True, 3)


def _train(prepared: Prepared, folder: Path) -> Encoder:
    config = TrainConfig(epochs=1, batch_size=64)
    return train(prepared, _fitted(), config, SERIAL, folder, **IDENTITY)


def _fit(prepared: Prepared, folder: Path) -> None:
    fit(prepared, FitConfig(n_populations=K), SERIAL, folder, **IDENTITY)


def _apply(prepared: Prepared, folder: Path) -> None:
    model, ancestry = folder / "model.zarr", folder / "ancestry.zarr"
    apply_model(model, prepared, ancestry, ApplyConfig(), SERIAL, {})


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setattr(training, "DISTILLATION_STEPS", 20)
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES)
    made = small_prepared(tmp_path, genotypes, chunks=(9, 32))
    encoder = _train(made, tmp_path / "rounds")
    bundle.save_model(tmp_path / "model.zarr", made, _fitted(), encoder, {})
    return made


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_damage, r"cannot be decoded \(.+\); restore"),
        (_flip, r"cannot be decoded \(.+\); restore"),
        (_lose, "is absent; copy"),
    ],
)
@pytest.mark.parametrize("work", [_fit, _train, _apply])
def test_prepared__a_spoiled_chunk_is_named(
    prepared: Prepared,
    tmp_path: Path,
    work: Callable[[Prepared, Path], object],
    spoil: Callable[[Path], None],
    reason: str,
):
    spoil(local(prepared.path) / "call_genotype_packed" / "1.0")
    message = rf"prepared\.zarr: chunk 1\.0 of array call_genotype_packed {reason}"
    with pytest.raises(InputError, match=message):
        work(prepared, tmp_path)


def test_quality_control__a_damaged_chunk_is_named(tmp_path: Path):
    url = write_cohort(
        tmp_path / "cohort.vcz", random_genotypes(20, 60), chunks=(20, 16)
    )
    cohort = open_cohort(url)
    _damage(tmp_path / "cohort.vcz" / "call_genotype" / "0.3.0")
    message = (
        r"cohort\.vcz: chunk 0\.3\.0 of array call_genotype cannot be decoded \(.+\); "
    )
    with pytest.raises(InputError, match=message):
        quality_control(cohort, QCConfig())
