"""The same genotypes through every format, imports that were interrupted, processes."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import sgkit

from pipeline import cluster, devices, ingest, ingest_bed, ingest_bgen, ingest_pgen, run
from pipeline.config import FitConfig, QCConfig, RunConfig, TrainConfig
from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.tasks import Cluster
from tests import helpers, source_files

CALLS = source_files.admixed_calls(150, 60)
WRITERS: dict[str, Callable[[Path, source_files.Calls], Path]] = {
    "c.bed": source_files.write_bed,
    "c.pgen": source_files.write_pgen,
    "c.vcf.gz": source_files.write_vcf_calls,
    "c.bgen": source_files.write_bgen,
}
CONFIG = RunConfig(
    qc=QCConfig(enabled=False),
    fit=FitConfig(n_populations=2),
    train=TrainConfig(epochs=0),
)


class _KilledError(BaseException):
    pass


@pytest.fixture(scope="module")
def workers() -> Iterator[Cluster]:
    with cluster.local_cluster(devices.plan_workers([], 1)) as started:
        yield started


def write_store(folder: Path) -> Path:
    """The calls as VCF Zarr, as another program would write it."""
    alleles = np.array([[0, 0], [0, 1], [1, 1], [-1, -1]], np.int8)
    changes = {
        "sample_id": CALLS.people,
        "contig_id": ["1", "2"],
        "variant_contig": np.array([int(c) - 1 for c in CALLS.contigs], np.int8),
        "variant_position": np.array(CALLS.positions, np.int32),
        "variant_allele": [["A", "G"]] * len(CALLS.counts),
        "variant_id": CALLS.names,
    }
    arrays: dict[str, Any] = {
        name: helpers.text(values) if isinstance(values, list) else values
        for name, values in changes.items()
    }
    path = folder / "c.vcz"
    helpers.write_cohort(path, alleles[CALLS.counts], chunks=(64, 1000), **arrays)
    return path


def load(path: Path) -> Any:
    return sgkit.load_dataset(path, mask_and_scale=False).load()


def counts(path: Path) -> np.ndarray:
    dataset = load(path)
    if "call_dosage" in dataset:
        return np.nan_to_num(dataset.call_dosage.values, nan=-1)
    genotypes = dataset.call_genotype.values
    return np.where((genotypes < 0).any(axis=2), -1, genotypes.sum(axis=2))


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def expected(workers: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    source = write_store(folder)
    run.run(str(source), folder / "out", CONFIG, contextlib.nullcontext(workers))
    return folder / "out" / "ancestry.zarr"


@pytest.mark.parametrize("name", ["c.bed", "c.pgen", "c.vcf.gz", "c.bgen"])
def test_run__same_bytes_from_every_format(
    workers: Cluster, expected: Path, tmp_path: Path, name: str
):
    source = WRITERS[name](tmp_path / name, CALLS)
    output = tmp_path / "out"
    run.run(str(source), output, CONFIG, contextlib.nullcontext(workers))
    found, wanted = (
        Store.open(path, "ancestry") for path in (output / "ancestry.zarr", expected)
    )
    assert found.names() == wanted.names()
    for array in found.names():
        assert found.read(array).tobytes() == wanted.read(array).tobytes(), array
    assert sorted(path.name for path in output.iterdir()) == [
        "ancestry.zarr",
        "model.zarr",
        "prepared.zarr",
        "report.html",
        "run.json",
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_ingest__keeps_calls_and_identity(tmp_path: Path, name: str):
    ingest.ingest(WRITERS[name](tmp_path / name, CALLS), tmp_path / "x", n_workers=0)
    dataset = load(tmp_path / "x")
    np.testing.assert_array_equal(counts(tmp_path / "x"), CALLS.counts)
    assert dataset.sample_id.values.tolist() == CALLS.people
    assert dataset.variant_id.values.tolist() == CALLS.names
    assert dataset.variant_position.values.tolist() == CALLS.positions
    contigs = dataset.contig_id.values[dataset.variant_contig.values]
    assert contigs.tolist() == CALLS.contigs
    assert dataset.variant_allele.values.tolist() == [["A", "G"]] * len(CALLS.counts)
    left = {path.name for path in tmp_path.iterdir()}
    assert not {item for item in left if item.startswith(".") or "meta" in item}


@pytest.mark.parametrize("bits", [8, 16])
def test_ingest__bgen_gives_expected_counts_of_the_second_allele(
    tmp_path: Path, bits: int
):
    rng = np.random.default_rng(1)
    chances = rng.dirichlet([1, 1, 1], CALLS.counts.shape)
    path = tmp_path / "c.bgen"
    source_files.write_bgen(path, CALLS, probabilities=chances[..., :2], bits=bits)
    ingest.ingest(path, tmp_path / "x", n_workers=0)
    dataset = load(tmp_path / "x")
    assert "call_genotype" not in dataset
    assert dataset.call_dosage.dtype == np.float32
    assert dataset.call_dosage.dims == ("variants", "samples")
    truth = np.where(CALLS.counts < 0, np.nan, chances @ [0, 1, 2])
    # Each of two probabilities is rounded to a step of 1 / (2^bits - 1).
    step = 1 / (2**bits - 1)
    np.testing.assert_allclose(dataset.call_dosage, truth, rtol=0, atol=1.5 * step)


def test_ingest__bgen_takes_ids_from_the_sample_file(tmp_path: Path):
    path = source_files.write_bgen(tmp_path / "c.bgen", CALLS, ids=False)
    rows = "".join(f"F{i} id{i} 0\n" for i in range(60))
    path.with_suffix(".sample").write_text("ID_1 ID_2 missing\n0 0 0\n" + rows)
    ingest.ingest(path, tmp_path / "x", n_workers=0)
    assert load(tmp_path / "x").sample_id.values[[0, 59]].tolist() == ["id0", "id59"]


@pytest.mark.parametrize(
    ("name", "write"),
    [("c.pgen", source_files.write_pgen), ("c.bgen", source_files.write_bgen)],
)
def test_ingest__leaves_multiallelic_variants_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, write: Any
):
    texts = ["G", "G,T", "G", "G", "G,T,C"] * 30
    source = write(tmp_path / name, CALLS, alternates=texts)
    ingest.ingest(source, tmp_path / "x", n_workers=0)
    kept = [row for row, text in enumerate(texts) if text == "G"]
    np.testing.assert_array_equal(counts(tmp_path / "x"), CALLS.counts[kept])
    names = [CALLS.names[row] for row in kept]
    assert load(tmp_path / "x").variant_id.values.tolist() == names
    assert f"{name}: left out 60 variants" in caplog.text
    source = write(tmp_path / name, CALLS, alternates=["G,T"] * 150)
    with pytest.raises(InputError, match="has no biallelic variants"):
        ingest.ingest(source, tmp_path / "y", n_workers=0)
    assert not (tmp_path / "y").exists()


def test_ingest__psam_keeps_family_and_source_ids(tmp_path: Path):
    path = source_files.write_pgen(tmp_path / "c.pgen", CALLS)
    rows = "".join(f"fam{i % 3}\tp{i}\tvisit{i}\n" for i in range(60))
    path.with_suffix(".psam").write_text("#FID\tIID\tSID\n" + rows)
    ingest.ingest(path, tmp_path / "x", n_workers=0)
    dataset = load(tmp_path / "x")
    assert dataset.sample_id.values[59] == "p59"
    assert dataset.sample_family_id.values[59] == "fam2"
    assert dataset.sample_source_id.values[59] == "visit59"


def test_ingest__reads_a_compressed_pvar_and_one_like_bim(tmp_path: Path):
    path = source_files.write_pgen(tmp_path / "c.pgen", CALLS)
    pvar = path.with_suffix(".pvar")
    plain = pvar.read_text()
    rows = (f"{c}\t{name}\t{place}\tG\tA\n" for c, place, name in CALLS.rows)
    for content in ("".join(rows), plain):
        pvar.write_text(content)
        ingest.ingest(path, tmp_path / "x", n_workers=0, overwrite=True)
        assert load(tmp_path / "x").variant_allele.values[0].tolist() == ["A", "G"]
    pvar.unlink()
    compress(tmp_path / "c.pvar.zst", plain)
    ingest.ingest(path, tmp_path / "x", n_workers=0, overwrite=True)
    np.testing.assert_array_equal(counts(tmp_path / "x"), CALLS.counts)


def compress(path: Path, text: str) -> None:
    with pyarrow.output_stream(str(path), compression="zstd") as stream:
        stream.write(text.encode())


def test_ingest__several_vcfs_are_one_cohort(tmp_path: Path):
    half = CALLS.contigs.index("2")
    parts = {
        "chr1.vcf.gz": source_files.Calls(
            CALLS.counts[:half], CALLS.contigs[:half], CALLS.positions[:half]
        ),
        "chr2.vcf.gz": source_files.Calls(
            CALLS.counts[half:], CALLS.contigs[half:], CALLS.positions[half:]
        ),
    }
    for name, part in parts.items():
        source_files.write_vcf_calls(tmp_path / name, part)
    ingest.ingest(f"{tmp_path}/chr*.vcf.gz", tmp_path / "x", n_workers=0)
    named = [tmp_path / name for name in reversed(parts)]
    ingest.ingest(named, tmp_path / "y", n_workers=0)
    for store in ("x", "y"):
        np.testing.assert_array_equal(counts(tmp_path / store), CALLS.counts)
        assert load(tmp_path / store).contig_id.values.tolist() == ["1", "2"]


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(n_samples: int) -> tuple[int, int]:
        return 20, 1_000

    for module in (ingest_pgen, ingest_bgen):
        monkeypatch.setattr(module, "chunk_sizes", sizes)
    monkeypatch.setattr("pipeline.encode.chunk_sizes", sizes)


@pytest.mark.parametrize("name", ["c.pgen", "c.bgen"])
def test_ingest__several_processes_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    small_pieces(monkeypatch)
    source = WRITERS[name](tmp_path / name, CALLS)
    ingest.ingest(source, tmp_path / "one", n_workers=0)
    ingest.ingest(source, tmp_path / "two", n_workers=2)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


# What does a piece of work in each format, and how many there are.
PIECES = {
    "c.bed": [("pipeline.encode._encode_partition", 8)],
    "c.pgen": [("pipeline.ingest_pgen._write_rows", 8)],
    "c.bgen": [("pipeline.ingest_bgen._write_rows", 8)],
    "c.vcf.gz": [
        ("pipeline.ingest_vcf._explode_partition", 2),
        ("pipeline.encode._encode_partition", 8),
    ],
}


@pytest.mark.parametrize(
    ("name", "function", "n_pieces"),
    [(name, *piece) for name, found in PIECES.items() for piece in found],
)
def test_ingest__goes_on_after_it_was_killed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    function: str,
    n_pieces: int,
):
    small_pieces(monkeypatch)
    source = WRITERS[name](tmp_path / name, CALLS)
    ingest.ingest(source, tmp_path / "whole", n_workers=0)
    module, _, attribute = function.rpartition(".")
    original = getattr(__import__(module, fromlist=[attribute]), attribute)
    done: list[int] = []

    def counted(*arguments: Any) -> None:
        if len(done) == 1:
            done.append(-1)
            raise _KilledError
        original(*arguments)
        done.append(arguments[-1])

    monkeypatch.setattr(function, counted)
    with pytest.raises(_KilledError):
        ingest.ingest(source, tmp_path / "x", n_workers=0)
    assert not (tmp_path / "x").exists()
    # What a process leaves that is killed while it writes a chunk.
    torn = tmp_path / ".x.import" / "store" / "0.0.0.torn.partial"
    torn.parent.mkdir(exist_ok=True)
    torn.touch()
    with pytest.raises(InputError, match=r"was begun in \.x\.import; pass --resume"):
        ingest.ingest(source, tmp_path / "x", n_workers=0)
    ingest.ingest(source, tmp_path / "x", n_workers=0, resume=True)
    assert sorted(n for n in done if n >= 0) == list(range(n_pieces))
    assert tree_bytes(tmp_path / "x") == tree_bytes(tmp_path / "whole")
    assert not (tmp_path / ".x.import").exists()


def test_ingest__a_resumed_import_must_be_of_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = WRITERS["c.bed"](tmp_path / "c.bed", CALLS)

    def die(*_: Any) -> None:
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(ingest_bed, "_check_sample_ids", die)
        with pytest.raises(_KilledError):
            ingest.ingest(source, tmp_path / "x", n_workers=0)
    fam = source.with_suffix(".fam")
    fam.write_text(fam.read_text().replace("person7", "someone"))
    with pytest.raises(InputError, match="begun from other files, or they have chan"):
        ingest.ingest(source, tmp_path / "x", n_workers=0, resume=True)
    assert (tmp_path / ".x.import").exists()
    ingest.ingest(source, tmp_path / "x", n_workers=0, overwrite=True)
    assert load(tmp_path / "x").sample_id.values[7] == "someone"
