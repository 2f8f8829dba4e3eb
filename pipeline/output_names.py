"""Names of what a command makes, which must say what it will be.

Pure functions of names. A report called fig.pdf would hold HTML, and a store called
result.csv would be a folder.
"""

from pipeline.errors import InputError

HTML = (".html", ".htm")
# What other programs would take a file of such a name for.
_FILES = (
    *(".csv", ".tsv", ".txt", ".q", ".p", ".json", ".toml", ".log", *HTML),
    *(".pdf", ".png", ".svg", ".jpg", ".xlsx", ".parquet", ".zip", ".gz"),
    *(".vcf", ".bcf", ".bed", ".bim", ".fam", ".pgen", ".pvar", ".psam", ".bgen"),
    *(".npy", ".npz", ".h5"),
)


def check_folder(name: str) -> None:
    """Refuse a name of a file for a store or a folder of results.

    Raises
    ------
    InputError
        If programs would take it for a file.

    >>> check_folder("out"), check_folder("s3://bucket/v1.2/ancestry.zarr")
    (None, None)
    """
    ending = _ending(name, _FILES)
    if ending:
        raise InputError(
            f"{name} would be a folder of Zarr arrays, not a {ending} file; name it "
            "without that ending, and make text of it with `streamixture export`, or a "
            "page with `streamixture report`"
        )


def check_suffix(name: str, suffixes: tuple[str, ...], what: str) -> None:
    """Refuse a file whose name does not say what it will hold.

    Raises
    ------
    InputError
        If it ends otherwise.

    >>> check_suffix("Report.HTML", HTML, "the report")
    """
    if not _ending(name, suffixes):
        raise InputError(
            f"{name}: {what} is written as {suffixes[0]} alone; name it with that "
            f"ending{_printing(suffixes)}"
        )


def _printing(suffixes: tuple[str, ...]) -> str:
    return ", and print the page for a PDF" if HTML[0] in suffixes else ""


def check_prefix(name: str) -> None:
    """Refuse a whole file's name for the beginning of several.

    Raises
    ------
    InputError
        If programs would take it for a file.
    """
    ending = _ending(name, _FILES)
    if ending:
        start = name[: -len(ending)]
        raise InputError(
            f"{name} is to be the beginning of several files' names, such as "
            f"{name}.tsv; name {start or 'one'} without {ending}"
        )


def _ending(name: str, suffixes: tuple[str, ...]) -> str:
    return next((end for end in suffixes if name.lower().endswith(end)), "")
