"""What quality control did, in lines for people: steps, and pairs of relatives.

Takes the records that `prepare` leaves in a store's attributes; reads and writes
nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.quantities import count_things

_AXES = {"variants": ("variant", "variants"), "samples": ("person", "people")}


def describe_relatives(relatives: Mapping[str, int]) -> str:
    """Pairs of relatives, as `prepare` counts them.

    >>> describe_relatives({"first_degree_pairs": 11, "second_degree_pairs": 1})
    '11 first-degree pairs, 1 second-degree pair'
    """
    parts = []
    for name, n in relatives.items():
        if name.endswith("_pairs"):
            kind = name.removesuffix("_pairs").replace("_degree", "-degree")
            kind = kind.replace("_", " ")
            parts.append(count_things(n, f"{kind} pair", f"{kind} pairs"))
    return ", ".join(parts)


def describe_quality_control(
    steps: Sequence[Mapping[str, Any]], relatives: Mapping[str, int] | None
) -> list[str]:
    """Lines that say what each step removed, and what is left.

    Parameters
    ----------
    steps
        The steps in order: `name`, `axis`, `threshold`, `removed`, `remaining`.
    relatives
        Pairs of relatives; None where nobody looked.
    """
    left = []
    for axis, words in _AXES.items():
        of_axis = [step for step in steps if step["axis"] == axis]
        if of_axis:
            n = of_axis[0]["removed"] + of_axis[0]["remaining"]
            left.append(f"{of_axis[-1]['remaining']:,} of {count_things(n, *words)}")
    lines = [f"quality control keeps {' and '.join(left)}"] if left else []
    width = max((len(step["name"]) for step in steps), default=0)
    for step in steps:
        removed = count_things(step["removed"], *_AXES[step["axis"]])
        limit = "" if step["threshold"] is None else f" (at {step['threshold']:,})"
        lines.append(f"  {step['name']:{width}}  removes {removed}{limit}")
    if relatives is not None:
        lines.append(f"  close relatives: {describe_relatives(relatives)}")
    return lines
