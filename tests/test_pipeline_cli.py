"""The command line: statuses, messages, and commands run as users run them."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

from pipeline import cli, usage
from pipeline.store import Store
from pipeline.workspace import open_workspace
from tests import helpers, source_files
from tests.test_pipeline_export import write_ancestry

GENOTYPES = helpers.random_genotypes(60, 20)


def call(*arguments: str | Path) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli.main, [str(a) for a in arguments])


def assert_refused(result: click.testing.Result, message: str, status: int = 2) -> None:
    assert result.exit_code == status, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    assert message in lines[0]


def write(path: Path, genotypes: np.ndarray = GENOTYPES, **changes: Any) -> Path:
    helpers.write_cohort(str(path), genotypes, **changes)
    return path


def bad_cohort(path: Path, fault: str) -> Path:
    ids = np.array(["a", "b", "a", *(f"s{i}" for i in range(17))], dtype=object)
    if fault == "missing":
        return path
    if fault == "file":
        path.write_text("not a store")
        return path
    if fault == "not vcf zarr":
        return write(path, call_genotype=None)
    if fault == "dtype":
        return write(path, GENOTYPES.astype(np.float32))
    if fault == "ploidy":
        return write(path, np.concatenate([GENOTYPES, GENOTYPES[..., :1]], axis=2))
    if fault == "duplicate":
        return write(path, sample_id=ids)
    if fault == "absent chunk":
        (write(path) / "call_genotype" / "1.0.0").unlink()
        return path
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    return path


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "no such store"),
        ("file", "is a file"),
        ("not vcf zarr", "call_genotype"),
        ("dtype", "rewrite it as signed integers"),
        ("ploidy", "ploidy"),
        ("duplicate", "sample_id 'a' is at both 0 and 2"),
        ("zarr 3", "format 2"),
        ("absent chunk", "chunk 1.0.0 of array call_genotype is absent"),
    ],
)
def test_run__bad_cohort_is_one_line_and_status_2(
    tmp_path: Path, fault: str, message: str
):
    source = bad_cohort(tmp_path / "cohort.vcz", fault)
    output = tmp_path / "out"
    assert_refused(call("run", source, "--output", output, "-k", "2"), message)
    assert not output.exists()


def test_run__no_variants_left_after_quality_control(tmp_path: Path):
    source = write(tmp_path / "cohort.vcz", np.zeros_like(GENOTYPES))
    output = tmp_path / "out"
    result = call("run", source, "--output", output, "-k", "2", "--workers", "1")
    assert_refused(result, "everybody has the same allele at all of the 60 variants")
    assert not output.exists()


def test_run__output_exists(tmp_path: Path):
    source = write(tmp_path / "cohort.vcz")
    output = tmp_path / "out"
    (output / "ancestry.zarr").mkdir(parents=True)
    result = call("run", source, "--output", output, "-k", "2")
    assert_refused(result, "pass --resume to finish an interrupted run, --overwrite")


def test_run__unknown_key_in_the_configuration(tmp_path: Path):
    config = tmp_path / "run.toml"
    config.write_text("[fit]\npopulations = 3\n")
    source = write(tmp_path / "cohort.vcz")
    result = call("run", source, "--output", tmp_path / "out", "--config", config)
    assert_refused(result, "unknown key populations in [fit]")


def test_run__workers_and_scheduler_exclude_each_other(tmp_path: Path):
    source = write(tmp_path / "cohort.vcz")
    options = ("--workers", "1", "--scheduler", "tcp://127.0.0.1:1")
    result = call("run", source, "--output", tmp_path / "out", *options)
    assert_refused(result, "exclude each other")


@pytest.mark.parametrize("command", ["run", "prepare", "fit", "apply", "import"])
def test_usage__missing_arguments_are_status_2(command: str):
    assert call(command).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "nothing.zarr", "--output", "m.zarr"), "nothing.zarr does not exist"),
        (
            ("apply", "nothing.zarr", "cohort.vcz", "--output", "a.zarr"),
            "nothing.zarr does not exist",
        ),
        (("export", "nothing.zarr", "q"), "nothing.zarr does not exist"),
        (("report", "nothing.zarr", "--output", "r.html"), "does not exist"),
        (("import", "nothing.bed", "--output", "c.vcz"), "nothing.bed does not exist"),
    ],
)
def test_commands__missing_input(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(*arguments), message)
    assert list(tmp_path.iterdir()) == []


def test_fit__refuses_a_prepared_store_with_an_absent_chunk(tmp_path: Path):
    source = write(tmp_path / "cohort.vcz", chunks=(60, 20))
    prepared, model = tmp_path / "p.zarr", tmp_path / "m.zarr"
    one = ("--workers", "1")
    assert call("prepare", source, "--output", prepared, *one).exit_code == 0
    (prepared / "call_genotype_packed" / "0.0").unlink()
    result = call("fit", prepared, "--output", model, "-k", "2", *one)
    assert_refused(result, "chunk 0.0 of array call_genotype_packed is absent")
    assert not model.exists()


def test_run__full_disk_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/out")

    monkeypatch.setattr("pipeline.run.run", fail)
    result = call("run", tmp_path / "c.vcz", "--output", tmp_path / "out")
    assert result.exit_code == 1
    message = "Error: No space left on device: /data/out; mend that and go on with"
    assert result.stderr.startswith(message)


def test_reprocess__stopped_is_run_again_for_it_has_no_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("pipeline.reprocess_config.load_reprocess_config", stop)
    result = call("reprocess", tmp_path / "config.toml")
    assert_refused(result, "stopped by SIGTERM; run it again", status=128 + 15)


def test_run__another_at_work_is_one_line_and_status_75(tmp_path: Path):
    source = write(tmp_path / "cohort.vcz")
    with open_workspace(tmp_path / "out", resume=False, overwrite=False):
        result = call("run", source, "--output", tmp_path / "out", "--resume")
    assert_refused(result, "another run is at work there; wait for it", status=75)


def test_run__nobody_at_the_scheduler_is_one_line_and_status_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.cluster.CONNECT_TIMEOUT", "300ms")
    source = write(tmp_path / "cohort.vcz")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
    options = ("--output", tmp_path / "out", "--scheduler", address)
    message = f"no Dask scheduler answers at {address}: "
    assert_refused(call("run", source, *options), message, status=75)


def test_help__does_not_import_jax_or_the_stages():
    code = (
        "import sys\n"
        "from pipeline import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'jax', 'dask', 'sgkit', 'xarray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_stages__one_by_one_as_commands(tmp_path: Path):
    """The real console script, from a simulated cohort to text files."""

    def streamixture(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "streamixture"), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout

    sizes = ("--samples", "60", "--variants", "200", "-k", "2", "--seed", "1")
    streamixture("simulate", "cohort.vcz", *sizes)
    one = ("--workers", "1")
    streamixture("prepare", "cohort.vcz", "--output", "p.zarr", "--no-qc", *one)
    streamixture("fit", "p.zarr", "--output", "m.zarr", "-k", "2", *one)
    new = ("cohort.vcz", "--strand", "drop", "--output", "a.zarr", "--write-to-cohort")
    said = streamixture("apply", "m.zarr", *new, *one)
    assert "model: 200 matched, 0 with alleles swapped, 0 on the opposite" in said
    streamixture("export", "a.zarr", "result")
    streamixture("report", "a.zarr", "--output", "report.html")
    q = np.loadtxt(tmp_path / "result.2.Q")
    stored = Store.open(tmp_path / "a.zarr", "ancestry")
    expected = stored.read("sample_ancestry_proportion")
    in_cohort = helpers.read_array(
        tmp_path / "cohort.vcz", "sample_ancestry_proportion"
    )
    np.testing.assert_array_equal(in_cohort, expected)
    np.testing.assert_allclose(q, expected, atol=1e-6)
    ids = (tmp_path / "result.samples").read_text().split()
    assert ids == stored.read("sample_id").tolist()
    assert np.loadtxt(tmp_path / "result.2.P").shape == (200, 2)
    assert "<html" in (tmp_path / "report.html").read_text()
    table = ("result.2.P", "result.variants", "--genome-build", "GRCh38")
    streamixture("import-model", *table, "--output", "given.zarr", *one)
    given = Store.open(tmp_path / "given.zarr", "model")
    assert given.attrs["genome_build"] == "GRCh38"


def test_run__dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    cohort, output = write(tmp_path / "c.vcz"), tmp_path / "out"
    arguments = ["run", cohort, "--output", output, "-k", "2", "--dry-run"]
    result = call(*arguments, "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "20 people x 60 variants" in result.stdout
    assert "memory of a worker" in result.stdout
    refused = call(*arguments, "--workers", "1", "--worker-memory", "200MiB")
    assert_refused(refused, "and has 200 MiB; raise --worker-memory")
    refused = call(*arguments, "--worker-memory", "much")
    assert_refused(refused, "much is no amount of memory")
    refused = call(*arguments, "--worker-memory", "10MiB")
    assert_refused(refused, "a worker of 10MiB would be killed as it loads")
    assert not output.exists()


def test_simulate__draws_calls_of_one_allele_and_dosages(tmp_path: Path):
    sizes = ("--samples", "20", "--variants", "60", "-k", "2")
    mixed, dosages = tmp_path / "mixed.vcz", tmp_path / "dosages.vcz"
    options = ("--half-calls", "0.2", "--x-share", "0.5")
    assert call("simulate", mixed, *sizes, *options).exit_code == 0
    calls = helpers.read_array(mixed, "call_genotype")
    assert {-2, -1} <= set(np.unique(calls[..., 1]))
    assert call("simulate", dosages, *sizes, "--dosage-blur", "0.5").exit_code == 0
    assert helpers.read_array(dosages, "call_dosage").shape == (60, 20)
    result = call("simulate", tmp_path / "no", *sizes, *options, "--dosage-blur", "1")
    assert_refused(result, "dosages are of two alleles; leave out half calls and X")
    assert not (tmp_path / "no").exists()


def test_prepare__uses_x_on_demand(tmp_path: Path):
    contigs = np.array(["1", "X"], dtype=object)
    changes = {"contig_id": contigs, "variant_contig": np.repeat([0, 1], 30)}
    source = write(tmp_path / "cohort.vcz", **changes)
    config = tmp_path / "run.toml"
    config.write_text("[qc]\nmin_variant_call_rate = 0\nmin_maf = 0\nmax_ld_r2 = 1\n")
    for name, flags, n_variants in (("a", (), 30), ("b", ("--include-x",), 60)):
        output = tmp_path / f"{name}.zarr"
        options = ("--config", config, "--workers", "1", *flags)
        result = call("prepare", source, "--output", output, *options)
        assert result.exit_code == 0, result.output
        found = helpers.read_array(output, "variant_contig_name")
        assert len(found) == n_variants


ONE_WORKER = ("--workers", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "c", "--output", "o", "-k", "2", "-k", "3"), "-k is given 2 times"),
        (("run", "c", "--seed", "1", "--seed", "1"), "--seed is given 2 times"),
        (("run", "c", "--output", "a", "--output=b"), "--output is given 2 times"),
        (("simulate", "s", "--fst", ".1", "--fst", ".2"), "--fst is given 2 times"),
        (("--log-format", "text", "--log-format", "json", "run"), "--log-format is"),
    ],
)
def test_options__of_one_value_are_given_once(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(*arguments), message)
    assert list(tmp_path.iterdir()) == []


def test_options__flags_may_be_said_twice(tmp_path: Path):
    result = call("report", tmp_path / "none.zarr", "--output", "r.html", "-v", "-v")
    assert_refused(result, "does not exist")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "a.zarr", "--output", "fig.pdf"), "written as .html alone"),
        (("report", "a.zarr", "--output", "fig"), "written as .html alone"),
        (("run", "c.vcz", "--output", "out.html"), "would be a folder"),
        (("apply", "m", "c.vcz", "--output", "q.csv"), "would be a folder"),
        (("import", "c.bed", "--output", "c.vcf.gz"), "would be a folder"),
        (("simulate", "c.bed"), "would be a folder"),
        (("export", "a.zarr", "q.tsv"), "beginning of several files' names"),
        (("export", "a.zarr", "q.3.Q"), "beginning of several files' names"),
        (
            ("run", "c.vcz", "--output", "o", "--metrics-file", "m.json"),
            "--metrics-file is written as .prom alone",
        ),
        (
            ("run", "c.vcz", "--output", "o", "--performance-report", "p.pdf"),
            "--performance-report is written as .html alone",
        ),
    ],
)
def test_outputs__are_named_as_what_they_will_be(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(*arguments), message)
    assert list(tmp_path.iterdir()) == []


def finished_run(path: Path) -> Path:
    """A directory as `run` leaves it, with an ancestry store of two people."""
    path.mkdir()
    write_ancestry(path / "ancestry.zarr")
    store = Store.open(path / "ancestry.zarr", "ancestry", writable=True)
    store.set_attrs(log_likelihood=-1.0, observed_genotypes=4)
    for kind in ("model", "prepared"):
        store = Store.create(path / f"{kind}.zarr", kind)
        store.set_attrs(method="likelihood")
        store.finish()
    return path


def test_results__of_a_run_are_found_by_its_directory(tmp_path: Path):
    out = finished_run(tmp_path / "out")
    assert call("export", out, tmp_path / "q").exit_code == 0
    assert (tmp_path / "q.tsv").exists()
    page = tmp_path / "r.html"
    assert call("report", f"{out}/", "--output", page).exit_code == 0
    assert "<html" in page.read_text()
    nobody = ("nothing.vcz", "--output", tmp_path / "a.zarr", *ONE_WORKER)
    # Once the model is found, the cohort is looked for.
    assert_refused(call("apply", out, *nobody), "nothing.vcz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prepared.zarr", "a streamixture prepared store; fit a model to it with"),
        ("model.zarr", "a streamixture model store; project a cohort on it with"),
        ("ancestry.zarr", "a streamixture ancestry store; write text of it with"),
        ("", "is no cohort but the results of a run"),
    ],
)
@pytest.mark.parametrize("verb", [("run",), ("prepare",), ("run", "--dry-run")])
def test_results__of_a_run_are_no_cohort(
    tmp_path: Path, name: str, message: str, verb: tuple[str, ...]
):
    source = finished_run(tmp_path / "out") / name
    result = call(*verb, source, "--output", tmp_path / "other", *ONE_WORKER)
    assert_refused(result, message)
    assert not (tmp_path / "other").exists()


def test_log_format__stands_behind_the_command_too(tmp_path: Path):
    arguments = [
        str(Path(sys.executable).parent / "streamixture"),
        "report",
        "none.zarr",
    ]
    arguments += ["--output", "r.html", "--log-format", "json"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["exit_status"] == 2


def test_help__has_headings_and_defaults():
    said = call("run", "--help").stdout
    headings = [f"{name}:" for name in (usage.MAIN, *usage.HEADINGS)]
    places = [said.index(heading) for heading in headings if heading in said]
    assert len(places) >= 6
    assert places == sorted(places)
    assert said.index("-k INTEGER") < said.index("--workers") < said.index("--dashb")
    words = " ".join(said.split())
    assert "[default: (5, or fit.n_populations of --config)" in words
    assert "[default: (likelihood)]" in words


@pytest.mark.parametrize("name", list(cli.main.commands))
def test_help__every_option_says_what_it_is_for(name: str):
    for parameter in cli.main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def write_files(folder: Path, kind: str) -> list[str]:
    """Files of 20 people and 60 variants; what `run` may be given."""
    calls = source_files.admixed_calls(60, 20)
    if kind == "bed":
        source_files.write_bed(folder / "c.1.bed", calls)
        return ["c.1.bed", "c.1"]
    if kind == "pgen":
        source_files.write_pgen(folder / "c.pgen", calls)
        return ["c.pgen", "c"]
    if kind == "bgen":
        source_files.write_bgen(folder / "c.bgen", calls)
        return ["c.bgen", "c"]
    source_files.write_vcf_calls(folder / "c.vcf.gz", calls)
    return ["c.vcf.gz", "*.vcf.gz"]


@pytest.mark.parametrize("kind", ["bed", "pgen", "bgen", "vcf"])
def test_dry_run__of_files_says_the_sizes_and_writes_nothing(tmp_path: Path, kind: str):
    names = write_files(tmp_path, kind)
    before = sorted(tmp_path.iterdir())
    for name in names:
        arguments = ("run", tmp_path / name, "--output", tmp_path / "out", "-k", "2")
        result = call(*arguments, "--dry-run", *ONE_WORKER)
        assert result.exit_code == 0, result.output
        assert "20 people x 60 variants" in result.stdout
        assert "memory of a worker" in result.stdout
        assert f"{names[0]}, first" in result.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_dry_run__of_a_bed_that_is_cut_short(tmp_path: Path):
    bed = source_files.write_bed(tmp_path / "c.bed", source_files.admixed_calls(60, 20))
    bed.write_bytes(bed.read_bytes()[:-1])
    result = call("run", bed, "--output", tmp_path / "out", "--dry-run", *ONE_WORKER)
    assert_refused(result, "c.bed has 302 bytes, and 303 are 60 variants of 20 people")


def test_cohort__may_be_the_prefix_of_a_fileset(tmp_path: Path):
    write_files(tmp_path, "bed")
    target = tmp_path / "c.vcz"
    result = call("import", tmp_path / "c.1", "--output", target, "--workers", "0")
    assert result.exit_code == 0, result.output
    assert helpers.read_array(target, "call_genotype").shape == (60, 20, 2)


def test_cohort__of_several_filesets_or_a_table_says_what_to_name(tmp_path: Path):
    write_files(tmp_path, "bed")
    (tmp_path / "c.1.pgen").touch()
    options = ("--output", tmp_path / "out")
    result = call("run", tmp_path / "c.1", *options)
    assert_refused(result, "c.1.bed and ")
    assert "c.1.pgen; name the one to read" in result.stderr
    result = call("run", tmp_path / "c.1.bim", *options)
    assert_refused(result, "c.1.bim holds no genotypes; name ")
    assert "c.1.bed" in result.stderr
