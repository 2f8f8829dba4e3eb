"""What a round does with the sums over its shards: the steps for P and of the basis.

Runs inside the workers. The variants are cut into parts, each a task of its own. A part
first steps P as it is and tells where the basis is pulled (`estimator.basis`); when one
task has chosen the basis from all that was told, people and variants are stepped in it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.absent_alleles import Absent
from estimator.basis import (
    Models,
    change_of_ancestry,
    change_of_frequencies,
    pull,
    step_in_basis,
)
from estimator.basis_choice import BasisObjective, choose_basis
from estimator.packing import VARIANTS_PER_BYTE
from estimator.population_error import population_error
from estimator.tiling import untile_variants
from estimator.uncertainty import PopulationError
from pipeline import checkpoint
from pipeline.location import Location
from pipeline.tasks import Cluster, Future

FloatArray = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

# Variants in one task of the step for P, at most: the step's temporaries are several
# times its arguments, and more tasks than one keep more workers busy.
STEP_VARIANTS = 16_384
# People and variants whose models choose the basis: about as good as all of them.
SAMPLE_PEOPLE = 2_048
SAMPLE_VARIANTS = 8_192
# With many populations fewer, as each takes K^2 values several times over.
_SAMPLE_VALUES = 2**19
_LEAST_SAMPLE = 1_024


class Sums(NamedTuple):
    """What is added over the shards; arrays on the host.

    Derivatives are tiled as the kernels leave them (`tile_variants`).
    """

    log_likelihood: float
    gradient: FloatArray
    hessian: FloatArray


class Share(NamedTuple):
    """What some people or variants tell of the basis: its pull, and their sample."""

    pull: Matrix
    sample: Models


@dataclass(frozen=True)
class Part:
    """Some of the variants, as whole tiles of the sums."""

    index: int
    n_parts: int
    n_variants: int


def add_sums(left: Sums, right: Sums) -> Sums:
    """Add the sums of two shards."""
    return Sums(
        left.log_likelihood + right.log_likelihood,
        left.gradient + right.gradient,
        left.hessian + right.hessian,
    )


def spread_parts(cluster: Cluster, n_variants: int) -> list[tuple[Part, str | None]]:
    """Cut the variants for the tasks of a step, and choose a worker for each."""
    n_parts = -(-n_variants // STEP_VARIANTS)
    parts = [Part(index, n_parts, n_variants) for index in range(n_parts)]
    return list(zip(parts, cluster.spread(n_parts), strict=True))


def sample_stride(n: int, k: int, most: int) -> int:
    """Distance of the people, or variants, that choose the basis.

    >>> sample_stride(5_000, 8, 2_048), sample_stride(100, 8, 2_048)
    (3, 1)
    """
    allowed = min(most, max(_SAMPLE_VALUES // k**2, _LEAST_SAMPLE))
    return -(-n // allowed)


def sample_bytes(k: int) -> int:
    """Memory that choosing the basis takes for K populations.

    >>> sample_bytes(8)
    6651904
    """
    n_models = max(_SAMPLE_VALUES // k**2, _LEAST_SAMPLE)
    n_models = min(n_models, SAMPLE_PEOPLE) + min(n_models, SAMPLE_VARIANTS)
    # The models as they come, together and cut into chunks; the curvature of F.
    return 3 * 4 * (2 * k + k * (k + 1) // 2) * n_models + 8 * 8 * k**4


def share_of(
    models: Models, stepped: FloatArray, chosen: slice, simplex: bool
) -> Share:
    """What some people, or variants, tell of the basis."""
    sample = Models(*(np.ascontiguousarray(each[..., chosen]) for each in models))
    return Share(np.asarray(pull(models, stepped, simplex=simplex)), sample)


def step_variants(
    cluster: Cluster, total: Future, frequencies: Location, n_variants: int
) -> FloatArray:
    """P after its step from the sums at P, which a file holds."""
    told = [
        cluster.submit(relax_variants, total, frequencies, part, worker=worker)
        for part, worker in spread_parts(cluster, n_variants)
    ]
    return np.concatenate([p for p, _ in cluster.results(told)], axis=1)


def relax_variants(
    sums: Sums, frequencies: Location, part: Part
) -> tuple[FloatArray, Share]:
    """Step the P of a part, and tell of the basis."""
    models, n_variants = _models(sums, frequencies, part)
    k = len(models.position)
    stepped = step_in_basis(models, change_of_frequencies(np.eye(k)), simplex=False)
    stride = sample_stride(part.n_variants, k, SAMPLE_VARIANTS)
    first = part.index * models.position.shape[1]
    chosen = slice(-first % stride, n_variants, stride)
    share = share_of(models, stepped, chosen, simplex=False)
    return np.asarray(stepped)[:, :n_variants], share


def move_variants(
    sums: Sums, frequencies: Location, part: Part, basis: Matrix
) -> FloatArray:
    """Step the P of a part in another basis."""
    models, n_variants = _models(sums, frequencies, part)
    stepped = step_in_basis(models, change_of_frequencies(basis), simplex=False)
    return np.asarray(stepped)[:, :n_variants]


def move_people(people: list[Models], n_people: list[int], basis: Matrix) -> FloatArray:
    """Step the Q of the people of some shards, padded, in another basis."""
    change = change_of_ancestry(basis)
    stepped = [
        np.asarray(step_in_basis(of_shard, change, simplex=True))[:, :n]
        for of_shard, n in zip(people, n_people, strict=True)
    ]
    return np.ascontiguousarray(np.concatenate(stepped, axis=1).T)


def _models(sums: Sums, frequencies: Location, part: Part) -> tuple[Models, int]:
    """Models of a part's variants, padded so that one shape is compiled; how many."""
    n_tiles, _, _, width = sums.gradient.shape
    tiles_per_part = -(-n_tiles // part.n_parts)
    tiles = slice(part.index * tiles_per_part, (part.index + 1) * tiles_per_part)
    n_padded = VARIANTS_PER_BYTE * width * tiles_per_part
    first = part.index * n_padded
    p = checkpoint.load_array(frequencies)[:, first : first + n_padded]
    filling = n_padded - p.shape[1]
    gradient, hessian = (
        untile_variants(
            np.pad(of_part, _tile_padding(of_part, tiles_per_part)), n_padded
        )
        for of_part in (sums.gradient[tiles], sums.hessian[tiles])
    )
    position = np.pad(p, ((0, 0), (0, filling)), constant_values=0.5)
    return Models(position, gradient, hessian, np.zeros(n_padded, bool)), p.shape[1]


def _tile_padding(tiles: FloatArray, n_tiles: int) -> list[tuple[int, int]]:
    return [(0, n_tiles - len(tiles)), (0, 0), (0, 0), (0, 0)]


def find_basis(
    people: list[list[Share]],
    variants: list[Share],
    counts: tuple[int, int],
    radius: float,
    path: Location,
) -> Matrix:
    """Choose the basis from what all people and all variants told.

    That of people is written to a file, for `estimate_error` once the fit has ended.
    """
    of_people = list(itertools.chain(*people))
    samples = [_together(shares) for shares in (of_people, variants)]
    pulls = [share.pull for share in (*of_people, *variants)]
    checkpoint.save_people(path, samples[0])
    return choose_basis(
        *samples,
        weights=_weights(samples, counts),
        gradient=np.sum(pulls, axis=0),
        radius=radius,
    )


def rehearse_basis(counts: tuple[int, int], k: int) -> None:
    """Compile what `find_basis` does for so many people, variants and populations."""
    if k == 1:
        # There is no other basis.
        return
    samples: list[Models] = []
    for count, most in zip(counts, (SAMPLE_PEOPLE, SAMPLE_VARIANTS), strict=True):
        n = -(-count // sample_stride(count, k, most))
        uniform, flat = np.full((k, n), 1 / k, np.float32), np.zeros((k, n), np.float32)
        pairs = np.ones((k * (k + 1) // 2, n), np.float32)
        samples.append(Models(uniform, flat, pairs, np.zeros(n, bool)))
    people, variants = samples
    weights = _weights(samples, counts)
    BasisObjective(people, variants, weights).expand(np.eye(k))


def estimate_error(
    path: Location, absent: Absent, information: Matrix, n_called: float
) -> PopulationError:
    """Error of the populations, from the people of the round that was the best."""
    return population_error(
        checkpoint.load_people(path),
        absent,
        information=information,
        n_called=n_called,
    )


def _weights(samples: Sequence[Models], counts: tuple[int, int]) -> tuple[float, float]:
    """People, and variants, that one of the sample stands for."""
    people, variants = samples
    return counts[0] / len(people.held), counts[1] / len(variants.held)


def _together(shares: list[Share]) -> Models:
    samples = [share.sample for share in shares]
    return Models(
        *(np.concatenate(each, axis=-1) for each in zip(*samples, strict=True))
    )
