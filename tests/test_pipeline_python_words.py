"""Errors of the Python functions name parameters, not the options of commands."""

import ast
import re
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import BusyError, ClusterError, InputError
from pipeline.python_words import python_words, to_python

# Modules whose errors the Python functions can raise.
OF_FUNCTIONS = {
    *("admission", "budget", "bundle", "calls", "cluster", "cohort", "config"),
    *("cohort_metadata", "dataset_fit", "dataset_projection", "datasets", "decode"),
    *("devices", "distinct", "fit_stage", "location", "lock", "match"),
    *("overlap", "patience", "prepare", "projection_tasks", "qc", "regions", "run"),
    *("s3", "start", "store", "tasks", "toml_file", "variant_list", "vcf_zarr"),
    *("workers", "workspace", "zarr_files"),
}
# Options of other programs, and of dask's own command.
OF_OTHERS = re.compile(
    r"(import-model\s+--allele|plink2? --[a-z-]+( [\w.-]+)?( after --erase-phase)?"
    r"|--nthreads|--xla_\w+"
    r"|--zarr-format|--no-deps|--force-reinstall|--query-gpu|--format=\w+|--rm-dup"
    r"|--no-requeue|--dashboard-address|--test-only|--gres|--constraint|--erase-phase)"
)
# What only commands have: schedulers, files of metrics, labels.
OF_SCHEDULERS = re.compile(r"--(scheduler|cluster|metrics-file|labels|genome)\b")


def messages() -> list[tuple[str, str]]:
    """Every text of the package, of f-strings too, with the module that has it."""
    found = []
    for path in sorted(Path(pipeline.__file__).parent.glob("*.py")):
        if path.stem not in OF_FUNCTIONS:
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    p.value if isinstance(p, ast.Constant) else "X" for p in node.values
                ]
                found.append((path.stem, "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((path.stem, node.value))
    return found


def test_to_python__no_message_is_left_with_an_option():
    mentioned = [m for m in messages() if re.search(r"(?<![\w-])--[a-z]|\B-k\b", m[1])]
    assert len(mentioned) > 10
    for module, text in mentioned:
        words = OF_SCHEDULERS.sub("", OF_OTHERS.sub("", to_python(text)))
        assert not re.search(r"(?<![\w-])--[a-z]|\B-k\b", words), (module, text)


@pytest.mark.parametrize("kind", [InputError, BusyError, ClusterError])
def test_python_words__keeps_the_kind_of_error(kind: type[Exception]):
    with (
        pytest.raises(kind, match="^the Dataset is taken; pass overwrite=True$") as got,
        python_words({"/tmp/copy.vcz": "the Dataset"}),
    ):
        raise kind("/tmp/copy.vcz is taken; pass --overwrite")
    assert type(got.value) is kind
