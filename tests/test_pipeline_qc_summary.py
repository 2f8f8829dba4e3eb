"""Lines that say what quality control did."""

from typing import Any

from pipeline.qc_summary import describe_quality_control

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
