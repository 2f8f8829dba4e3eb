#!/usr/bin/env bash
# cyvcf2 0.35.0: a haploid call of the second alternate allele counts as missing.
#
# Expected: a haploid call (VCF 4.2 allows `1` and `2` in GT, as males have on X) is
# called, whichever allele it names. `num_called`, `call_rate` and `gt_types` treat the
# first and the second alternate allele alike, as they do in diploid calls.
# Behaviour: `gt_types` of haploid `1` is 3 (homozygous alternate), of haploid `2` it is
# 2 (unknown), and `num_called` leaves it out. `genotypes` has the allele, in both.
# Seen:
#   GT=1 gt_type=3 genotype=[1, True]
#   GT=2 gt_type=2 genotype=[2, True]
#   GT=2/2 gt_type=3 genotype=[2, 2, False]
#   called 2 of 3
# So: who counts calls of X with `gt_types` loses males at sites of three alleles; read
# `genotypes`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install --quiet cyvcf2==0.35.0
cat > seen.py <<'PYTHON'
import cyvcf2

calls = ["1", "2", "2/2"]
columns = "#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT".split()
with open("x.vcf", "w") as file:
    file.write("##fileformat=VCFv4.2\n##contig=<ID=X>\n")
    file.write('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n')
    file.write("\t".join([*columns, "A", "B", "C"]) + "\n")
    file.write("\t".join(["X", "100", ".", "A", "C,G", ".", ".", ".", "GT", *calls]))
    file.write("\n")
for variant in cyvcf2.VCF("x.vcf"):
    for call, kind, alleles in zip(calls, variant.gt_types, variant.genotypes):
        print(f"GT={call} gt_type={kind} genotype={alleles}")
    print(f"called {variant.num_called} of {len(calls)}")
PYTHON
environment/bin/python seen.py > seen.txt
diff seen.txt - <<'TEXT'
GT=1 gt_type=3 genotype=[1, True]
GT=2 gt_type=2 genotype=[2, True]
GT=2/2 gt_type=3 genotype=[2, 2, False]
called 2 of 3
TEXT
echo "as described"
