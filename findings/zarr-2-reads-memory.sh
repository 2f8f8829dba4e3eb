#!/usr/bin/env bash
# zarr-python 2.18.7 (numcodecs 0.15.2, numpy 2.1.3), arrays that zarr-python 3 writes.
#
# Expected: an absent chunk of an array whose fill_value is null is read as zeros, as
# zarr-python 3 does, or is an error. zarr-python 3 leaves out chunks that are all zero,
# and bio2zarr 0.2.1 writes null, so such arrays are common.
#
# Seen: zarr 2 returns memory that nobody wrote. The array that it fills comes from
# numpy.empty_like, which this script makes hold 77 so that the output is the same
# always; in practice it is whatever the process had there before.
#
#     absent chunk read as: [77, 77, 77, 77]
#
# Exits 0 while this is so, and 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    zarr==2.18.7 numcodecs==0.15.2 numpy==2.1.3
"$folder/venv/bin/python" - "$folder/array.zarr" <<'PYTHON'
import os
import sys

import numpy as np
import zarr

array = zarr.open_array(
    sys.argv[1], "w", shape=8, chunks=4, dtype="i1", fill_value=None
)
array[:] = [0, 0, 0, 0, 1, 1, 1, 1]
os.remove(os.path.join(sys.argv[1], "0"))  # as zarr-python 3 leaves it out

empty_like = np.empty_like


def used_memory(*args, **options):
    made = empty_like(*args, **options)
    made.fill(77)
    return made


np.empty_like = used_memory
found = zarr.open_array(sys.argv[1], "r")[:4].tolist()
print("absent chunk read as:", found)
sys.exit(0 if found == [77, 77, 77, 77] else 1)
PYTHON
