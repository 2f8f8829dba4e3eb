#!/usr/bin/env bash
# bio2zarr 0.2.1, tskit2zarr: sites of a continuous genome fall on one position.
#
# Expected: a tree sequence of a continuous genome, which msprime draws on request
# (discrete_genome=False), is refused, or its sites keep distinct positions, or a warning
# says that they do not. VCF positions begin at 1.
# Behaviour: positions are rounded half to even and shifted by nothing, in silence: sites
# at 0.2 and 0.4 both become position 0, and those at 3.5 and 4.5 both become 4.
# Seen: positions of the sites 0.2 0.4 2.5 3.5 4.5 are 0 0 2 4 4, status 0
# So: two different variants have one position, and with the alleles 0 and 1, or A and T
# everywhere, they look like one variant that is there twice. Draw a discrete genome.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install --quiet 'bio2zarr[tskit]==0.2.1' tskit==1.0.3 zarr==3.1.6
cat > draw.py <<'PYTHON'
import tskit

tables = tskit.TableCollection(sequence_length=10)
people = [tables.individuals.add_row() for _ in range(2)]
leaves = [tables.nodes.add_row(1, 0, individual=people[i // 2]) for i in range(4)]
root = tables.nodes.add_row(time=1)
for leaf in leaves:
    tables.edges.add_row(0, 10, root, leaf)
for i, position in enumerate([0.2, 0.4, 2.5, 3.5, 4.5]):
    site = tables.sites.add_row(position, "A")
    tables.mutations.add_row(site, leaves[i % 4], "T")
tables.sort()
tables.tree_sequence().dump("sites.trees")
PYTHON
environment/bin/python draw.py
environment/bin/tskit2zarr convert sites.trees sites.vcz > log.txt 2>&1
environment/bin/python -c "
import zarr
print(*zarr.open('sites.vcz', mode='r')['variant_position'][:])" > seen.txt
diff seen.txt - <<< "0 0 2 4 4"
if grep -qi warn log.txt; then echo "it warns now"; exit 1; fi
echo "as described"
