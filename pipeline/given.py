"""A model of allele frequencies that are known, without a cohort to fit them to.

Reads P as text beside the keys of its variants, or takes both as arrays, and writes
`model.zarr`. There being no people to train the encoder on, they are simulated from P,
so that the model projects like any other, with Newton steps and without.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator import prior
from estimator.config import MIN_FREQUENCY, AncestryEstimatorConfig
from pipeline import (
    bundle,
    checkpoint,
    counted_allele,
    frequency_files,
    genome_build,
    provenance,
    schema,
)
from pipeline.config import GIVEN, RunConfig
from pipeline.errors import InputError
from pipeline.location import Location, replacing
from pipeline.tasks import Cluster
from pipeline.train import Encoder, without_training
from pipeline.workspace import open_store_workspace


@dataclass(frozen=True, eq=False)
class Frequencies:
    """P and its variants.

    Attributes
    ----------
    keys
        Arrays of `schema.VARIANT_KEYS`: contig, position, reference and alternate
        allele, and id of each variant.
    values
        P: frequency of the alternate allele, in [0, 1]; shape (populations, variants).
    genome_build
        Build that the positions are on, one of `genome_build.BUILDS`.
    counted_allele
        Allele that the file counted, which the values come from: "alternate" or
        "reference".
    told_by
        What told so, in words.
    """

    keys: Mapping[str, npt.NDArray[Any]]
    values: npt.NDArray[np.floating]
    genome_build: str = genome_build.UNKNOWN
    counted_allele: str = counted_allele.ALTERNATE
    told_by: str = "as given"

    def __post_init__(self) -> None:
        n_variants = self.values.shape[1]
        for name in schema.VARIANT_KEYS:
            if len(self.keys[name]) != n_variants:
                raise InputError(
                    f"{name} has {len(self.keys[name])} variants and the frequencies "
                    f"{n_variants}; give both of the same variants"
                )
        wrong = np.flatnonzero(~((self.values >= 0) & (self.values <= 1)).all(axis=0))
        if wrong.size:
            raise InputError(
                f"frequencies of variant {wrong[0]} are {self.values[:, wrong[0]]}; "
                "they must be in [0, 1]"
            )
        if self.genome_build not in genome_build.BUILDS:
            raise InputError(
                f"genome build {self.genome_build!r} is not known; it must be one of "
                f"{', '.join(genome_build.BUILDS)}"
            )


def read_frequencies(
    table: Path,
    variants: Path,
    build: str = genome_build.UNKNOWN,
    allele: str | None = None,
) -> Frequencies:
    """Read P as ADMIXTURE and its kin and `streamixture export` write it.

    Parameters
    ----------
    table
        A line a variant with the frequency in each population. A header line of SNP,
        A1, A2 and populations, as of `fastmixture2 --write-info`, says that these are
        of allele 1, and its lines are found among the variants by id.
    variants
        The .bim file of the genotypes that P was fitted to, or PREFIX.variants of an
        export.
    build
        Genome build of the positions.
    allele
        Allele that P counts: "alternate", which is PLINK's allele 1, or "reference".
        By default what the files say; where they do not, the reference with a .bim
        file, as ADMIXTURE has it.

    Raises
    ------
    InputError
        If a file cannot be read, they do not fit one another, or they say that P
        counts the other allele.
    """
    p = frequency_files.read_table(table)
    keys, listed = frequency_files.read_variants(variants)
    if p.variants is not None:
        keys = frequency_files.find_variants(keys, p.variants, table, variants)
    if len(keys["variant_position"]) != p.values.shape[1]:
        raise InputError(
            f"{table} has {p.values.shape[1]} lines and {variants} "
            f"{len(keys['variant_position'])} variants; give the files of one fit, "
            "without the variants that it left out"
        )
    said = [
        (of, f"as {path} says")
        for of, path in ((p.counted, table), (listed, variants))
        if of is not None
    ]
    known, told_by = said[0] if said else _assumed(variants)
    if allele is not None and said and allele != known:
        raise InputError(
            f"{told_by.removeprefix('as ').removesuffix(' says')} says that P counts "
            f"the {known} allele, and --allele the {allele} one; leave --allele out"
        )
    if allele is not None:
        known, told_by = allele, "as --allele says"
    values = p.values if known == counted_allele.ALTERNATE else 1 - p.values
    return Frequencies(keys, values, build, known, told_by)


def _assumed(variants: Path) -> tuple[str, str]:
    """Which allele P counts where neither the files nor the caller say."""
    if variants.suffix == ".bim":
        return counted_allele.REFERENCE, "as ADMIXTURE has it"
    return counted_allele.ALTERNATE, "as exports have it"


def make_model(
    frequencies: Frequencies,
    output: Location,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    overwrite: bool = False,
) -> None:
    """Make a model store of given frequencies.

    Frequencies stay as far from 0 and 1 as those of a fit, just under 1e-5.

    Parameters
    ----------
    frequencies
        P and its variants.
    output
        The model store to make.
    config
        Layers of the encoder, and the seed.
    cluster
        A worker trains the encoder.
    overwrite
        Replace a model that is there.

    Raises
    ------
    InputError
        If the output exists.
    """
    values = frequencies.values.astype(np.float64)
    p = values.clip(MIN_FREQUENCY, 1 - MIN_FREQUENCY).astype(np.float32)
    layers = AncestryEstimatorConfig(
        n_snps=p.shape[1],
        n_populations=p.shape[0],
        hidden_dims=config.train.hidden_dims,
        dropout_rate=0.0,
    )
    inputs = {
        "frequencies": provenance.digest(p.tolist()),
        "variants": provenance.digest([v.tolist() for v in frequencies.keys.values()]),
        # Nothing else of the configuration is used.
        "configuration": {
            "seed": config.seed,
            "fit": {"method": GIVEN, "n_populations": len(p)},
            "train": config.as_json()["train"],
        },
        "versions": provenance.package_versions(),
    }
    attrs = {
        "method": GIVEN,
        "genome_build": frequencies.genome_build,
        "counted_allele": frequencies.counted_allele,
        "config": inputs["configuration"],
        "stamp": provenance.digest(inputs),
        "provenance": {"versions": inputs["versions"]},
    }
    options = {"resume": False, "overwrite": overwrite}
    with open_store_workspace(output, "model.zarr", **options) as workspace:
        file = workspace.building("frequencies.npy")
        with replacing(file) as opened:
            np.save(opened, p)
        if config.train.encoder:
            with cluster as workers:
                task = workers.submit(_distil, file, layers, config.seed)
                encoder = Encoder(layers, *workers.result(task))
        else:
            # Nobody's Q is known: the middle, where the prior has its mean.
            encoder = without_training(np.full(len(p), 1 / len(p)), p)
        model = bundle.Model(p, encoder)
        path = workspace.building("model.zarr")
        bundle.write_model(path, frequencies.keys, model, attrs)
        file.unlink()
        workspace.publish()


def _distil(
    file: Location, layers: AncestryEstimatorConfig, seed: int
) -> prior.Distilled:
    return prior.distil_from_prior(layers, checkpoint.load_array(file), seed=seed)
