"""The run's configuration: frozen sections, read from TOML, unknown keys refused.

What changes the answer lives here and is fingerprinted with the results; what only
changes how a run goes (workers, verbosity, overwriting) is a command-line flag.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import toml_file
from pipeline.errors import require


def _require_fraction(section: str, **values: float) -> None:
    for name, value in values.items():
        require(0 <= value <= 1, f"{section}.{name} is {value}; it must be in [0, 1]")


# Lists of regions of long-range linkage disequilibrium that come with the package.
SHIPPED_REGIONS = ("GRCh37", "GRCh38")

AUTO, PROJECT, REPORT, IGNORE = "auto", "project", "report", "ignore"
RELATIVES = (AUTO, PROJECT, REPORT, IGNORE)
# Smallest cohort whose relatives are projected by default.
AUTO_RELATIVES = 10_000


@dataclass(frozen=True)
class QCConfig:
    """Which variants and people inform the fit.

    Attributes
    ----------
    enabled
        False keeps every biallelic variant with a call, and every person.
    include_x
        Whether X is used too, with the ploidy that the calls have, and not the
        autosomes alone; Y and mitochondria never are. Where `enabled` is False every
        contig is used.
    autosomes
        Number of the last autosome, where contigs have numbers; the four after it are
        X, Y, what these share, and mitochondria, as PLINK numbers them. 0 takes 23 to
        26 for those of man, unless X, Y or mitochondria have names, or there are
        higher numbers: then all numbers are autosomes.
    min_variant_call_rate, min_sample_call_rate
        Smallest fraction of called genotypes, in [0, 1].
    min_maf
        Smallest minor allele frequency, in [0, 0.5].
    min_hwe_p
        Smallest Hardy-Weinberg p-value. 0 (default) is off: in a structured cohort
        the test removes the very variants that tell populations apart (Wahlund).
    variants
        File that lists the variants to keep, by id or as PREFIX.variants of an export;
        "" keeps all.
    exclude_regions
        Regions whose variants go: "GRCh37" or "GRCh38" for those of long-range linkage
        disequilibrium, or a BED file; "" excludes none.
    relatives
        What to do with second-degree relatives and closer ones. "project" fits on a
        largest set of people without any, and projects the others; "report" counts
        them; "auto" projects in cohorts of AUTO_RELATIVES people or more, and reports
        in smaller ones, which have few; "ignore" does not look.
    max_ld_r2
        Largest squared correlation of two kept variants within the window; 1 is off.
    ld_window_bp
        Width of the pruning window, in base pairs.
    ld_max_samples
        People, evenly spaced through the cohort, that the correlations are computed on;
        no two of them relatives, where these were looked for.
    """

    enabled: bool = True
    include_x: bool = False
    autosomes: int = 0
    min_variant_call_rate: float = 0.95
    min_sample_call_rate: float = 0.9
    min_maf: float = 0.05
    min_hwe_p: float = 0.0
    variants: str = ""
    exclude_regions: str = ""
    relatives: str = AUTO
    max_ld_r2: float = 0.1
    ld_window_bp: int = 500_000
    ld_max_samples: int = 5_000

    def __post_init__(self) -> None:
        _require_fraction(
            "qc",
            min_variant_call_rate=self.min_variant_call_rate,
            min_sample_call_rate=self.min_sample_call_rate,
            min_hwe_p=self.min_hwe_p,
            max_ld_r2=self.max_ld_r2,
        )
        require(
            0 <= self.min_maf <= 0.5,
            f"qc.min_maf is {self.min_maf}; it must be in [0, 0.5]",
        )
        require(
            self.relatives in RELATIVES,
            f"qc.relatives is {self.relatives!r}; it must be one of "
            f"{', '.join(RELATIVES)}",
        )
        require(
            self.autosomes >= 0,
            f"qc.autosomes is {self.autosomes}; it must be at least 0",
        )
        for name in ("ld_window_bp", "ld_max_samples"):
            value = getattr(self, name)
            require(value > 0, f"qc.{name} is {value}; it must be positive")

    @property
    def files(self) -> list[str]:
        """Files that the settings name, whose contents the result depends on."""
        named = [self.variants, self.exclude_regions]
        return [path for path in named if path and path not in SHIPPED_REGIONS]


def _require_positive(section: str, **values: float) -> None:
    for name, value in values.items():
        right = 0 < value < math.inf
        require(right, f"{section}.{name} is {value}; it must be positive")


IID, FID_IID = "iid", "fid_iid"
SAMPLE_IDS = (IID, FID_IID)
# What a file of groups may name people by.
FID = "fid"
GROUP_IDS = (*SAMPLE_IDS, FID)


@dataclass(frozen=True)
class SourceConfig:
    """What is read of files that are imported.

    Attributes
    ----------
    sample_id
        Ids of people in PLINK and .sample tables: "iid" for the individual id alone,
        "fid_iid" for family and individual id with "_" between.
    dosages
        Whether expected counts of alleles are read where hard calls are there too: the
        dosages of .pgen, DS of VCF. Without it they are read where nothing else is.
    """

    sample_id: str = IID
    dosages: bool = False

    def __post_init__(self) -> None:
        require(
            self.sample_id in SAMPLE_IDS,
            f"source.sample_id is {self.sample_id!r}; it must be one of "
            f"{', '.join(SAMPLE_IDS)}",
        )


IMPORT_DEFAULTS = SourceConfig()

LIKELIHOOD, NEURAL = "likelihood", "neural"
METHODS = (LIKELIHOOD, NEURAL)


@dataclass(frozen=True)
class FitConfig:
    """How the ADMIXTURE model is fitted.

    Attributes
    ----------
    method
        "likelihood" maximises the likelihood, then trains the encoder. "neural"
        trains encoder and P together from the starting values, as [neural] says.
    n_populations
        K, the number of ancestral populations.
    tolerance
        Gain in log-likelihood per called genotype below which a round counts as
        calm; two calm rounds in a row end the fit.
    max_rounds
        Rounds after which a fit that has not converged is given up.
    n_secants
        Earlier rounds that the acceleration combines.
    shard_people, shard_bytes
        Most people, and most packed bytes, of a shard.
    start_people, start_variants
        Size of the evenly spaced sample that starting values are computed on.
    cache_bytes
        Packed genotypes that each worker keeps in memory between rounds; shards
        beyond that are read from the prepared store every round. 0 keeps none.
    """

    method: str = LIKELIHOOD
    n_populations: int = 5
    tolerance: float = 1e-9
    max_rounds: int = 300
    n_secants: int = 1
    shard_people: int = 1_024
    shard_bytes: int = 128 * 2**20
    start_people: int = 4_096
    start_variants: int = 16_384
    cache_bytes: int = 4 * 2**30

    def __post_init__(self) -> None:
        require(
            self.method in METHODS,
            f"fit.method is {self.method!r}; it must be one of {', '.join(METHODS)}",
        )
        fields = dataclasses.asdict(self)
        del fields["method"]
        require(self.cache_bytes >= 0, "fit.cache_bytes must not be negative")
        del fields["cache_bytes"]
        _require_positive("fit", **fields)


@dataclass(frozen=True)
class TrainConfig:
    """How the encoder is trained.

    Attributes
    ----------
    encoder
        False trains none: projections then start from the linear least-squares answer,
        and end at the same optimum. There is no answer of the encoder alone.
    hidden_dims
        Width of each hidden layer.
    epochs
        Times that the people stream past after distillation; 0 distils only.
    batch_size
        People in a minibatch, over all its slices.
    n_slices
        Parts of a minibatch whose gradients are computed side by side.
    learning_rate
        Adam's step at the start of its cosine decay.
    """

    encoder: bool = True
    hidden_dims: tuple[int, ...] = (128, 64)
    epochs: int = 1
    batch_size: int = 1_024
    n_slices: int = 4
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require(self.epochs >= 0, f"train.epochs is {self.epochs}; it must be >= 0")
        _require_positive(
            "train",
            batch_size=self.batch_size,
            n_slices=self.n_slices,
            learning_rate=self.learning_rate,
            **{f"hidden_dims[{i}]": width for i, width in enumerate(self.hidden_dims)},
        )


@dataclass(frozen=True)
class NeuralConfig:
    """How `fit.method = "neural"` trains encoder and P together.

    The encoder's layers are `train.hidden_dims`; nothing else of [train] is used.

    Attributes
    ----------
    epochs
        Times that the people stream past.
    batch_size
        People in a minibatch, over all its slices.
    n_slices
        Parts of a minibatch whose gradients are computed side by side.
    learning_rate
        Adam's step for the encoder at the start of its cosine decay.
    frequency_rate
        Step of P's natural gradient over an epoch's minibatches together, at the
        start of its cosine decay, in (0, 1].
    held_out
        Share of the people kept out of the training, in [0, 0.5], in whole chunks
        evenly spaced through the cohort. They are projected like everybody.
    """

    epochs: int = 20
    batch_size: int = 512
    n_slices: int = 4
    learning_rate: float = 3e-3
    frequency_rate: float = 1.0
    held_out: float = 0.05

    def __post_init__(self) -> None:
        fields = dataclasses.asdict(self)
        del fields["held_out"]
        _require_positive("neural", **fields)
        _require_fraction("neural", frequency_rate=self.frequency_rate)
        require(
            0 <= self.held_out <= 0.5,
            f"neural.held_out is {self.held_out}; it must be in [0, 0.5]",
        )


# The method of a model that was not fitted here, but made of a given P.
GIVEN = "given"
JACKKNIFE, INFORMATION, NO_ERRORS = "jackknife", "information", "none"
STANDARD_ERRORS = (JACKKNIFE, INFORMATION, NO_ERRORS)

# Newton steps after the encoder, where the configuration leaves them to the method.
_NEWTON_STEPS = {LIKELIHOOD: 8, NEURAL: 0, GIVEN: 8}

# Fewer people to compare with tell chance from what is shared no longer.
MIN_CHECK_PEOPLE = 32

CHECK, TRUSTED, DROP = "check", "trusted", "drop"
STRANDS = (CHECK, TRUSTED, DROP)


@dataclass(frozen=True)
class ApplyConfig:
    """How a fitted model is applied.

    Attributes
    ----------
    refine
        Newton steps after the encoder; 0 gives the encoder's answer alone. From the
        encoder, three reach the maximum of the likelihood in nearly every person.
        -1 leaves it to the method that fitted the model: 8 for "likelihood", and 0
        for "neural", whose answer is the encoder's.
    strand
        What to do with A/T and C/G variants of another cohort, whose alleles do not
        tell their strand. "check" uses those of which the frequencies tell it,
        "trusted" takes them to be on the strand they are written on, "drop" leaves
        them out.
    min_overlap
        Smallest fraction of the model's variants that a cohort must have usable, in
        [0, 1].
    standard_errors
        How those of Q are computed: "jackknife" over blocks of variants, which holds
        where variants are linked; "information", the curvature of the likelihood
        alone, which takes every variant for an observation of its own; "none".
    jackknife_blocks
        Blocks of variants over all contigs, at least 2. Blocks should be longer than
        the stretches that people inherit from one population: 128 make them about 20
        million base pairs of a human genome.
    """

    refine: int = -1
    strand: str = CHECK
    min_overlap: float = 0.5
    standard_errors: str = JACKKNIFE
    jackknife_blocks: int = 128
    fit_check_people: int = 512
    fit_check_threshold: float = 0.02

    def __post_init__(self) -> None:
        require(
            self.strand in STRANDS,
            f"apply.strand is {self.strand!r}; it must be one of {', '.join(STRANDS)}",
        )
        _require_fraction("apply", min_overlap=self.min_overlap)
        require(
            self.refine >= -1,
            f"apply.refine is {self.refine}; it must be >= 0, or -1 for the method's",
        )
        require(
            self.standard_errors in STANDARD_ERRORS,
            f"apply.standard_errors is {self.standard_errors!r}; it must be one of "
            f"{', '.join(STANDARD_ERRORS)}",
        )
        require(
            self.jackknife_blocks >= 2,
            f"apply.jackknife_blocks is {self.jackknife_blocks}; it must be at least 2",
        )
        require(
            self.fit_check_people == 0 or self.fit_check_people >= MIN_CHECK_PEOPLE,
            f"apply.fit_check_people is {self.fit_check_people}; it must be at least "
            f"{MIN_CHECK_PEOPLE}, or 0 for no check",
        )
        _require_fraction("apply", fit_check_threshold=self.fit_check_threshold)

    def newton_steps(self, method: str) -> int:
        """Steps for a model that was fitted by some method."""
        return _NEWTON_STEPS[method] if self.refine == -1 else self.refine


@dataclass(frozen=True)
class RunConfig:
    """Everything that the results depend on besides the cohort."""

    seed: int = 42
    qc: QCConfig = field(default_factory=QCConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    neural: NeuralConfig = field(default_factory=NeuralConfig)
    apply: ApplyConfig = field(default_factory=ApplyConfig)
    source: SourceConfig = field(default_factory=SourceConfig)

    def __post_init__(self) -> None:
        require(
            0 <= self.seed < 2**32,
            f"seed is {self.seed}; it must be in [0, 4294967295]",
        )
        require(
            self.train.encoder or self.fit.method != NEURAL,
            'train.encoder is false and fit.method is "neural", which is an encoder; '
            'leave --no-encoder out or fit with "likelihood"',
        )
        require(
            self.train.encoder or self.apply.refine != 0,
            "train.encoder is false and apply.refine is 0, which is the encoder's "
            "answer alone; leave apply.refine at -1, or train an encoder",
        )

    @property
    def held_out(self) -> float:
        """Share of the people kept out of the fit."""
        return self.neural.held_out if self.fit.method == NEURAL else 0.0

    def as_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return dataclasses.asdict(self)


def load_config(path: Path | None) -> RunConfig:
    """Read a TOML configuration; without one, the defaults.

    Raises
    ------
    InputError
        If the file is missing, is not TOML, or has an unknown key or a bad value.
    """
    return RunConfig() if path is None else toml_file.read(RunConfig, path, "--config")


def replace_values(config: RunConfig, section: str, **values: Any) -> RunConfig:
    """Return the configuration with some values of a section replaced."""
    if not section:
        return dataclasses.replace(config, **values)
    changed = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: changed})
