"""Other tools on the same genotypes: their environment, input files and results."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sgkit

from estimator.packing import unpack_genotypes
from pipeline.plan import split_rows
from pipeline.store import Store

FASTMIXTURE2 = "fastmixture2==2.0.4"
ADAMIXTURE = "adamixture==1.8.8"
ENVIRONMENT = Path(".venv-peers")
# .bed code of 0, 1 and 2 copies of allele 1, and of a missing genotype (-1, last).
_BED_CODES = np.array([3, 2, 0, 1], np.uint8)
_BED_MAGIC = bytes([0x6C, 0x1B, 0x01])
_PEOPLE_AT_ONCE = 256

Command = list[str | Path]


@dataclass(frozen=True)
class Estimate:
    """Q (people, K) and P (variants, K) as a tool wrote them, in float64."""

    ancestry: npt.NDArray[np.float64]
    frequencies: npt.NDArray[np.float64]


def install(requirement: str) -> Path | None:
    """Install a peer; None, with a word on stderr, where it cannot be had."""
    executable = ENVIRONMENT / "bin" / requirement.partition("==")[0]
    if executable.exists():
        return executable
    python = ENVIRONMENT / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        install = ["-m", "pip", "install", "--quiet", requirement]
        subprocess.run([python, *install], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{requirement} cannot be installed, skipped: {error}", file=sys.stderr)
        return None
    return executable


@dataclass(frozen=True)
class Peer:
    """Another tool: how it is run, and where it writes Q and P.

    Attributes
    ----------
    requirement
        Name and version, as pip takes them.
    command
        Its command on PLINK files, and the path of its results without .Q and .P.
    """

    requirement: str
    command: Callable[[Path, Path, int, int, int], tuple[Command, Path]]

    @property
    def label(self) -> str:
        """Name and version."""
        return self.requirement.replace("==", " ")


def _fastmixture2(
    executable: Path, folder: Path, k: int, seed: int, threads: int
) -> tuple[Command, Path]:
    options = ["-k", str(k), "-t", str(threads), "-s", str(seed)]
    output = folder / "peer"
    command: Command = [executable, "-b", folder / "plink", *options, "-o", output]
    return command, Path(f"{output}.K{k}.s{seed}")


def _adamixture(
    executable: Path, folder: Path, k: int, seed: int, threads: int
) -> tuple[Command, Path]:
    options = ["-k", str(k), "-t", str(threads), "-s", str(seed)]
    places: Command = ["--data_path", folder / "plink.bed", "--save_dir", folder]
    command: Command = [executable, *places, "--name", "peer", *options]
    return command, folder / f"peer.{k}"


PEERS = (Peer(FASTMIXTURE2, _fastmixture2), Peer(ADAMIXTURE, _adamixture))


def read_genotypes(prepared: Path) -> npt.NDArray[np.int8]:
    """All genotypes of a prepared store, people by variants, -1 missing."""
    store = Store.open(prepared, "prepared")
    packed = store.read("call_genotype_packed")
    return unpack_genotypes(packed, store.attrs["n_variants"])


def read_array(store: Path, name: str) -> npt.NDArray[np.float64]:
    """One array of a simulated cohort, such as the true Q."""
    return sgkit.load_dataset(store, mask_and_scale=False)[name].values


def write_plink(genotypes: npt.NDArray[np.int8], prefix: Path) -> None:
    """Write genotypes as PREFIX.bed, .bim and .fam, counting allele 1."""
    n_people, n_variants = genotypes.shape
    padding = -n_people % 4
    with prefix.with_suffix(".bed").open("wb") as bed:
        bed.write(_BED_MAGIC)
        for start in range(0, n_variants, 1_000):
            block = genotypes[:, start : start + 1_000].T
            codes = np.pad(_BED_CODES[block], ((0, 0), (0, padding)))
            packed = codes[:, 0::4].copy()
            for position in (1, 2, 3):
                packed |= codes[:, position::4] << (2 * position)
            bed.write(packed.tobytes())
    with prefix.with_suffix(".fam").open("w") as fam:
        fam.writelines(f"{i}\tS{i}\t0\t0\t0\t-9\n" for i in range(n_people))
    with prefix.with_suffix(".bim").open("w") as bim:
        bim.writelines(f"1\tv{j}\t0\t{j + 1}\tA\tC\n" for j in range(n_variants))


def read_admixture(prefix: Path) -> Estimate:
    """Q and P that a tool wrote as text."""
    return Estimate(
        np.loadtxt(f"{prefix}.Q", ndmin=2), np.loadtxt(f"{prefix}.P", ndmin=2)
    )


def read_streamixture(ancestry: Path) -> Estimate:
    """Q and P of an ancestry store."""
    store = Store.open(ancestry, "ancestry")
    return Estimate(
        store.read("sample_ancestry_proportion").astype(np.float64),
        store.read("variant_population_frequency").astype(np.float64),
    )


def log_likelihood_per_genotype(
    genotypes: npt.NDArray[np.int8], estimate: Estimate
) -> float:
    """Log-likelihood of the called genotypes, each on average, in float64.

    A tool that writes the frequency of the other allele is recognised by its worse
    likelihood.
    """
    turned = Estimate(estimate.ancestry, 1 - estimate.frequencies)
    return max(_mean_log_likelihood(genotypes, e) for e in (estimate, turned))


def _mean_log_likelihood(genotypes: npt.NDArray[np.int8], estimate: Estimate) -> float:
    total, n_called = 0.0, 0
    for rows in split_rows(len(genotypes), _PEOPLE_AT_ONCE):
        g = genotypes[rows.slice]
        p = estimate.ancestry[rows.slice] @ estimate.frequencies.T
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(g > 0, g * np.log(p), 0)
            logs += np.where(g < 2, (2 - g) * np.log1p(-p), 0)
        total += float(logs[g >= 0].sum())
        n_called += int(np.count_nonzero(g >= 0))
    return total / n_called
