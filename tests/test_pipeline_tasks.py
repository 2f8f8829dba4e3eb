from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ClusterError
from pipeline.tasks import Cluster


def _cluster_of(names: list[str]) -> Cluster:
    """A cluster of which only the workers' names are known; addresses run backwards."""
    workers = {f"tcp://{99 - i}": {"name": name} for i, name in enumerate(names)}

    def sync(function: Callable[[], Any], callback_timeout: float) -> Any:
        return function()

    scheduler = SimpleNamespace(identity=lambda: {"workers": workers})
    return Cluster(SimpleNamespace(scheduler=scheduler, sync=sync), 1.0)


def test_workers__are_in_order_of_name():
    assert _cluster_of(["cpu-1", "cpu-0"]).workers == ["tcp://98", "tcp://99"]


def test_spread__names_nobody_while_all_workers_are_being_replaced():
    assert _cluster_of([]).spread(2) == [None, None]


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("n_tasks", [1, 2, 5, 8, 17])
def test_spread__keeps_neighbours_together_and_is_even(n_workers, n_tasks):
    few = _cluster_of([f"cpu-{i}" for i in range(n_workers)])
    order: list[str | None] = [*few.workers]
    places = [order.index(address) for address in few.spread(n_tasks)]
    assert len(places) == n_tasks
    assert places == sorted(places)
    counts = [places.count(place) for place in range(n_workers)]
    assert max(counts) - min(counts) <= 1


def test_last__is_another_than_the_first():
    assert _cluster_of(["cpu-1", "cpu-0", "cpu-2"]).last == "tcp://97"
    assert _cluster_of(["cpu-0"]).last == "tcp://99"
    assert _cluster_of([]).last is None


def test_rehearse__needs_a_worker_that_would_wait():
    several = _cluster_of(["cpu-0", "cpu-1"])
    submitted: list[dict[str, Any]] = []
    several.client.submit = lambda *_, **options: submitted.append(options)
    several.rehearse(len, "abc")
    (options,) = submitted
    assert (options["workers"], options["priority"]) == (["tcp://98"], -1)
    for names in (["cpu-0"], []):
        assert _cluster_of(names).rehearse(len, "abc") is None


def test_spread__of_no_tasks_is_empty():
    assert _cluster_of(["cpu-0"]).spread(0) == []


@pytest.mark.parametrize("error", [TimeoutError("too long"), OSError("closed")])
def test_workers__of_a_scheduler_that_does_not_answer(error):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    client = SimpleNamespace(scheduler=SimpleNamespace(identity=1), sync=fail)
    lost = Cluster(client, 1.0)
    message = rf"the scheduler does not answer \({error}\); start it again and go on"
    with pytest.raises(ClusterError, match=message):
        _ = lost.workers
