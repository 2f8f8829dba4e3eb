"""What a mask selects, cut up by the chunks of an array.

Pure arithmetic on indices, as tasks are given them; no input or output.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Selection: TypeAlias = slice | Integers


@dataclass(frozen=True, eq=False)
class MaskPart:
    """What a mask selects of one chunk, of which there is one element at least.

    Attributes
    ----------
    bounds
        From the first element to the last: what has to be read.
    within
        Which of these; a slice of all of them copies nothing.
    """

    bounds: slice
    within: Selection

    @property
    def positions(self) -> Selection:
        """Positions of the elements in the whole."""
        if isinstance(self.within, slice):
            return self.bounds
        return self.bounds.start + self.within

    def __len__(self) -> int:
        if isinstance(self.within, slice):
            return int(self.bounds.stop - self.bounds.start)
        return self.within.size


def cut_mask(mask: npt.NDArray[np.bool_], chunk: int) -> list[MaskPart]:
    """Cut up a mask; chunks of which nothing is selected are left out.

    >>> parts = cut_mask(np.array([True, True, False, True, False, False, False]), 3)
    >>> [part.positions for part in parts]
    [slice(0, 2, None), slice(3, 4, None)]
    >>> cut_mask(np.array([False, True, False, True]), 4)[0].positions
    array([1, 3])
    """
    parts: list[MaskPart] = []
    for start in range(0, len(mask), chunk):
        selected = np.flatnonzero(mask[start : start + chunk])
        if not selected.size:
            continue
        first, stop = int(selected[0]), int(selected[-1]) + 1
        bounds = slice(start + first, start + stop)
        within: Any = selected - first
        whole = selected.size == stop - first
        parts.append(MaskPart(bounds, slice(None) if whole else within))
    return parts
