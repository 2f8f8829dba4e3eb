import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.variant_blocks import plan_variant_blocks

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@given(LENGTHS, st.integers(2, 200))
def test_plan_variant_blocks__no_block_is_empty_or_crosses_a_contig(lengths, n_blocks):
    contigs = np.repeat([f"c{i}" for i in range(len(lengths))], lengths)
    bounds = plan_variant_blocks(contigs, n_blocks)
    assert bounds[0] == 0
    assert bounds[-1] == len(contigs)
    assert (np.diff(bounds) > 0).all()
    assert set(np.cumsum(lengths)) <= set(bounds.tolist())


@given(st.integers(1, 10_000), st.integers(2, 200))
def test_plan_variant_blocks__are_alike_on_one_contig(n_variants, n_blocks):
    sizes = np.diff(plan_variant_blocks(["1"] * n_variants, n_blocks))
    assert len(sizes) == min(n_blocks, n_variants)
    assert sizes.max() - sizes.min() <= 1
