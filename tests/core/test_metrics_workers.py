"""MetricsCollector in several worker processes: any of them answers for all."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, sleep

import pytest

from nexus_core.metrics import MetricsCollector, _Refresher, prepare_multiprocess_dir
from nexus_core.statistics import CacheStatistics
from tests.core.scraping import pool_of, run_call, scrape, value


def serve_worker(directory: Path, pipe: Connection) -> None:
    """A worker process: does what it is told, answers each order when it is done."""
    collector = MetricsCollector(max_handlers=10, multiprocess_dir=directory)
    running = 0
    collector.watch_pool(lambda: pool_of(running))
    collector.watch_cache("memory", lambda: CacheStatistics(entries=1, bytes=10, max_bytes=100))
    collector.watch_cache("disk", lambda: CacheStatistics(entries=1, bytes=1000, max_bytes=9999))
    answer: object = None
    while True:
        pipe.send(answer)
        answer = None
        order, argument = pipe.recv()
        if order == "call":
            for _ in range(argument):
                run_call(collector, peak_memory=argument)
        elif order == "running":
            running = argument
        elif order == "refresh":
            collector.refresh()
        elif order == "scrape":
            answer = scrape(collector)
        elif order == "close":
            collector.close()


class Worker:
    """A worker process and the pipe that orders it about."""

    def __init__(self, directory: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_worker, args=(directory, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def tell(self, order: str, argument: object = None) -> object:
        """Give an order and wait for its answer."""
        self.pipe.send((order, argument))
        return self.pipe.recv()

    def kill(self) -> None:
        """End it without any notice."""
        self.process.kill()
        self.process.join()


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Starts workers on one directory, `tmp_path / "metrics"`, and ends them after the test."""
    directory = tmp_path / "metrics"
    prepare_multiprocess_dir(directory)
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(directory))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def calls_of(samples: object) -> float:
    """How many calls a scrape counts."""
    assert isinstance(samples, dict)
    return value(samples, "nexus_handler_executions_total", handler="hello", status="success")


def test_any_worker_answers_for_all(hire: Callable[[], Worker]) -> None:
    """Counts add up at once whichever worker is scraped; shared things are not added up."""
    first, second = hire(), hire()
    first.tell("call", 3)
    second.tell("call", 40)
    for worker in (first, second):
        samples = worker.tell("scrape")
        assert isinstance(samples, dict)
        assert calls_of(samples) == 43
        assert value(samples, "nexus_handler_execution_seconds_count", handler="hello") == 43
        assert value(samples, "nexus_peak_memory_bytes") == 40
    samples = first.tell("scrape")
    assert isinstance(samples, dict)
    assert value(samples, "nexus_cache_bytes", tier="memory") == 20
    assert value(samples, "nexus_cache_bytes", tier="disk") == 1000


def test_a_siblings_gauges_follow_its_activity(hire: Callable[[], Worker]) -> None:
    """After a worker's last call its gauges come right without it being scraped."""
    first, second = hire(), hire()
    first.tell("running", 2)
    second.tell("running", 5)
    second.tell("call", 1)
    deadline = monotonic() + 10
    seen = 0.0
    while seen != 7 and monotonic() < deadline:
        samples = first.tell("scrape")
        assert isinstance(samples, dict)
        seen = value(samples, "nexus_pool_instances", state="running")
        sleep(0.05)
    assert seen == 7


def test_gauges_are_left_alone_while_nothing_happens() -> None:
    """The refreshing thread works once after something happened, again after the next, and else sleeps."""
    reads = threading.Semaphore(0)
    refresher = _Refresher(reads.release, 0.001)
    try:
        for _ in range(2):
            refresher.touch()
            assert reads.acquire(timeout=10)
            assert not reads.acquire(timeout=0.1)
    finally:
        refresher.stop()


def test_a_dead_worker_leaves_its_counts_and_takes_its_gauges(
    hire: Callable[[], Worker], tmp_path: Path
) -> None:
    """A killed worker's counters stay in the sum, its instances vanish, and its file goes."""
    first, second = hire(), hire()
    second.tell("call", 40)
    second.tell("running", 5)
    second.tell("refresh")
    before = first.tell("scrape")
    assert isinstance(before, dict)
    assert value(before, "nexus_pool_instances", state="running") == 5
    second.kill()
    for _ in range(2):
        after = first.tell("scrape")
        assert isinstance(after, dict)
        assert calls_of(after) == 40
        assert value(after, "nexus_pool_instances", state="running") == 0
        assert value(after, "nexus_pool_instances", state="free") == 1
    assert len(list((tmp_path / "metrics").glob("worker-*"))) == 1
    third = hire()
    third.tell("call", 2)
    assert calls_of(third.tell("scrape")) == 42


def test_a_closed_worker_counts_as_dead(hire: Callable[[], Worker]) -> None:
    """A worker that closes its collector hands its counters over while its process still runs."""
    first, second = hire(), hire()
    second.tell("call", 4)
    second.tell("close")
    second.tell("call", 4)
    assert calls_of(first.tell("scrape")) == 4


def test_a_new_server_starts_at_zero(hire: Callable[[], Worker], tmp_path: Path) -> None:
    """Preparing the directory forgets dead workers and their archive but no live one."""
    first, second = hire(), hire()
    first.tell("call", 1)
    second.tell("call", 2)
    second.kill()
    assert calls_of(first.tell("scrape")) == 3
    prepare_multiprocess_dir(tmp_path / "metrics")
    assert calls_of(first.tell("scrape")) == 1
