"""The genome build that a cohort's positions are on, and names of contigs.

Told by the lengths of the chromosomes, else by the build's name in the header that a
VCF file left in its store. Pure functions, no input or output.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = "unknown"

# Lengths of chromosomes 1 to 22, as the assemblies were released.
_LENGTHS = {
    "NCBI36": (
        *(247249719, 242951149, 199501827, 191273063, 180857866, 170899992),
        *(158821424, 146274826, 140273252, 135374737, 134452384, 132349534),
        *(114142980, 106368585, 100338915, 88827254, 78774742, 76117153),
        *(63811651, 62435964, 46944323, 49691432),
    ),
    "GRCh37": (
        *(249250621, 243199373, 198022430, 191154276, 180915260, 171115067),
        *(159138663, 146364022, 141213431, 135534747, 135006516, 133851895),
        *(115169878, 107349540, 102531392, 90354753, 81195210, 78077248),
        *(59128983, 63025520, 48129895, 51304566),
    ),
    "GRCh38": (
        *(248956422, 242193529, 198295559, 190214555, 181538259, 170805979),
        *(159345973, 145138636, 138394717, 133797422, 135086622, 133275309),
        *(114364328, 107043718, 101991189, 90338345, 83257441, 80373285),
        *(58617616, 64444167, 46709983, 50818468),
    ),
    "T2T-CHM13v2.0": (
        *(248387328, 242696752, 201105948, 193574945, 182045439, 172126628),
        *(160567428, 146259331, 150617247, 134758134, 135127769, 133324548),
        *(113566686, 101161492, 99753195, 96330374, 84276897, 80542538),
        *(61707364, 66210255, 45090682, 51324926),
    ),
}
BUILDS = (*_LENGTHS, UNKNOWN)
_NAMES = {
    "NCBI36": r"ncbi_?36|hg18|b36",
    "GRCh37": r"grch37|hg19|b37|hs37d5|g1k_v37|assembly19",
    "GRCh38": r"grch38|hg38|b38|hs38dh|hs38|assembly38",
    "T2T-CHM13v2.0": r"chm13v2|chm13_?v2\.0|hs1",
}
# The keys of a VCF header that may name the build.
_HEADER_KEYS = ("reference", "assembly", "contig")


def contig_key(name: str) -> str:
    """A contig's name as it is compared: without "chr" or leading zeros, M as MT.

    >>> [contig_key(name) for name in ("chr1", "01", "chrM", "X", "GL000191.1")]
    ['1', '1', 'MT', 'X', 'GL000191.1']
    """
    bare = name[3:] if name[:3].lower() == "chr" and len(name) > 3 else name
    if bare.isdecimal():
        return bare.lstrip("0") or "0"
    return {"M": "MT", "x": "X", "y": "Y", "m": "MT", "mt": "MT"}.get(bare, bare)


def identify(lengths: Mapping[str, int], header: Iterable[tuple[str, str]]) -> str:
    """The build that contigs of these lengths, and else the header, tell of.

    Parameters
    ----------
    lengths
        Length of each contig by its name, in base pairs, where known.
    header
        Keys and values of a VCF header's lines.

    Returns
    -------
    One of BUILDS: UNKNOWN where nothing tells, or several builds are told of.

    >>> identify({"chr1": 248956422}, [])
    'GRCh38'
    >>> identify({}, [("reference", "file:///data/human_g1k_v37.fasta")])
    'GRCh37'
    """
    known = {contig_key(name): length for name, length in lengths.items()}
    by_length = {
        build
        for build, sizes in _LENGTHS.items()
        for number, size in enumerate(sizes, start=1)
        if known.get(str(number)) == size
    }
    if by_length:
        return by_length.pop() if len(by_length) == 1 else UNKNOWN
    text = " ".join(value for key, value in header if key in _HEADER_KEYS)
    by_name = {
        build
        for build, names in _NAMES.items()
        if re.search(rf"(?<![a-z0-9])({names})(?![0-9])", text, re.IGNORECASE)
    }
    return by_name.pop() if len(by_name) == 1 else UNKNOWN


def header_lines(attrs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys and values of the VCF header in a VCF Zarr store's attributes.

    bio2zarr keeps pairs in `vcf_meta_information`, and once kept the text whole, in
    `vcf_header`.
    """
    lines = re.findall(r"^##([^=\n]+)=(.*)$", str(attrs.get("vcf_header", "")), re.M)
    pairs = attrs.get("vcf_meta_information") or []
    lines += [(str(key), str(value)) for key, value in pairs]
    return lines


def header_lengths(header: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Lengths that the contig lines of a VCF header state.

    >>> header_lengths([("contig", "<ID=chr1,length=248956422>")])
    {'chr1': 248956422}
    """
    found = {}
    for key, value in header:
        name = re.search(r"[<,]ID=([^,>]+)", value)
        length = re.search(r"[<,]length=(\d+)", value)
        if key == "contig" and name and length:
            found[name[1]] = int(length[1])
    return found
