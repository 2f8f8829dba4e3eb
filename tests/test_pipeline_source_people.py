"""Tables that name the people: which ids are taken, and that two tables agree."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click.testing
import numpy as np
import pytest
import xarray as xr

from pipeline import cli, ingest, source_people
from pipeline.config import FID_IID, SourceConfig
from pipeline.errors import InputError
from tests import source_files

CALLS = source_files.admixed_calls(20, 6)
PEOPLE = CALLS.people
SWAPPED = [PEOPLE[0], PEOPLE[2], PEOPLE[1], *PEOPLE[3:]]


def sample_file(people: Sequence[str], families: Sequence[str] | None = None) -> str:
    families = families or ["0"] * len(people)
    rows = [f"{f} {p} 0 NA\n" for f, p in zip(families, people, strict=True)]
    return "ID_1 ID_2 missing sex\n0 0 0 D\n" + "".join(rows)


def fam_file(people: Sequence[str], families: Sequence[str] | None = None) -> str:
    families = families or ["F"] * len(people)
    rows = zip(families, people, strict=True)
    return "".join(f"{family} {person} 0 0 0 -9\n" for family, person in rows)


def imported_ids(source: Path, sample_id: str = "iid") -> list[str]:
    store = source.with_name("imported.vcz")
    config = SourceConfig(sample_id=sample_id)
    ingest.ingest(source, store, config=config, n_workers=0, overwrite=True)
    with xr.open_zarr(store, chunks=None, mask_and_scale=False) as dataset:
        return list(dataset["sample_id"].values.tolist())


@pytest.mark.parametrize(
    "text",
    [
        sample_file(PEOPLE),
        sample_file(PEOPLE).replace("0 0 0 D\n", ""),
        "".join(f"0 {person} 0\n" for person in PEOPLE),
        "".join(f"{person}\n" for person in PEOPLE),
        "ID missing\n0 0\n" + "".join(f"{person} 0\n" for person in PEOPLE),
        "#FID IID\n0 0\n" + "".join(f"F {person}\n" for person in PEOPLE),
        "id_1 id_2\n" + "".join(f"{person} x{person}\n" for person in PEOPLE),
    ],
    ids=["whole", "one-line", "headless", "one-column", "id", "fid-iid", "id-1-inside"],
)
@pytest.mark.parametrize("ids", [True, False])
def test_bgen__takes_the_sample_file_with_and_without_header(
    tmp_path: Path, text: str, ids: bool
):
    bgen = source_files.write_bgen(tmp_path / "c.bgen", CALLS, ids=ids)
    bgen.with_suffix(".sample").write_text(text)
    prefix = "x" if "id_1 id_2" in text else ""
    assert imported_ids(bgen) == [f"{prefix}{person}" for person in PEOPLE]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (sample_file(SWAPPED), r"person 2 'person2', and .*c.bgen itself 'person1'"),
        (sample_file([*PEOPLE[:5], "x"]), "person 6 'x', and .* itself 'person5'"),
        ("".join(f"{p}\n" for p in SWAPPED), "person 2 'person2', and"),
        (sample_file(PEOPLE[:5]), "c.sample names 5 people, and .*c.bgen is of 6"),
        ("ID_1 ID_2\n0 0\n", "c.sample names no people"),
        ("", "c.sample names no people"),
        (sample_file(PEOPLE).replace("0 person3", "person3"), "line 6 has 3 columns"),
    ],
)
def test_bgen__refuses_a_sample_file_of_other_people(
    tmp_path: Path, text: str, message: str
):
    bgen = source_files.write_bgen(tmp_path / "c.bgen", CALLS)
    bgen.with_suffix(".sample").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        imported_ids(bgen)
    if "itself" in str(caught.value):
        # What the message says to do about it.
        bgen.with_suffix(".sample").unlink()
        assert imported_ids(bgen) == PEOPLE


@pytest.mark.parametrize(
    "own",
    [
        [f"F_{person}" for person in PEOPLE],
        [f"F:{person}" for person in PEOPLE],
        [f"(anonymous_sample_{number + 1})" for number in range(6)],
    ],
)
def test_bgen__knows_what_programs_write_inside(own: list[str]):
    people = source_people.People(Path("c.sample"), PEOPLE, ["F"] * len(PEOPLE))
    source_people.check_own_ids(Path("c.bgen"), own, people)


@pytest.mark.parametrize(
    ("name", "write", "other"),
    [
        ("c.bed", source_files.write_bed, ".psam"),
        ("c.pgen", source_files.write_pgen, ".fam"),
    ],
)
@pytest.mark.parametrize(
    ("people", "families", "message"),
    [
        (SWAPPED, None, "names person 2 'person1', and .* beside it 'person2'"),
        (PEOPLE, [*"FFFFFG"], "names person 6 'F', and .* beside it 'G'"),
        (PEOPLE[:4], None, "names 6 people, and .* beside it 4"),
        (PEOPLE, ["0"] * 6, None),
        (PEOPLE, None, None),
    ],
)
def test_import__compares_tables_of_both_versions_of_plink(
    tmp_path: Path,
    name: str,
    write: Callable[[Path, source_files.Calls], Path],
    other: str,
    people: list[str],
    families: list[str] | None,
    message: str | None,
):
    source = write(tmp_path / name, CALLS)
    source.with_suffix(other).write_text(fam_file(people, families))
    if message is None:
        assert imported_ids(source) == PEOPLE
        return
    with pytest.raises(InputError, match=message):
        imported_ids(source)
    source.with_suffix(other).unlink()
    assert imported_ids(source) == PEOPLE


def test_import__a_smaller_fileset_of_the_same_name_is_another_cohort(tmp_path: Path):
    pgen = source_files.write_pgen(tmp_path / "c.pgen", CALLS)
    fewer = source_files.Calls(CALLS.counts[:, :4], CALLS.contigs, CALLS.positions)
    bed = source_files.write_bed(tmp_path / "c.bed", fewer)
    assert imported_ids(pgen) == PEOPLE
    assert imported_ids(bed) == PEOPLE[:4]


def families(source: Path) -> list[str]:
    """Give a fileset five people who are in two families and are called 1 and 2."""
    names, numbers = ["F1", "F1", "F2", "F2", "F3", "F3"], [*"121212"]
    table = source.with_suffix({".bed": ".fam", ".pgen": ".psam"}[source.suffix])
    header = "#FID IID PAT MAT SEX P\n" if table.suffix == ".psam" else ""
    table.write_text(header + fam_file(numbers, names))
    return [f"{name}_{number}" for name, number in zip(names, numbers, strict=True)]


@pytest.mark.parametrize(
    ("name", "write"),
    [("c.bed", source_files.write_bed), ("c.pgen", source_files.write_pgen)],
)
def test_sample_id__family_and_individual_ids_together(
    tmp_path: Path, name: str, write: Callable[[Path, source_files.Calls], Path]
):
    source = write(tmp_path / name, CALLS)
    wanted = families(source)
    output = str(tmp_path / "c.vcz")
    command = ["import", str(source), "--output", output, "--workers", "0"]
    runner = click.testing.CliRunner()
    refused = runner.invoke(cli.main, command)
    assert refused.exit_code == 2
    assert "the id '1' is in both row 1 and row 3; pass --sample-id fid_iid" in (
        refused.stderr
    )
    result = runner.invoke(cli.main, [*command, "--sample-id", "fid_iid"])
    assert result.exit_code == 0, result.output
    with xr.open_zarr(output, chunks=None, mask_and_scale=False) as dataset:
        assert dataset["sample_id"].values.tolist() == wanted
        counts = dataset["call_genotype"].values
    expected = np.where(CALLS.counts < 0, -2, CALLS.counts)
    np.testing.assert_array_equal(counts.sum(axis=2), expected)


def test_sample_id__of_a_sample_file(tmp_path: Path):
    bgen = source_files.write_bgen(tmp_path / "c.bgen", CALLS, ids=False)
    text = sample_file([*"121212"], ["F1", "F1", "F2", "F2", "F3", "F3"])
    bgen.with_suffix(".sample").write_text(text)
    assert imported_ids(bgen, FID_IID)[:3] == ["F1_1", "F1_2", "F2_1"]
    with pytest.raises(InputError, match="pass --sample-id fid_iid"):
        imported_ids(bgen)


def test_sample_id__that_do_not_tell_people_apart_are_to_be_renamed(tmp_path: Path):
    bed = source_files.write_bed(tmp_path / "c.bed", CALLS)
    bed.with_suffix(".fam").write_text(fam_file([*"112345"]))
    with pytest.raises(InputError, match="'1' is in both .* rename or remove one"):
        imported_ids(bed)
    with pytest.raises(InputError, match="'F_1' is in both .* rename or remove one"):
        imported_ids(bed, FID_IID)


def test_sample_id__is_refused_where_there_are_no_families(tmp_path: Path):
    bgen = source_files.write_bgen(tmp_path / "c.bgen", CALLS)
    with pytest.raises(InputError, match="no family ids; leave --sample-id fid_iid"):
        imported_ids(bgen, FID_IID)


def test_import__reads_a_pgen_with_the_tables_of_plink_1(tmp_path: Path):
    pgen = source_files.write_pgen(tmp_path / "c.pgen", CALLS)
    bed = source_files.write_bed(tmp_path / "d.bed", CALLS)
    for suffix in (".pvar", ".psam"):
        pgen.with_suffix(suffix).unlink()
    for suffix in (".bim", ".fam"):
        bed.with_suffix(suffix).rename(pgen.with_suffix(suffix))
    assert imported_ids(pgen) == PEOPLE
    store = tmp_path / "imported.vcz"
    with xr.open_zarr(store, chunks=None, mask_and_scale=False) as dataset:
        assert dataset["variant_allele"].values[0].tolist() == ["A", "G"]
        assert dataset["variant_id"].values.tolist() == CALLS.names
        assert dataset["sample_family_id"].values.tolist() == ["F"] * len(PEOPLE)
        counts = dataset["call_genotype"].values.sum(axis=2)
    np.testing.assert_array_equal(counts, np.where(CALLS.counts < 0, -2, CALLS.counts))
