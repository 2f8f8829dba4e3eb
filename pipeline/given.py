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
from pipeline import bundle, checkpoint, genome_build, provenance, schema
from pipeline.config import GIVEN, RunConfig
from pipeline.errors import InputError
from pipeline.location import Location, replacing
from pipeline.tasks import Cluster
from pipeline.train import Encoder
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
    """

    keys: Mapping[str, npt.NDArray[Any]]
    values: npt.NDArray[np.floating]
    genome_build: str = genome_build.UNKNOWN

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
    table: Path, variants: Path, build: str = genome_build.UNKNOWN
) -> Frequencies:
    """Read P as ADMIXTURE and `streamixture export` write it, and its variants.

    Parameters
    ----------
    table
        A line a variant with the frequency in each population. With a .bim file it is
        that of allele 2 (the sixth column), as ADMIXTURE has it; else of the alternate
        allele, as `streamixture export` has it.
    variants
        The .bim file of the genotypes that ADMIXTURE read, or PREFIX.variants of an
        export.
    build
        Genome build of the positions.

    Raises
    ------
    InputError
        If a file cannot be read, or they do not fit one another.
    """
    values = _read_table(table)
    is_plink = variants.suffix == ".bim"
    keys = _read_variants(variants, is_plink=is_plink)
    if len(keys["variant_position"]) != values.shape[1]:
        raise InputError(
            f"{table} has {values.shape[1]} lines and {variants} "
            f"{len(keys['variant_position'])} variants; give the files of one fit"
        )
    return Frequencies(keys, 1 - values if is_plink else values, build)


def _read_table(path: Path) -> npt.NDArray[np.float64]:
    lines = _read_text(path).splitlines()
    if not lines:
        raise InputError(f"{path} is empty; give a table of frequencies")
    try:
        return np.loadtxt(lines, ndmin=2).T
    except ValueError as error:
        raise InputError(f"{path} is not a table of numbers: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the path") from error


# Columns of contig, position, id, reference and alternate allele.
_PLINK_COLUMNS, _EXPORT_COLUMNS = (0, 3, 1, 5, 4), (0, 1, 2, 3, 4)


def _read_variants(path: Path, *, is_plink: bool) -> dict[str, npt.NDArray[Any]]:
    columns = _PLINK_COLUMNS if is_plink else _EXPORT_COLUMNS
    lines = _read_text(path).splitlines()[0 if is_plink else 1 :]
    rows = []
    for number, line in enumerate(filter(str.strip, lines), start=1):
        found = line.split() if is_plink else line.split("\t")
        if len(found) <= max(columns) or not found[columns[1]].isdecimal():
            raise InputError(
                f"{path} variant {number} is {line!r}; it needs contig, position, id "
                "and two alleles"
            )
        rows.append([found[column] for column in columns])
    table = np.array(rows, np.str_).reshape(-1, len(columns))
    return {
        "variant_contig_name": table[:, 0],
        "variant_position": table[:, 1].astype(np.int64),
        "variant_allele": table[:, 3:],
        "variant_id": table[:, 2],
    }


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
        "config": inputs["configuration"],
        "stamp": provenance.digest(inputs),
        "provenance": {"versions": inputs["versions"]},
    }
    options = {"resume": False, "overwrite": overwrite}
    with open_store_workspace(output, "model.zarr", **options) as workspace:
        file = workspace.building("frequencies.npy")
        with replacing(file) as opened:
            np.save(opened, p)
        with cluster as workers:
            task = workers.submit(_distil, file, layers, config.seed)
            model = bundle.Model(p, Encoder(layers, *workers.result(task)))
        path = workspace.building("model.zarr")
        bundle.write_model(path, frequencies.keys, model, attrs)
        file.unlink()
        workspace.publish()


def _distil(
    file: Location, layers: AncestryEstimatorConfig, seed: int
) -> prior.Distilled:
    return prior.distil_from_prior(layers, checkpoint.load_array(file), seed=seed)
