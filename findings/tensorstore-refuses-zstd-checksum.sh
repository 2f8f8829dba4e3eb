#!/usr/bin/env bash
# tensorstore 0.1.86, arrays of zarr-python 2.18.7 (numcodecs 0.15.2, numpy 2.1.3).
#
# Expected: the zarr driver reads arrays of format 2 that numcodecs compressed with
# Zstandard. Since numcodecs 0.13 their metadata have a member "checksum", true or
# false, beside "id" and "level".
#
# Seen: it refuses both, though it reads the very chunks, and checks their checksum,
# once the member is taken out of .zarray.
#
#     checksum false: Object includes extra members: "checksum"
#     checksum true: Object includes extra members: "checksum"
#     checksum true, member taken out: read
#
# Exits 0 while this is so, and 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorstore==0.1.86 zarr==2.18.7 numcodecs==0.15.2 numpy==2.1.3
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import pathlib
import re
import sys

import numcodecs
import numpy as np
import tensorstore
import zarr


def read(path):
    store = {"driver": "file", "path": f"{path}/"}
    try:
        spec = {"driver": "zarr", "kvstore": store}
        values = tensorstore.open(spec).result().read().result()
    except ValueError as error:
        found = re.search(r'Object includes extra members: "\w+"', str(error))
        return found[0] if found else str(error)
    return "read" if (values == np.arange(10)).all() else "other values"


found = []
for checksum in (False, True):
    path = pathlib.Path(sys.argv[1], f"{checksum}.zarr")
    codec = numcodecs.Zstd(1, checksum=checksum)
    array = zarr.open_array(
        str(path), "w", shape=10, chunks=5, dtype="i8", compressor=codec
    )
    array[:] = np.arange(10)
    found.append(f"checksum {str(checksum).lower()}: {read(path)}")
layout = json.loads((path / ".zarray").read_text())
del layout["compressor"]["checksum"]
(path / ".zarray").write_text(json.dumps(layout))
found.append(f"checksum true, member taken out: {read(path)}")
print("\n".join(found))
expected = [
    'checksum false: Object includes extra members: "checksum"',
    'checksum true: Object includes extra members: "checksum"',
    "checksum true, member taken out: read",
]
sys.exit(0 if found == expected else 1)
PYTHON
