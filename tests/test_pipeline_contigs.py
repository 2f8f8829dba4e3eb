import numpy as np
import pytest

from pipeline.contigs import informative

AUTOSOMES = ["1", "22", "chr1", "Chr22", "NC_000001.11", "scaffold_12", "HiC_X1", "2L"]
X = ["X", "chrX", "x", "CHRX", "23", "chr23", "NC_000023.11", "XY", "25", "PAR1"]
OTHER = ["Y", "chrY", "24", "26", "MT", "M", "chrM", "NC_012920.1", "chrY_KI270740v1"]


@pytest.mark.parametrize("include_x", [False, True])
def test_informative__tells_chromosomes_apart(include_x):
    def kept(names: list[str]) -> set[bool]:
        return set(informative(np.array(names), include_x=include_x).tolist())

    assert kept(AUTOSOMES) == {True}
    assert kept(X) == {include_x}
    assert kept(OTHER) == {False}


@pytest.mark.parametrize(("last", "human"), [(26, True), (27, False), (38, False)])
def test_informative__numbers_are_autosomes_of_species_with_more(last, human):
    names = np.array([f"chr{number}" for number in range(1, last + 1)])
    kept = informative(names, include_x=False)
    assert kept[:22].all()
    assert kept[22:].all() == (not human)
    assert kept[22:].any() == (not human)
