"""Groups of people from a file, and where they are shown."""

import re
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pandas as pd
import pytest

from pipeline import cli, export, groups, ingest, prepare, report, schema, store
from pipeline.cohort import open_cohort
from pipeline.config import FID, FID_IID, IID, QCConfig
from pipeline.errors import InputError
from pipeline.groups import Placed
from tests import helpers, source_files
from tests.test_pipeline_export import write_ancestry
from tests.test_pipeline_report import dirichlet
from tests.test_pipeline_report import write_ancestry as write_reported

LINES = [("a", "x", "north"), ("b", "y y", "south"), ("c", "x", "")]


def write(folder: Path, text: str) -> Path:
    path = folder / "groups.txt"
    path.write_text(text, encoding="utf-8")
    return path


def place(path: Path, *ids: str, kind: str = IID, **options: Any) -> Placed:
    found = groups.read_groups(path, kind)
    return groups.place_groups(found, np.array(ids), **options)


@pytest.mark.parametrize(
    "header", ["", "iid\tpop\tregion\n", "#anything\tpop\tregion\n"]
)
def test_read_groups__between_tabs_with_and_without_header(tmp_path, header):
    body = "".join("\t".join(line) + "\n" for line in LINES)
    found = place(write(tmp_path, header + body + "\n"), "c", "b", "a")
    assert found.population.tolist() == ["x", "y y", "x"]
    assert found.further[:, 0].tolist() == ["", "south", "north"]
    assert found.columns == (("region",) if header else ("column 3",))


