"""Lines that say what quality control did."""

from typing import Any

from pipeline.qc_summary import describe_quality_control, say_relatives

STEPS: list[dict[str, Any]] = [
    {
        "name": "biallelic",
        "axis": "variants",
        "threshold": None,
        "removed": 0,
        "remaining": 13_928,
    },
    {
        "name": "sample_call_rate",
        "axis": "samples",
        "threshold": 0.9,
        "removed": 1,
        "remaining": 323,
    },
    {
        "name": "linkage",
        "axis": "variants",
        "threshold": 0.1,
        "removed": 3_703,
        "remaining": 10_225,
    },
]


def test_describe__says_what_each_step_removed_and_what_is_left():
    relatives = {"first_degree_pairs": 11, "second_degree_pairs": 0}
    assert describe_quality_control(STEPS, relatives) == [
        "quality control keeps 10,225 of 13,928 variants and 323 of 324 people",
        "  biallelic         removes 0 variants",
        "  sample_call_rate  removes 1 person (at 0.9)",
        "  linkage           removes 3,703 variants (at 0.1)",
        "  close relatives: 11 first-degree pairs, 0 second-degree pairs",
    ]


def test_describe__of_no_steps_is_nothing():
    assert describe_quality_control([], None) == []


COUNTS = {
    "duplicate_pairs": 28,
    "first_degree_pairs": 2,
    "second_degree_pairs": 1,
    "n_samples_inbred": 0,
}
NOBODY = dict.fromkeys(COUNTS, 0)


def test_say_relatives__counts_duplicates_apart_and_names_the_setting():
    line = say_relatives(COUNTS, None)
    assert line is not None
    assert line.startswith(
        "relatives: 28 duplicate pairs, 2 first-degree pairs, 1 second-degree pair; "
    )
    assert 'qc.relatives = "project"' in line
    assert "\n" not in line
    line = say_relatives(COUNTS, 9)
    assert line is not None
    assert line.endswith("; qc.relatives leaves 9 people out of the fit")


def test_say_relatives__of_nobody_is_nothing():
    assert say_relatives(None, None) is None
    assert say_relatives(NOBODY, None) is None
    assert say_relatives(NOBODY, 0) is None


def test_say_relatives__says_of_whom_kinship_cannot_be_told():
    line = say_relatives({**NOBODY, "n_samples_inbred": 80}, None)
    assert line is not None
    assert "80 people have hardly any heterozygous calls" in line
    assert "all are in the fit" not in line
