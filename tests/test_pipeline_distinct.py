import numpy as np
import pytest

from pipeline.distinct import check_distinct
from pipeline.errors import InputError
from tests import helpers

GENOTYPES = helpers.random_genotypes(4, 3)


def cohort(folder, positions, alleles, contigs=(0, 0, 0, 0)):
    return helpers.small_cohort(
        folder,
        GENOTYPES,
        variant_position=np.array(positions, np.int32),
        variant_contig=np.array(contigs, np.int8),
        contig_id=helpers.text(["1", "X"]),
        variant_allele=helpers.text(alleles),
    )


@pytest.mark.parametrize("alleles", [["A", "C"], ["C", "A"]])
def test_check_distinct__names_the_two(tmp_path, alleles):
    found = cohort(
        tmp_path, [9, 5, 9, 7], [["A", "C"], ["G", "T"], alleles, ["G", "T"]]
    )
    message = rf"variants 0 and 2 are both 1:9:{':'.join(alleles)}; keep one of them"
    with pytest.raises(InputError, match=message):
        check_distinct(found)


def test_check_distinct__place_and_alleles_must_both_agree(tmp_path):
    alleles = [["A", "C"], ["A", "G"], ["A", "C"], ["A", ""]]
    check_distinct(cohort(tmp_path, [9, 9, 9, 9], alleles, contigs=(0, 0, 1, 0)))
