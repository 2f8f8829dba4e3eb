"""From a cohort in VCF Zarr to ancestry proportions in Zarr.

    cohort -> qc -> prepare -> stream -> fit -> train -> apply -> report, export

Each arrow is one module and one store; a later stage imports an earlier one's types,
never the reverse. `pipeline.run` puts the stages in order, `pipeline.cli` is the
command line, `estimate_ancestry` and `project_ancestry` are for sgkit's Datasets, and
`load_estimator` gives a model as a Flax NNX module.
"""

from pipeline.workflow import estimate_ancestry, load_estimator, project_ancestry

__all__ = ["estimate_ancestry", "load_estimator", "project_ancestry"]
