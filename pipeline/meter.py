"""What each stage of a run costs: wall and CPU time, memory, bytes read."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline import progress, provenance
from pipeline.location import Location
from pipeline.tasks import Cluster


@dataclass
class Meter:
    """Measures what each stage costs in this process and on the workers.

    Attributes
    ----------
    cluster
        The workers.
    path
        JSON file that the records are kept in.
    records
        One JSON object a stage, as run.json has it. `attempts` counts how often it
        was begun; the other figures are those of the attempt that finished it.
    """

    cluster: Cluster
    path: Location
    records: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A run that resumes keeps what its finished stages cost.
        with contextlib.suppress(FileNotFoundError):
            self.records = json.loads(self.path.read_text())

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, by name, until the block ends.

        One that was finished before the run was resumed keeps its figures.
        """
        record = self._begin(name)
        if "wall_seconds" in record:
            yield
            return
        progress.begin_stage(name)
        before = self._usage()
        watch = provenance.Stopwatch()
        yield
        wall_seconds = watch.seconds
        spent = [
            provenance.ProcessUsage(
                after.cpu_seconds - start.cpu_seconds,
                after.peak_rss_bytes,
                after.bytes_read - start.bytes_read,
            )
            for process, after in self._usage().items()
            # A worker that replaced a lost one counts from its own start.
            for start in [before.get(process, provenance.ProcessUsage(0.0, 0, 0))]
        ]
        record |= {
            "wall_seconds": round(wall_seconds, 3),
            "cpu_seconds": round(sum(usage.cpu_seconds for usage in spent), 3),
            "peak_rss_bytes": {
                "driver": spent[0].peak_rss_bytes,
                # None answers where all are just being replaced.
                "worker": max((u.peak_rss_bytes for u in spent[1:]), default=0),
            },
            "bytes_read": sum(usage.bytes_read for usage in spent),
        }
        provenance.write_json(self.path, self.records)
        costs = ("wall_seconds", "cpu_seconds", "bytes_read")
        progress.end_stage(name, {cost: record[cost] for cost in costs})

    def _begin(self, name: str) -> dict[str, Any]:
        """Record of a stage, in which this attempt is counted if it is not finished."""
        record = next((r for r in self.records if r["name"] == name), None)
        if record is None:
            record = {"name": name, "attempts": 0}
            self.records.append(record)
        if "wall_seconds" not in record:
            record["attempts"] += 1
            provenance.write_json(self.path, self.records)
        return record

    def _usage(self) -> dict[str, provenance.ProcessUsage]:
        return {"driver": provenance.process_usage(), **self.cluster.usage()}
