"""What quality control did, in lines for people: steps, and pairs of relatives.

Takes the records that `prepare` leaves in a store's attributes; reads and writes
nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.quantities import count_things

_AXES = {"variants": ("variant", "variants"), "samples": ("person", "people")}


def describe_relatives(relatives: Mapping[str, int]) -> str:
    """Pairs of relatives and people who cannot be told, as `prepare` counts them.

    >>> describe_relatives({"first_degree_pairs": 11, "second_degree_pairs": 1})
    '11 first-degree pairs, 1 second-degree pair'
    """
    parts = []
    for name, n in relatives.items():
        if name.endswith("_pairs"):
            kind = name.removesuffix("_pairs").replace("_degree", "-degree")
            kind = kind.replace("_", " ")
            parts.append(count_things(n, f"{kind} pair", f"{kind} pairs"))
    told = ", ".join(parts)
    n_inbred = relatives.get("n_samples_inbred", 0)
    if not n_inbred:
        return told
    inbred = count_things(n_inbred, "person has", "people have")
    return (
        f"{told}; {inbred} hardly any heterozygous calls, and no relatives that could "
        "be told but duplicates"
    )


def say_relatives(
    relatives: Mapping[str, int] | None, n_projected: int | None
) -> str | None:
    """The line that warns of relatives in the fit; None where there is nothing to say.

    Parameters
    ----------
    relatives
        Pairs of relatives; None where nobody looked.
    n_projected
        People who left the fit for a relative; None where the settings keep them.

    >>> say_relatives({"duplicate_pairs": 1}, 1)
    'relatives: 1 duplicate pair; qc.relatives leaves 1 person out of the fit'
    """
    if not relatives or not any(relatives.values()):
        return None
    line = f"relatives: {describe_relatives(relatives)}"
    if not any(n for name, n in relatives.items() if name.endswith("_pairs")):
        return line
    if n_projected is None:
        return (
            f"{line}; all are in the fit, which may take them for a population of "
            'their own; qc.relatives = "project" leaves out all but a set without a '
            "pair"
        )
    left = count_things(n_projected, "person", "people")
    return f"{line}; qc.relatives leaves {left} out of the fit"


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
