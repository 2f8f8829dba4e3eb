"""From a cohort in VCF Zarr to ancestry proportions in Zarr.

    cohort -> qc -> prepare -> stream -> fit -> train -> apply -> report, export

Each arrow is one module and one store; a later stage imports an earlier one's types,
never the reverse. `pipeline.run` puts the stages in order and `pipeline.cli` is the
command line.
"""
