import numpy as np
import pytest

from pipeline.contigs import are_presumed, informative

AUTOSOMES = ["1", "22", "chr1", "Chr22", "NC_000001.11", "scaffold_12", "HiC_X1", "2L"]
X = ["X", "chrX", "x", "CHRX", "23", "chr23", "NC_000023.11", "XY", "25", "PAR1"]
OTHER = ["Y", "chrY", "24", "26", "MT", "M", "chrM", "NC_012920.1", "chrY_KI270740v1"]


@pytest.mark.parametrize("include_x", [False, True])
def test_informative__tells_chromosomes_apart(include_x):
    def kept(names: list[str]) -> set[bool]:
        each = [informative(np.array([n]), include_x=include_x) for n in names]
        return set(np.concatenate(each).tolist())

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


NUMBERS = [str(number) for number in range(1, 27)]


@pytest.mark.parametrize("named", ["X", "chrY", "MT", "M", "chrM", "XY"])
def test_informative__numbers_are_autosomes_where_sex_chromosomes_have_names(named):
    names = np.array([*NUMBERS, named])
    kept = informative(names, include_x=False)
    assert names[~kept].tolist() == [named]
    assert not are_presumed(names)


@pytest.mark.parametrize(
    ("n_autosomes", "without", "with_x"),
    [
        (25, ["26"], []),
        (26, [], []),
        (22, ["23", "24", "25", "26"], ["24", "26"]),
        (20, ["21", "22", "23", "24", "25", "26"], ["22", "24", "25", "26"]),
    ],
)
def test_informative__takes_the_number_of_autosomes(n_autosomes, without, with_x):
    names = np.array(NUMBERS)
    for include_x, left_out in ((False, without), (True, with_x)):
        kept = informative(names, include_x=include_x, n_autosomes=n_autosomes)
        assert names[~kept].tolist() == left_out


def test_informative__takes_dogs_as_plink_numbers_them():
    names = np.array(["chr38", "39", "40", "41", "42", "43", "X", "scaffold_9"])
    kept = informative(names, include_x=True, n_autosomes=38)
    assert names[kept].tolist() == ["chr38", "39", "41", "X", "scaffold_9"]


def test_are_presumed__only_where_numbers_are_mans_alone():
    assert are_presumed(np.array(["1", "23"]))
    assert not are_presumed(np.array(["1", "22"]))
    assert not are_presumed(np.array(["1", "23", "27"]))
