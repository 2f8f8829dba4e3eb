from pathlib import Path

import numpy as np
import pytest

from pipeline import regions
from pipeline.config import SHIPPED_REGIONS
from pipeline.errors import InputError
from pipeline.regions import Region


@pytest.mark.parametrize("build", SHIPPED_REGIONS)
def test_read_regions__shipped_lists_have_the_known_regions(build: str):
    found = regions.read_regions(build)
    assert len(found) == 24
    assert {region.contig for region in found} == {
        *("1", "2", "3", "5", "6", "7", "8", "10", "11", "12", "20")
    }
    # HLA-A, the lactase gene and the inversion of 8p23 in either build.
    genes = {
        "GRCh37": [("6", 29_910_247), ("2", 136_608_646), ("8", 8_500_000)],
        "GRCh38": [("6", 29_942_470), ("2", 135_851_076), ("8", 8_600_000)],
    }
    for contig, position in genes[build]:
        (hit,) = regions.inside(
            np.array([f"chr{contig}"]), np.array([0]), np.array([position]), found
        )
        assert hit


def test_read_regions__of_the_two_builds_lie_beside_one_another():
    for old, new in zip(*map(regions.read_regions, SHIPPED_REGIONS), strict=True):
        assert old.contig == new.contig
        assert abs(old.start - new.start) < 2.5e6
        assert abs(old.stop - new.stop) < 2.5e6


def test_read_regions__bed_file(tmp_path: Path):
    path = tmp_path / "mine.bed"
    path.write_text("track name=mine\n# a comment\nchr1\t0\t100\tname\n\n2 5 6\n")
    expected = [Region("chr1", 0, 100), Region("2", 5, 6)]
    assert regions.read_regions(str(path)) == expected


@pytest.mark.parametrize("line", ["1\t5", "1\tfive\t6", "1\t6\t5", "1\t-1\t5"])
def test_read_regions__names_the_line_that_is_none(tmp_path: Path, line: str):
    path = tmp_path / "mine.bed"
    path.write_text(f"1\t1\t2\n{line}\n")
    with pytest.raises(InputError, match=r"mine\.bed line 2: .* not a contig"):
        regions.read_regions(str(path))


def test_read_regions__no_such_file():
    with pytest.raises(InputError, match=r"qc\.exclude_regions: GRCh39 cannot be"):
        regions.read_regions("GRCh39")


def test_inside__ends_and_contigs():
    names = np.array(["chr1", "2"])
    numbers = np.array([0, 0, 0, 0, 1])
    positions = np.array([10, 11, 20, 21, 15])
    found = regions.inside(names, numbers, positions, [Region("1", 10, 20)])
    assert found.tolist() == [False, True, True, False, False]
