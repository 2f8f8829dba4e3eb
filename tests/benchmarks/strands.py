"""How many A/T and C/G variants of real people have their strand told, and how well.

    python -m tests.benchmarks.strands

Of the 1000 Genomes people, every second one gives a model its P, by superpopulation;
cohorts of the others are written on the opposite strand at half of the variants, at
random, and matched to it.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import demo, given, overlap
from pipeline.alleles import Orientation
from pipeline.cohort import open_cohort
from pipeline.config import ApplyConfig, RunConfig, TrainConfig
from pipeline.match import match_variants
from pipeline.store import Store
from tests import helpers

OTHER = dict(zip("ACGT", "TGCA", strict=True))
CALLS = np.array([[0, 0], [0, 1], [1, 1], [-1, -1]], np.int8)


def make_model(people: demo.DemoCohort, populations: list[str], folder: Path) -> Path:
    """Model of the frequencies among every second person of some superpopulations."""
    labels = np.array(people.superpopulation)
    chosen = [
        (labels == name) & (np.arange(len(labels)) % 2 == 0) for name in populations
    ]
    frequencies = [people.codes[:, mask].mean(axis=1) / 2 for mask in chosen]
    contigs, positions, *alleles = zip(*people.sites, strict=True)
    keys = {
        "variant_contig_name": np.array(contigs),
        "variant_position": np.array(positions),
        "variant_allele": np.array(alleles).T,
        "variant_id": np.full(len(contigs), "."),
    }
    workers: Any = contextlib.nullcontext(helpers.SerialCluster())
    path = folder / f"{'-'.join(populations)}.zarr"
    config = RunConfig(train=TrainConfig(hidden_dims=(8,)))
    given.make_model(
        given.Frequencies(keys, np.array(frequencies)), path, config, workers
    )
    return path


def judge(
    people: demo.DemoCohort, chosen: npt.NDArray[np.intp], model: Path, folder: Path
) -> str:
    """Match some people, half of whose variants are turned, and count the decisions."""
    contigs, positions, *columns = zip(*people.sites, strict=True)
    alleles = np.array(columns).T
    turned = np.random.default_rng(1).random(len(alleles)) < 0.5
    alleles[turned] = [[OTHER[a], OTHER[b]] for a, b in alleles[turned].tolist()]
    names = list(dict.fromkeys(contigs))
    url = helpers.write_cohort(
        folder / "cohort.vcz",
        CALLS[people.codes[:, chosen]],
        chunks=(10_000, 1_000),
        contig_id=helpers.text(names),
        variant_contig=np.array([names.index(name) for name in contigs], np.int8),
        variant_position=np.array(positions, np.int32),
        variant_allele=alleles.astype(object),
    )
    store, cohort = Store.open(model, "model"), open_cohort(url)
    found = match_variants(store, cohort)
    settled = overlap.settle_strands(found, store, cohort, ApplyConfig(min_overlap=0))
    opposite = (settled.orientation & Orientation.COMPLEMENTED) > 0
    told = found.ambiguous & ~settled.ambiguous
    return (
        f"{np.count_nonzero(told)} of {np.count_nonzero(found.ambiguous)} told, "
        f"{np.count_nonzero(opposite[told] != turned[told])} of them wrongly"
    )


def main() -> None:
    """Print a line for each cohort on each model."""
    people = demo.read_peddy(demo._peddy_folder())
    labels = np.array(people.superpopulation)
    others = np.arange(1, len(labels), 2)
    cohorts = {name: others[labels[others] == name] for name in demo.SUPERPOPULATIONS}
    cohorts |= {"everybody": others, "20 people": others[:20], "one": others[:1]}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for populations in (list(demo.SUPERPOPULATIONS), ["AFR", "EUR"]):
            model = make_model(people, populations, folder)
            for name, chosen in cohorts.items():
                result = judge(people, chosen, model, folder)
                print(f"{name} on {'-'.join(populations)}: {result}", flush=True)


if __name__ == "__main__":
    main()
