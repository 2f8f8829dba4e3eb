"""What the stages do with workers: submit tasks, wait for them, ask who is there.

`cluster` makes the client and is the only module that imports dask's. Nothing waits
without an end, and no work that gets on is cut short (`patience`).
"""

import asyncio
import concurrent.futures
import contextlib
import queue
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pipeline import patience, provenance, sum_tree, workers
from pipeline.errors import ClusterError
from pipeline.patience import Patience
from pipeline.workers import WorkerReport

T = TypeVar("T")
R = TypeVar("R")

# What every process answers at once, unless it is frozen or just dying.
ANSWER_TIMEOUT_SECONDS = 30.0


class Future(Protocol):
    """A task under way, as dask's client knows it."""

    def add_done_callback(self, function: Callable[[Any], object]) -> None:
        """Call a function with this when the task has ended, well or badly."""

    def __await__(self) -> Any:
        """Wait for the result."""


@dataclass(frozen=True)
class Cluster:
    """A dask client with the few ways in which the stages use it.

    Attributes
    ----------
    client
        The client.
    patience_seconds
        How long a wait bears that no worker is at work, until others take over.
    """

    client: Any
    patience_seconds: float

    @property
    def workers(self) -> list[str]:
        """Addresses of the workers, in order of name."""
        found = self._look()
        return sorted(found, key=lambda address: str(found[address]["name"]))

    def _look(self) -> Mapping[str, Any]:
        """What the scheduler knows of each worker, by address."""
        identity = self.client.scheduler.identity
        try:
            found = self.client.sync(identity, callback_timeout=ANSWER_TIMEOUT_SECONDS)
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                f"the scheduler does not answer ({error}); start it again and go on "
                "with --resume"
            ) from error
        return found["workers"]

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        worker: str | None = None,
        priority: int = 0,
    ) -> Future:
        """Run a function on some worker, on a usual one if it is named.

        Of the tasks that a worker could begin, those of higher priority go first, and
        of these the one submitted first.

        The name is a preference, which keeps a shard with the worker that has it in
        memory; another worker takes over if that one is gone or busy.
        """
        options: dict[str, Any] = {
            "pure": False,
            "priority": priority,
            # What is submitted within dask's own tenth of a second would go in any
            # order, and a shard that was read ahead be wanted last.
            "fifo_timeout": 0,
        }
        if worker is not None:
            options |= {"workers": [worker], "allow_other_workers": True}
        return self.client.submit(function, *args, **options)

    @property
    def last(self) -> str | None:
        """A worker, and another than the first wherever there are several.

        None, for any worker, where all are just being replaced.
        """
        addresses = self.workers
        return addresses[-1] if addresses else None

    def rehearse(self, function: Callable[..., Any], *args: Any) -> Future | None:
        """Run a function on the last worker for what it compiles there.

        For while the others wait for the first, with what they will be given next or
        something of its shape. Nobody needs the result, nor that it is tried at all: it
        is given up when the future is. None where there is only one worker.
        """
        addresses = self.workers
        if len(addresses) < 2:
            return None
        return self.submit(function, *args, worker=addresses[-1], priority=-1)

    def parts(self, whole: Future, n_parts: int) -> list[Future]:
        """Parts of a tuple, so that one can be given up before the others."""
        # Before other tasks and their sums, or a worker would hold the whole.
        return [self.submit(_part_of, whole, i, priority=2) for i in range(n_parts)]

    def add(
        self, function: Callable[[T, T], T], sums: Mapping[range, Future]
    ) -> Future:
        """Add what neighbours come to, in the tree that the number of leaves fixes.

        Parameters
        ----------
        function
            Adds two of them.
        sums
            Those that are there, by the leaves that they are of: subtrees, all of them
            together the tree.
        """

        def add(left: Future, right: Future) -> Future:
            # Before other tasks, or a worker would hold all of its own sums.
            return self.submit(function, left, right, priority=1)

        tree = range(max(leaves.stop for leaves in sums))
        return sum_tree.add_up(tree, sums.get, add)

    def result(self, future: Future) -> Any:
        """Result of a task, waited for as long as some worker is at work.

        Raises
        ------
        ClusterError
            If none is for too long.
        """
        return self._wait(lambda: future)

    def results(self, futures: Sequence[Future]) -> list[Any]:
        """Results of several tasks, in order, fetched together."""
        # Dask's own gather leaves a traceback in the log when it is given up.
        return self._wait(lambda: asyncio.gather(*futures))

    def get(self, graph: Any, keys: Any, **options: Any) -> Any:
        """Compute a dask graph with the same patience, as one of dask's schedulers."""
        futures = self.client.get(graph, keys, sync=False, **options)
        return self._wait(lambda: self.client.gather(futures))

    def _wait(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Await on the client's loop what a time-out would only begin anew."""

        async def call() -> Any:
            return await function()

        loop = self.client.loop.asyncio_loop
        waiting = asyncio.run_coroutine_threadsafe(call(), loop)
        watch = Patience(self._look, self.patience_seconds)
        try:
            while concurrent.futures.wait([waiting], patience.CHECK_SECONDS).not_done:
                self._check(watch)
            return waiting.result()
        finally:
            waiting.cancel()

    def run_all(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """Run a function on each task, and yield the results as they come."""
        futures = [self.submit(function, task) for task in tasks]
        for _, result in self.completed(futures):
            yield result

    def completed(self, futures: Iterable[Future]) -> Iterator[tuple[Future, Any]]:
        """Yield futures with their results, in the order in which they finish."""
        finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        started = list(futures)
        for future in started:
            future.add_done_callback(finished.put)
        for _ in started:
            future = self._next(finished)
            yield future, self.result(future)

    def _next(self, finished: "queue.SimpleQueue[Future]") -> Future:
        watch = Patience(self._look, self.patience_seconds)
        while True:
            try:
                return finished.get(timeout=patience.CHECK_SECONDS)
            except queue.Empty:
                self._check(watch)

    def _check(self, watch: Patience) -> None:
        if watch.check():
            return
        with contextlib.suppress(OSError, TimeoutError):
            self.client.sync(
                lambda: self.client.run_on_scheduler(_stranded_task_runner()),
                callback_timeout=ANSWER_TIMEOUT_SECONDS,
            )

    def spread(self, n_tasks: int) -> list[str | None]:
        """A worker for each of several tasks: neighbouring tasks share one.

        Sums of neighbours are added first, so most of them never leave the worker.
        None, for any worker, where all are just being replaced.
        """
        addresses = self.workers
        if not addresses:
            return [None] * n_tasks
        return [addresses[i * len(addresses) // n_tasks] for i in range(n_tasks)]

    def usage(self) -> dict[str, provenance.ProcessUsage]:
        """What each worker process has used so far, by address."""
        answers = self.ask(provenance.process_usage)
        return {
            address: usage
            for address, usage in answers.items()
            if isinstance(usage, provenance.ProcessUsage)
        }

    def memory_limit(self) -> int | None:
        """Bytes that each worker may use; the smallest of theirs, None without any."""
        limits = [report.memory_limit_bytes for report in self.reports()]
        return min((limit for limit in limits if limit), default=None)

    def on_gpus(self) -> bool:
        """Whether any worker computes on a GPU."""
        return any(report.device.identity is not None for report in self.reports())

    def reports(self) -> list[WorkerReport]:
        """What each worker says of itself, in order of name."""
        answers = self.ask(workers.describe_worker).values()
        return [report for report in answers if isinstance(report, WorkerReport)]

    def ask(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """Call a function in each worker process, whatever task that is at.

        Returns
        -------
        What it returned or raised, by address in order of name. A worker that is
        frozen or dying has a TimeoutError or an OSError, and the others wait no longer
        for it than ANSWER_TIMEOUT_SECONDS.
        """

        async def ask_one(address: str) -> Any:
            # All workers at once would be lost with the first that is frozen.
            options: dict[str, Any] = {"workers": [address], "on_error": "return"}
            asked = self.client.run(function, *args, **options)
            try:
                return (await asyncio.wait_for(asked, ANSWER_TIMEOUT_SECONDS))[address]
            except (OSError, TimeoutError) as error:
                return error

        async def ask_all() -> list[Any]:
            return await asyncio.gather(*map(ask_one, addresses))

        addresses = self.workers
        return dict(zip(addresses, self.client.sync(ask_all), strict=True))


def _part_of(whole: Sequence[Any], index: int) -> Any:
    return whole[index]


def _stranded_task_runner() -> Callable[[Any], None]:
    """What makes a scheduler run tasks whose preferred worker was the last one.

    Dask's scheduler offers such a task to no worker that joins afterwards, though any
    other may take it over. A function inside a function is sent whole, so that the
    scheduler does without this package.
    """

    def run_stranded_tasks(dask_scheduler: Any) -> None:
        stranded = [t for t in dask_scheduler.unrunnable if t.loose_restrictions]
        if dask_scheduler.running:
            wanted = {task.key: "processing" for task in stranded}
            dask_scheduler.transitions(wanted, "streamixture-stranded-tasks")

    return run_stranded_tasks