def test_read_groups__between_blanks_of_any_number(tmp_path):
    path = write(tmp_path, "\ufeffIID  pop\r\n a   x\r\nb y \r\n")
    found = place(path, "a", "b")
    assert (found.population.tolist(), found.columns) == (["x", "y"], ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; add lines of an id and a group"),
        ("iid pop\n", "has no line but its header"),
        ("a\n", "line 1: 1 field; write an id and a group"),
        ("a x\nb y z\n", "line 2: 3 fields and line 1 has 2; write the same columns"),
        ("a\tx\nb\t\n", "line 2: 2 fields and line 1 has 2"),
        ("iid pop\na x\nb y\na x\n", "line 4: id 'a' is on line 2 already; keep one"),
    ],
)
def test_read_groups__refuses_naming_the_line(tmp_path, text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        groups.read_groups(write(tmp_path, text))


def test_read_groups__refuses_what_is_no_text(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv: No such file.*; check --groups"):
        groups.read_groups(tmp_path / "none.tsv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8 text; check --groups"):
        groups.read_groups(tmp_path / "binary")


def test_place_groups__counts_who_is_missing_on_either_side(tmp_path, caplog):
    path = write(tmp_path, "a x\nb x\nz y\nw y\n")
    found = place(path, "a", "b", "c")
    assert found.population.tolist() == ["x", "x", groups.NONE]
    (message,) = caplog.messages
    assert message.endswith(
        "1 person of the cohort without a line, 2 lines without anybody in the cohort"
    )
    with pytest.raises(InputError, match="names nobody in the cohort .* --group-id"):
        place(path, "A", "B")


def test_place_groups__by_family_ids(tmp_path):
    path = write(tmp_path, "f1 a x\nf2 a y\n")
    families = ["f2", "f1"]
    by_both = place(path, "a", "a", kind=FID_IID, family_ids=families)
    assert by_both.population.tolist() == ["y", "x"]
    # Ids that an import joined need no families.
    joined = place(path, "f2_a", "f1_a", kind=FID_IID)
    assert joined.population.tolist() == ["y", "x"]
    path = write(tmp_path, "f1 x\nf2 y\n")
    by_family = place(path, "p", "q", kind=FID, family_ids=families)
    assert by_family.population.tolist() == ["y", "x"]
    with pytest.raises(InputError, match="family ids of the cohort are not known"):
        place(path, "p", "q", kind=FID)


def test_report__shows_the_groups_given(tmp_path):
    ancestry = write_reported(tmp_path / "a.zarr", dirichlet(6, 2))
    ids = store.Store.open(ancestry, "ancestry").read("sample_id").tolist()
    text = "iid\tpop\tregion\n" + "".join(f"{i}\tTerra <1>\tMare\n" for i in ids)
    given = groups.read_groups(write(tmp_path, text))
    report.write_report(ancestry, tmp_path / "r.html", groups=given)
    page = (tmp_path / "r.html").read_text()
    assert "Mean ancestry of each region" in page
    assert '<th scope="row" class="text">Terra &lt;1&gt;</th>' in page
    assert '<th scope="row" class="text">Mare</th>' in page


def test_export__has_groups_and_further_columns(tmp_path):
    path = write_ancestry(tmp_path / "a.zarr")
    ancestry = store.Store.open(path, "ancestry", writable=True)
    ancestry.write("sample_population", schema.POPULATION, np.array(["x", "", "y"]))
    further = np.array([["n", "1"], ["", ""], ["s", "2"]])
    ancestry.write("sample_group", schema.GROUPS["sample_group"], further)
    names = np.array(["region", "group"])
    ancestry.write("group_column_id", schema.GROUPS["group_column_id"], names)
    table = pd.read_csv(export.export_admixture(path, tmp_path / "q")[-1], sep="\t")
    assert table.columns[-3:].tolist() == ["group", "region", "group_group"]
    assert table["region"].tolist()[::2] == ["n", "s"]


def test_run__passes_groups_on(tmp_path, monkeypatch):
    path = write(tmp_path, "f a x\n")
    asked: dict[str, Any] = {}

    def run(*_: Any, **options: Any) -> None:
        asked.update(options)
        raise InputError("enough")

    monkeypatch.setattr("pipeline.run.run", run)
    command = ["run", "c.vcz", "--output", str(tmp_path / "out")]
    command += ["--groups", str(path), "--group-id", "fid_iid"]
    click.testing.CliRunner().invoke(cli.main, command)
    assert asked["groups"].lines == {"f_a": ("x",)}


def test_add_groups__are_in_the_prepared_store_of_a_plink_cohort(tmp_path):
    calls = source_files.admixed_calls(60, 12)
    bed = source_files.write_bed(tmp_path / "c.bed", calls)
    ingest.ingest(bed, tmp_path / "c.vcz", n_workers=0)
    cohort = open_cohort(tmp_path / "c.vcz")
    path = write(
        tmp_path, "".join(f"F {p} x {n}\n" for n, p in enumerate(calls.people))
    )
    given = groups.read_groups(path, FID_IID)
    grouped = groups.add_groups(cohort, given, str(bed))
    assert grouped.fingerprint() == cohort.fingerprint()
    prepared = tmp_path / "prepared.zarr"
    config = QCConfig(enabled=False)
    prepare.prepare(grouped, prepared, config, helpers.SerialCluster(), {"stamp": "x"})
    found = store.Store.open(prepared, "prepared")
    assert found.read("sample_population").tolist() == ["x"] * 12
    assert found.read("sample_group")[:, 0].tolist() == [str(n) for n in range(12)]
    assert found.read("group_column_id").tolist() == ["column 4"]


@pytest.mark.soak
def test_run_and_apply__of_a_plink_cohort_show_its_groups(tmp_path):
    """Groups are stored, shown, exported, and change no estimate."""
    calls = source_files.admixed_calls(300, 24)
    bed = source_files.write_bed(tmp_path / "c.bed", calls)
    lines = (f"{p}\tpop{n % 3}\tside{n % 2}\n" for n, p in enumerate(calls.people))
    path = write(tmp_path, "IID\tpop\tside\n" + "".join(lines))

    def streamixture(*arguments: Any) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(cli.main, [*map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result

    out, options = tmp_path / "out", ("--no-qc", "--workers", "1")
    streamixture("run", bed, "--output", out, "-k", 2, "--groups", path, *options)
    page = (out / "report.html").read_text()
    assert "Mean ancestry of each side" in page
    assert page.count(">pop1<") >= 1
    found = store.Store.open(out / "ancestry.zarr", "ancestry")
    assert found.read("sample_population").tolist()[:3] == ["pop0", "pop1", "pop2"]
    again = tmp_path / "again.zarr"
    streamixture("apply", out, bed, "--output", again, "--groups", path, "--workers", 1)
    projected = store.Store.open(again, "ancestry")
    for name in ("sample_population", "sample_group", "group_column_id"):
        np.testing.assert_array_equal(projected.read(name), found.read(name))
