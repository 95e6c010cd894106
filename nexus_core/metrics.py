"""What Nexus counts, under the Prometheus names of docs (design section 11).

A call is recorded by adding to a row of floats (`metric_cells`); prometheus_client, whose import
takes 130 ms, is only loaded when somebody asks for the text. Rows are kept per label value, and
every label has a bounded number of values.

With several worker processes give each collector the same `multiprocess_dir` (one per server): any then
renders the sum over all. Counts are exact at every scrape. Values read from live parts (pool,
caches) are exact for the scraped worker and at most one second old for its siblings.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from pathlib import Path

from nexus_core.errors import ErrorCode
from nexus_core.metric_cells import Cells, LocalCells, Series, WorkerDirectory
from nexus_core.metric_names import ADDITIVE, BUCKETS, METRICS, merge_series, render_series
from nexus_core.statistics import CacheStatistics, PoolStatistics

OTHER = "other"
MAX_LABEL_CHARS = 100
MAX_FUNCTIONS = 256
_REFRESH_SECONDS = 1.0
_BASE_BYTES = 128 * 1024
_HANDLER_BYTES = 1024
_BUCKET_FLOATS = len(BUCKETS) + 2
"""A histogram's row: one count per bucket, one above the last, and the sum."""


class _HandlerRows:
    """Where one handler's rows start."""

    __slots__ = ("cpu", "executions", "seconds")

    def __init__(self, executions: dict[str, int], seconds: int, cpu: int) -> None:
        self.executions = executions
        self.seconds = seconds
        self.cpu = cpu


