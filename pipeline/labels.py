"""Labels: people whose population is known, from a text file.

Each line names a person and a population, with a tab between them; or, as in
ADMIXTURE's .pop, a population alone, of the person in that place of the cohort.
Labelled people keep all of their ancestry in their population; the others are fitted
as usual.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import provenance
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.prepared import Prepared

logger = logging.getLogger(__name__)

UNLABELLED = "-"
HEADER = "sample_id"
# Of one person, a frequency can only be 0, 1/2 or 1.
MIN_PEOPLE = 2
FREE = -1


class Label(NamedTuple):
    """One line of the file, with its number from 1."""

    population: str
    line: int


@dataclass(frozen=True)
class Labels:
    """Known populations of some people.

    Attributes
    ----------
    path
        The file.
    people
        Label of each labelled person, by sample id.
    in_order
        Label of each person in the cohort's order, where the file names no ids;
        `of_people` makes the others of them.
    """

    path: Location
    people: dict[str, Label]
    in_order: tuple[Label, ...] | None = None

    def of_people(self, sample_ids: npt.NDArray[np.str_]) -> "Labels":
        """The same labels by the ids of the cohort's people.

        Raises
        ------
        InputError
            If lines name no ids, and there are not as many as people, or no
            populations either.
        """
        if self.in_order is None:
            return self
        if len(self.in_order) != len(sample_ids):
            raise InputError(
                f"{self.path} has {len(self.in_order)} lines of one word, and the "
                f"cohort {len(sample_ids)} people; write a line for each, in their "
                "order, or sample id, tab and population"
            )
        if {label.population for label in self.in_order} <= set(sample_ids.tolist()):
            raise InputError(
                f"{self.path} lists sample ids and no populations; write sample id, "
                "tab and population"
            )
        pairs = zip(sample_ids.tolist(), self.in_order, strict=True)
        people = {name: label for name, label in pairs if _is_known(label)}
        return Labels(self.path, people)

    @property
    def populations(self) -> list[str]:
        """Names of the labelled populations, sorted: the first of the K."""
        return sorted({label.population for label in self.people.values()})

    @property
    def fingerprint(self) -> str:
        """Digest of who is in which population, whatever the order of the lines."""
        known = {person: label.population for person, label in self.people.items()}
        return provenance.digest(known)


def read_labels(path: Location) -> Labels:
    """Read a file of labels.

    Lines of one word each are ADMIXTURE's .pop: populations in the order of the
    cohort's people, "-" for none. Otherwise there are two fields a line, with a tab
    between them: sample id and population. "-" for the population leaves the person
    unlabelled, as does leaving out the line. Empty lines, and a first line that begins
    with "#" or with the field "sample_id", are skipped.

    Raises
    ------
    InputError
        If the file cannot be read, a line has not two fields, an id is there twice, or
        nobody is labelled; names the line.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check --labels") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; check --labels") from error
    if _are_words(lines):
        return _read_words(path, lines)
    seen: dict[str, int] = {}
    people = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and _is_header(line)):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise InputError(
                f"{path}, line {number}: {len(fields)} fields; write a sample id, a "
                'tab and a population, "-" for none'
            )
        person, population = fields
        if person in seen:
            raise InputError(
                f"{path}, line {number}: sample id {person!r} is on line "
                f"{seen[person]} already; keep one of them"
            )
        seen[person] = number
        if population != UNLABELLED:
            people[person] = Label(population, number)
    if not people:
        raise InputError(f"{path} labels nobody; leave --labels out or add lines")
    return Labels(path, people)


def _are_words(lines: Sequence[str]) -> bool:
    """Whether there are lines, and each that is not empty has one word and no tab."""
    written = [line for line in lines if line.strip()]
    return bool(written) and all(
        len(line.split()) == 1 and "\t" not in line for line in written
    )


def _read_words(path: Location, lines: Sequence[str]) -> Labels:
    words = "\n".join(lines).rstrip().split("\n")
    for number, word in enumerate(words, start=1):
        if not word.strip():
            raise InputError(
                f'{path}, line {number} is empty; write "-" for a person without label'
            )
    labels = tuple(Label(word.strip(), n) for n, word in enumerate(words, start=1))
    if not any(map(_is_known, labels)):
        raise InputError(f"{path} labels nobody; leave --labels out or add lines")
    logger.info(
        "%s has one word a line: populations in the order of the cohort's people, as "
        "in ADMIXTURE's .pop",
        path,
    )
    return Labels(path, {}, labels)


def _is_known(label: Label) -> bool:
    return label.population != UNLABELLED


def _is_header(line: str) -> bool:
    return line.startswith("#") or line.split("\t")[0].strip() == HEADER


def population_names(labels: Labels, n_populations: int) -> list[str]:
    """Names of all populations: the labels, sorted, then numbers from L + 1 to K.

    Raises
    ------
    InputError
        If there are more labels than populations, or a label is such a number.
    """
    known = labels.populations
    if len(known) > n_populations:
        raise InputError(
            f"{labels.path} has {len(known)} populations ({', '.join(known[:5])}"
            f"{', ...' if len(known) > 5 else ''}) and the model {n_populations}; "
            f"raise -k to {len(known)} or more, or merge labels"
        )
    numbered = [f"population_{i + 1}" for i in range(len(known), n_populations)]
    for name in sorted(set(known) & set(numbered)):
        raise InputError(
            f"{labels.path} names a population {name!r}, as unlabelled ones are named; "
            "give it another name"
        )
    return known + numbered


def place_labels(
    labels: Labels, sample_ids: npt.NDArray[np.str_], n_populations: int
) -> npt.NDArray[np.int16]:
    """Population that each person is fixed to.

    Parameters
    ----------
    labels
        The labels.
    sample_ids
        Ids of the cohort's people.
    n_populations
        K.

    Returns
    -------
    Index among `population_names`, shape (samples,); -1 where the person is free.

    Raises
    ------
    InputError
        If a labelled person is not in the cohort, or the populations do not fit.
    """
    names = population_names(labels, n_populations)
    position = {sample_id: i for i, sample_id in enumerate(sample_ids.tolist())}
    index = {name: i for i, name in enumerate(names)}
    fixed = np.full(len(sample_ids), FREE, np.int16)
    for person, label in labels.people.items():
        if person not in position:
            raise InputError(
                f"{labels.path}, line {label.line}: sample id {person!r} is not in the "
                "cohort; correct or remove the line"
            )
        fixed[position[person]] = index[label.population]
    return fixed


def fix_labelled(
    prepared: Prepared,
    labels: Labels,
    sample_ids: npt.NDArray[np.str_],
    n_populations: int,
) -> Prepared:
    """The prepared people, those who are labelled fixed to their population.

    Raises
    ------
    InputError
        As `place_labels`, or if a population has fewer than two people in the fit.
    """
    fixed = place_labels(labels, sample_ids, n_populations)
    for population, name in enumerate(labels.populations):
        n_people = int(np.count_nonzero(prepared.in_fit & (fixed == population)))
        if n_people < MIN_PEOPLE:
            raise InputError(
                f"{labels.path}: population {name!r} has {n_people} people that passed "
                f"quality control, and needs {MIN_PEOPLE}; label more people or merge "
                "it with another"
            )
    names = tuple(population_names(labels, n_populations))
    return dataclasses.replace(prepared, fixed=fixed, population_names=names)
