"""Newcomers from the populations of a cohort that was simulated before.

Reads the frequencies and the variants of its store; pure arithmetic beside that.
Invariant: P and the variants are the store's, and Q is drawn from the seed alone.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import publication, store, zarr_files
from pipeline.errors import InputError
from pipeline.location import Location, locate
from pipeline.truth import (
    INDEPENDENT,
    NEWCOMER_STREAM,
    TRUTH_STREAM,
    SimulatedCohort,
    check_parameters,
    random_generator,
)

_FREQUENCY = "simulated_population_frequency"


def draw_newcomers(
    truth: str | Location, n_samples: int, *, dirichlet: float = 0.25, seed: int
) -> SimulatedCohort:
    """Draw the ancestry of people from the populations of a simulated store.

    Their genotypes share no random number with those of the store's people, whatever
    the seeds, and their ids name the seed.

    Parameters
    ----------
    truth
        A store of ``streamixture simulate``, of independent variants.
    n_samples
        How many people.
    dirichlet
        Concentration of the Dirichlet that a person's ancestry comes from.
    seed
        Seed, at least 0.

    Raises
    ------
    InputError
        If the store is none, its variants are linked, or people of that seed are in
        it.
    """
    check_parameters(n_samples=n_samples, dirichlet=dirichlet, seed=seed)
    path = publication.resolve(locate(truth))
    if not (path / _FREQUENCY / ".zarray").is_file():
        raise InputError(
            f"{path} has no {_FREQUENCY}; name a store of `streamixture simulate`"
        )
    attrs = store.group_attrs(str(path))
    parameters = attrs.get("simulation", {})
    if parameters.get("model") != INDEPENDENT:
        raise InputError(
            f"{path} has linked variants, which frequencies do not give again; "
            "simulate a larger cohort, and set some of its people apart"
        )
    prefix = f"N{seed}_"
    ids = _read(path, "sample_id").astype(str).tolist()
    if any(each.startswith(prefix) for each in ids):
        raise InputError(f"{path} has people of seed {seed}; give another --seed")
    frequencies = _read(path, _FREQUENCY).T
    generator = random_generator(seed, NEWCOMER_STREAM, TRUTH_STREAM)
    ancestry = generator.dirichlet(np.full(len(frequencies), dirichlet), n_samples)
    founders = parameters.get("founders", parameters)
    return SimulatedCohort(
        ancestry=ancestry,
        frequencies=frequencies,
        contig=_read(path, "variant_contig").astype(np.int32),
        position=_read(path, "variant_position").astype(np.int32),
        parameters={"model": INDEPENDENT, "dirichlet": dirichlet, "founders": founders},
        alleles=_read(path, "variant_allele").astype(str),
        id_prefix=prefix,
        stream=(NEWCOMER_STREAM,),
    )


def _read(path: Location, name: str) -> npt.NDArray[Any]:
    return zarr_files.read(path, store.open_array(str(path), name), ())