class MetricsCollector:
    """All counts of one process. Thread-safe. Make it in the worker process itself, after any fork.

    `max_handlers` bounds the handler label: later ones are counted as "other". Raises
    `MetricsDirectoryError` when `multiprocess_dir` cannot be used.
    """

    def __init__(self, max_handlers: int = 200, multiprocess_dir: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._max_handlers = max_handlers
        self._directory: WorkerDirectory | None = None
        self._cells: Cells = LocalCells()
        self._refresher: _Refresher | None = None
        if multiprocess_dir is not None:
            self._directory = WorkerDirectory(multiprocess_dir, ADDITIVE)
            self._cells = self._directory.join(_BASE_BYTES + max_handlers * _HANDLER_BYTES)
            self._refresher = _Refresher(self.refresh, _REFRESH_SECONDS)
        self._starts: dict[tuple[str, ...], int] = {}
        self._handlers: dict[str, _HandlerRows] = {}
        self._functions: dict[str, int] = {}
        self._errors: dict[ErrorCode, int] = {}
        self._pools: list[Callable[[], PoolStatistics]] = []
        self._caches: list[tuple[str, Callable[[], CacheStatistics]]] = []
        self._peak = self._start("nexus_peak_memory_bytes")
        self._wait = self._start("nexus_pool_wait_seconds")

    def record_execution(
        self,
        handler: str,
        status: str,
        code: ErrorCode | None,
        seconds: float,
        cpu_seconds: float,
        peak_memory: int,
        host_calls: Mapping[str, int],
    ) -> None:
        """Count one call that reached `Runtime.execute`, and its error `code` with it.

        `status` is a WasmResult's; `seconds` is wall time; `host_calls` counts by function. A name
        no handler has goes to "other": callers make those up.
        """
        if code is ErrorCode.HANDLER_NOT_FOUND:
            handler = OTHER
        with self._lock:
            values = self._cells.values
            rows = self._handlers.get(handler) or self._admit(handler)
            values[rows.executions[status]] += 1.0
            seconds_row = rows.seconds
            values[seconds_row + bisect_left(BUCKETS, seconds)] += 1.0
            values[seconds_row + _BUCKET_FLOATS - 1] += seconds
            values[rows.cpu] += 1.0
            values[rows.cpu + 1] += cpu_seconds
            values[self._peak] = max(values[self._peak], peak_memory)
            for function, count in host_calls.items():
                start = self._functions.get(function)
                values[self._admit_function(function) if start is None else start] += count
            if code is not None:
                values[self._error_start(code)] += 1.0
        if self._refresher is not None:
            self._refresher.touch()

    def record_error(self, code: ErrorCode) -> None:
        """Count an error outside a call, such as a refused request. `record_execution` counts its own."""
        with self._lock:
            self._cells.values[self._error_start(code)] += 1.0

    def record_cache(self, tier: str, result: str) -> None:
        """Count one look into a tier (memory, disk, seed, compile) and its result (hit, miss, error)."""
        self._add("nexus_cache_requests_total", tier, result)

    def cache_degraded(self, reason: str) -> None:
        """Count a cache tier that was given up; `reason` is a short fixed word, e.g. "read_only"."""
        self._add("nexus_cache_degraded_total", reason)

    def watch_cache(self, tier: str, statistics: Callable[[], CacheStatistics]) -> None:
        """Read this tier's bytes whenever gauges are refreshed; callable from any thread."""
        self._caches.append((tier, statistics))

    def watch_pool(self, statistics: Callable[[], PoolStatistics]) -> None:
        """Read this pool's numbers whenever gauges are refreshed; callable from any thread. Pools add up."""
        self._pools.append(statistics)

    def observe_pool_wait(self, seconds: float) -> None:
        """Record how long a call waited for an instance; 0.0 when one was free."""
        with self._lock:
            values = self._cells.values
            values[self._wait + bisect_left(BUCKETS, seconds)] += 1.0
            values[self._wait + _BUCKET_FLOATS - 1] += seconds

    def instance_created(self) -> None:
        """Count a new instance."""
        self._add("nexus_instances_created_total")

    def instance_retired(self, reason: str) -> None:
        """Count an instance that was thrown away; `reason` is a short fixed word, e.g. "idle", "grew"."""
        self._add("nexus_instances_retired_total", reason)

    def image_regrown(self) -> None:
        """Count a handler whose image was captured again with more free heap."""
        self._add("nexus_images_regrown_total")

    def capability_refused(self, kind: str) -> None:
        """Count an operation the host refused for want of a capability, e.g. "state:write"."""
        self._add("nexus_capability_refusals_total", kind)

    def set_suspensions(self, where: str, count: int) -> None:
        """Set how many calls sleep in this process's "memory" or in the shared "store"."""
        with self._lock:
            self._cells.values[self._start("nexus_suspensions", where)] = float(count)

    def refresh(self) -> None:
        """Read the watched pools and caches now. `render` does; with siblings, a thread does each second."""
        caches = [(tier, read()) for tier, read in self._caches]
        pools = [read() for read in self._pools]
        with self._lock:
            for tier, cache in caches:
                self._cells.values[self._start("nexus_cache_bytes", tier)] = float(cache.bytes)
            if not pools:
                return
            for state in ("free", "reserved", "running", "suspended"):
                total = sum(getattr(pool, state) for pool in pools)
                self._cells.values[self._start("nexus_pool_instances", state)] = float(total)
            for name, field in (
                ("nexus_pool_memory_bytes", "memory_bytes"),
                ("nexus_pool_waiting", "waiting"),
            ):
                self._cells.values[self._start(name)] = float(sum(getattr(pool, field) for pool in pools))

    def read(self) -> Series:
        """A copy of every series over all workers: counts so far, gauges as of now, by `METRICS`' kinds.

        Without siblings this takes 1 µs for each handler called so far. `counted_since` tells two apart.
        """
        self.refresh()
        live, archived = self._collect()
        return live[0] if self._directory is None and live else merge_series(live, archived)

    def render(self) -> tuple[bytes, str]:
        """The text that a Prometheus scrape expects, and its content type.

        The first one imports prometheus_client: on an event loop call it in a thread.
        """
        self.refresh()
        return render_series(*self._collect())

    def close(self) -> None:
        """Stop sharing: siblings keep this worker's counters and drop its gauges. May be called twice."""
        if self._refresher is not None:
            self._refresher.stop()
        with self._lock:
            self._cells.close()

    def _collect(self) -> tuple[list[Series], Series]:
        if self._directory is not None:
            return self._directory.collect()
        with self._lock:
            return ([self._cells.series()] if isinstance(self._cells, LocalCells) else []), {}

    def _start(self, name: str, *labels: str) -> int:
        """Where the row of a series starts; made on first use."""
        key = (name, *labels)
        start = self._starts.get(key)
        if start is None:
            kept = (name, *(label[:MAX_LABEL_CHARS] for label in labels))
            start = self._cells.allocate(kept, METRICS[name].floats)
            self._starts[key] = start
        return start

    def _add(self, name: str, *labels: str) -> None:
        with self._lock:
            self._cells.values[self._start(name, *labels)] += 1.0
        if self._refresher is not None:
            self._refresher.touch()

    def _error_start(self, code: ErrorCode) -> int:
        start = self._errors.get(code)
        if start is None:
            start = self._errors[code] = self._start("nexus_errors_total", code.value)
        return start

    def _admit(self, handler: str) -> _HandlerRows:
        named = len(self._handlers) - (OTHER in self._handlers)
        if handler != OTHER and (named >= self._max_handlers or len(handler) > MAX_LABEL_CHARS):
            return self._handlers.get(OTHER) or self._admit(OTHER)
        rows = _HandlerRows(
            {
                status: self._start("nexus_handler_executions_total", handler, status)
                for status in ("success", "error", "suspended")
            },
            self._start("nexus_handler_execution_seconds", handler),
            self._start("nexus_handler_cpu_seconds", handler),
        )
        self._handlers[handler] = rows
        return rows

    def _admit_function(self, function: str) -> int:
        if len(self._functions) >= MAX_FUNCTIONS or len(function) > MAX_LABEL_CHARS:
            return self._start("nexus_host_calls_total", OTHER)
        start = self._functions[function] = self._start("nexus_host_calls_total", function)
        return start


class _Refresher:
    """A thread that refreshes the gauges a period after something happened; else it sleeps."""

    def __init__(self, refresh: Callable[[], None], seconds: float) -> None:
        self._refresh = refresh
        self._seconds = seconds
        self._touched = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nexus-metrics", daemon=True)
        self._thread.start()

    def touch(self) -> None:
        """Something happened that gauges may show."""
        if not self._touched.is_set():
            self._touched.set()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        self._touched.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._touched.wait()
            if self._stopped.wait(self._seconds):
                return
            # Cleared first: what happens during the refresh asks for another one.
            self._touched.clear()
            self._refresh()


def prepare_multiprocess_dir(path: Path) -> None:
    """Make the directory that workers share and drop what earlier servers left; live workers stay.

    Call it once, in the parent, before the workers start. Raises `MetricsDirectoryError`.
    """
    WorkerDirectory(path, ADDITIVE).clear()
