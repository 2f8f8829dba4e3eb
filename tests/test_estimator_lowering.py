"""Every compiled function of the estimator also lowers for CUDA, at a cohort's size.

A case of the table is a function, and the shapes that it has in a fit of a million
variants on one GPU. A compiled function without a case fails the tests.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.export
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import estimator
from estimator import (
    basis,
    block_scores,
    centred,
    encoder,
    few_calls,
    joint,
    likelihood,
    model,
    packing,
    projection,
    quadratic,
    residuals,
    tiling,
    training,
    uncertainty,
)
from estimator.config import AncestryEstimatorConfig

K, PAIRS, HIDDEN, N_ROWS = 8, 36, 128, 18
TILE = tiling.tile_shape("gpu")
N_PEOPLE = 4 * TILE.people
N_TILES = 32
N_BYTES = N_TILES * TILE.width
N_VARIANTS = 1_000_000
CONFIG = AncestryEstimatorConfig(n_snps=N_VARIANTS, n_populations=K)


def f32(*shape) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def f64(*shape) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float64)


PACKED: Any = jax.ShapeDtypeStruct((N_PEOPLE, N_BYTES), jnp.uint8)
WIDER = [encoding.dtype for encoding in packing.ENCODINGS[1:]]
GENOTYPES = jax.ShapeDtypeStruct((N_PEOPLE, N_VARIANTS), jnp.int8)
Q = f32(N_PEOPLE, K)
P = f32(K, N_VARIANTS)
P_TILES = f32(N_TILES, 4, K, TILE.width)
F_TILES = f32(N_TILES, 4, 1, TILE.width)


def abstract_weights():
    return jax.eval_shape(partial(training.initial_weights, CONFIG, seed=0))


def abstract_gradient():
    return training.MinibatchGradient(abstract_weights(), f32(), f32())


SCHEDULE = {"learning_rate": 1e-3, "n_steps": 1000}


def abstract_training():
    start = partial(training.start_training, **SCHEDULE)
    return jax.eval_shape(start, abstract_weights())


JOINT = joint.JointSchedule(1e-3, 0.1, 1000)


def i32() -> Any:
    return jax.ShapeDtypeStruct((), jnp.int32)


def abstract_joint():
    return joint.JointState(abstract_training(), P, f32(K, K))


def abstract_joint_gradient():
    return joint.JointGradient(abstract_gradient(), P, f32(K, K), f64(), f64())


def quadratic_case(n_problems, sum_is_fixed):
    vectors = f32(K, n_problems)
    arguments = (vectors, f32(K, K, n_problems), vectors, vectors)
    return quadratic.solve_quadratic, arguments, {"sum_is_fixed": sum_is_fixed}


def basis_case(n, simplex):
    held: Any = jax.ShapeDtypeStruct((n,), jnp.bool_)
    models = basis.Models(f32(K, n), f32(K, n), f32(PAIRS, n), held)
    change = basis.Change(f32(K, K), f32(K, K))
    return models, change, {"simplex": simplex}


def step_case(n, simplex):
    models, change, options = basis_case(n, simplex)
    return basis.step_in_basis, (models, change), options


def surface_case(n, simplex):
    models, change, options = basis_case(n, simplex)
    return basis.surface, (models, change), options


def pull_case(n, simplex):
    models, _, options = basis_case(n, simplex)
    return basis.pull, (models, f32(K, n)), options


def block_pieces():
    shape: Any = jax.ShapeDtypeStruct((128,), jnp.int64)
    return block_scores.BlockPieces(shape, shape, shape, f32(128))


N_REFERENCES, CHECK_TILES = 512, 2
CHECK_TILE = tiling.TileShape(TILE.people, 2048)


def check_tiles(n_rows):
    return f32(CHECK_TILES, 4, n_rows, CHECK_TILE.width)


def panel():
    return residuals.Panel(check_tiles(K), check_tiles(N_REFERENCES), check_tiles(1))


def minibatch():
    return training.Minibatch(PACKED, f32(N_PEOPLE), f32(N_PEOPLE, K), Q)


def key():
    return jax.eval_shape(lambda: jax.random.key(0))


TILED = {"tile": TILE}
CASES = {
    "solve_quadratic on the simplex": lambda: quadratic_case(N_PEOPLE, True),
    "solve_quadratic in the box": lambda: quadratic_case(N_VARIANTS, False),
    "ancestry_statistics": lambda: (
        likelihood.ancestry_statistics,
        (PACKED, Q, P_TILES),
        TILED,
    ),
    "frequency_statistics": lambda: (
        likelihood.frequency_statistics,
        (PACKED, Q, P_TILES),
        TILED,
    ),
    "centred_times": lambda: (
        centred.centred_times,
        (PACKED, F_TILES, f32(N_TILES, 4, N_ROWS, TILE.width)),
        TILED,
    ),
    "centred_transposed_times": lambda: (
        centred.centred_transposed_times,
        (PACKED, F_TILES, f32(N_PEOPLE, N_ROWS)),
        TILED,
    ),
    "step_in_basis of ancestry": lambda: step_case(N_PEOPLE, True),
    "step_in_basis of frequencies": lambda: step_case(N_VARIANTS, False),
    "surface of ancestry": lambda: surface_case(2_048, True),
    "surface of frequencies": lambda: surface_case(8_192, False),
    "pull of ancestry": lambda: pull_case(N_PEOPLE, True),
    "pull of frequencies": lambda: pull_case(N_VARIANTS, False),
    "_project": lambda: (projection._project, (PACKED, Q, P_TILES, i32()), TILED),
    "encoder_features": lambda: (
        training.encoder_features,
        (PACKED, f32(N_PEOPLE), N_VARIANTS, F_TILES, P_TILES),
        TILED,
    ),
    "encode": lambda: (
        training.encode,
        (CONFIG, abstract_weights(), f32(N_PEOPLE, K)),
        {},
    ),
    "_distill": lambda: (
        training._distill,
        (abstract_weights(), f32(N_PEOPLE, K), Q, key(), CONFIG, 2000),
        {},
    ),
    "minibatch_gradient": lambda: (
        training.minibatch_gradient,
        (abstract_weights(), minibatch(), P_TILES, CONFIG, TILE),
        {},
    ),
    "start_training": lambda: (
        training.start_training,
        (abstract_weights(),),
        SCHEDULE,
    ),
    "update": lambda: (
        training.update,
        (abstract_training(), abstract_gradient()),
        SCHEDULE,
    ),
    "likelihood_slopes": lambda: (
        likelihood.likelihood_slopes,
        (PACKED, Q, P_TILES),
        TILED,
    ),
    "start_joint": lambda: (
        joint.start_joint,
        (abstract_weights(), P, f32(K, K)),
        {"schedule": JOINT},
    ),
    "joint_gradient": lambda: (
        joint.joint_gradient,
        (abstract_weights(), PACKED, f32(N_PEOPLE), Q, P_TILES, CONFIG, TILE),
        {},
    ),
    "joint_update": lambda: (
        joint.joint_update,
        (abstract_joint(), abstract_joint_gradient(), i32()),
        {"schedule": JOINT},
    ),
    "block_scores": lambda: (
        block_scores.block_scores,
        (PACKED, Q, P_TILES, block_pieces()),
        {"tile": TILE, "width": 2000},
    ),
    "standard_errors": lambda: (
        uncertainty.standard_errors,
        (Q, f32(N_PEOPLE, PAIRS), Q, f32(N_PEOPLE, PAIRS)),
        {
            "error": uncertainty.PopulationError(f32(K, K), f32(K, K, K), f32(K, K)),
            "n_called": f32(N_PEOPLE),
        },
    ),
    "profile_errors": lambda: (
        few_calls.profile_errors,
        (Q, f32(N_PEOPLE, PAIRS), Q),
        {},
    ),
    "reference_residuals": lambda: (
        residuals.reference_residuals,
        (PACKED, Q, check_tiles(K)),
        {"tile": CHECK_TILE},
    ),
    "residual_sums": lambda: (
        residuals.residual_sums,
        (PACKED, Q, panel()),
        {"tile": CHECK_TILE},
    ),
    "frequencies_to_logits": lambda: (model.frequencies_to_logits, (P,), {}),
    "logits_to_frequencies": lambda: (model.logits_to_frequencies, (P,), {}),
    "observed_counts": lambda: (encoder.observed_counts, (GENOTYPES,), {}),
    "standardise": lambda: (encoder.standardise, (GENOTYPES, f32(N_VARIANTS)), {}),
    "_activation": lambda: (encoder._activation, (f32(N_PEOPLE, HIDDEN),), {}),
    "_tempered_softmax": lambda: (encoder._tempered_softmax, (Q, f32()), {}),
}


def lower(function, arguments, options):
    exported = jax.export.export(function, platforms=("cuda",))(*arguments, **options)
    assert exported.platforms == ("cuda",)
    return exported


def compiled_functions():
    """Return what `jax.jit` made anywhere in the package, by qualified name."""
    compiled_type: Any = type(jax.jit(np.sin))
    found: dict[str, Any] = {}
    for module_info in pkgutil.iter_modules(estimator.__path__, "estimator."):
        module = importlib.import_module(module_info.name)
        owners: list[Mapping[str, Any]] = [vars(module)]
        owners += [vars(c) for c in vars(module).values() if inspect.isclass(c)]
        for owner in owners:
            for value in owner.values():
                if isinstance(value, compiled_type):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return {name: f for name, f in found.items() if name.startswith("estimator.")}


@pytest.mark.optax
@pytest.mark.parametrize("case", CASES)
def test_lower__for_cuda(case):
    assert lower(*CASES[case]()).mlir_module_serialized


def takes_genotypes(case):
    leaves = jax.tree.leaves(CASES[case]()[1])
    return any(leaf is PACKED for leaf in leaves)


@pytest.mark.optax
@pytest.mark.parametrize("dtype", WIDER, ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if takes_genotypes(case)])
def test_lower__for_cuda_with_every_encoding(case, dtype):
    wider = jax.ShapeDtypeStruct(PACKED.shape, dtype)
    function, arguments, options = CASES[case]()
    arguments = jax.tree.map(lambda leaf: wider if leaf is PACKED else leaf, arguments)
    assert lower(function, arguments, options).mlir_module_serialized


def test_lower__every_compiled_function_has_a_case():
    functions = [make()[0] for make in CASES.values()]
    covered = {f"{f.__module__}.{f.__qualname__}" for f in functions}
    assert covered == set(compiled_functions())


def test_lower__the_estimator_for_cuda():
    def make():
        return model.DifferentiableAncestryEstimator(CONFIG, rngs=nnx.Rngs(0))

    graph, state = nnx.split(nnx.eval_shape(make))

    @jax.jit
    def apply(state, genotypes):
        estimator = nnx.merge(graph, state)
        return estimator.apply({"genotypes": genotypes}, {}, None)[0]

    exported = lower(
        apply, (state, jax.ShapeDtypeStruct((64, N_VARIANTS), jnp.int8)), {}
    )
    assert (64, K) in [out.shape for out in exported.out_avals]


@pytest.mark.parametrize("k", [1, 22])
def test_lower__projection_for_other_numbers_of_populations(k):
    q, tiles = f32(N_PEOPLE, k), f32(N_TILES, 4, k, TILE.width)
    exported = lower(projection._project, (PACKED, q, tiles, i32()), TILED)
    assert [out.shape for out in exported.out_avals] == [(N_PEOPLE, k), (N_PEOPLE,)]


def test_lower__no_matrix_of_people_by_variants_in_floating_point():
    traced = likelihood.ancestry_statistics.trace(PACKED, Q, P_TILES, tile=TILE)
    largest = max(floating_sizes(traced.jaxpr.jaxpr))
    assert TILE.people * TILE.width <= largest < N_PEOPLE * N_VARIANTS / 50


def floating_sizes(jaxpr):
    """Yield the size of every floating-point value that a program computes."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            if jnp.issubdtype(variable.aval.dtype, jnp.floating):
                yield variable.aval.size
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from floating_sizes(inner)
