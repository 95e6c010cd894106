"""Where the counts live: a row of floats per series, in this process or shared with sibling workers.

Several worker processes answer for one server, and any of them may be scraped. Each therefore
keeps its floats in a memory-mapped file of one directory: an update is a plain store, and the
scraped worker reads the others' files. prometheus_client's own multiprocess mode does the same
at 17 µs a call (three counters, two histograms, two gauges) against 3 µs here, needs an
environment variable set before its import, and never forgets the files of dead workers.

A worker holds a lock (`flock`) on its file as long as it lives, so nobody has to report a death:
a file that can be locked is a dead worker's. Its counters are folded into one archive, because a
counter must not fall, and its gauges are forgotten.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from nexus_core.errors import InternalError

SeriesKey = tuple[str, ...]
"""A metric's name, then the values of its labels in the order of their names."""

Series = dict[SeriesKey, list[float]]

_MAGIC = b"NXCELLS1"
_HEADER = struct.Struct("=8sQ")
_BLOCK = struct.Struct("=II")
_FLOAT_BYTES = 8
_SCRATCH_FLOATS = 64
_LOCK_FILE = "lock"
_ARCHIVE_FILE = "retired.cells"
_WORKER_PATTERN = "worker-*.cells"
_FOLDED = "folded"

_log = logging.getLogger(__name__)


class MetricsDirectoryError(InternalError):
    """The directory that worker processes share for metrics cannot be used; the message says why."""


class Floats(Protocol):
    """What a list and a mapped file have in common."""

    def __getitem__(self, index: int, /) -> float: ...

    def __setitem__(self, index: int, value: float, /) -> None: ...


class Cells(Protocol):
    """Floats by index. `allocate` gives a series its row; the caller adds to `values` under its own lock."""

    @property
    def values(self) -> Floats:
        """The floats; a row is `values[start : start + count]`."""

    def allocate(self, key: SeriesKey, count: int) -> int:
        """The start of a new row of `count` zeros for `key`. One row per key: the caller remembers it."""

    def close(self) -> None:
        """Release files. May be called twice."""


class LocalCells:
    """Cells of a single process."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._rows: dict[SeriesKey, slice] = {}

    def allocate(self, key: SeriesKey, count: int) -> int:
        """See `Cells`."""
        start = len(self.values)
        self.values.extend([0.0] * count)
        self._rows[key] = slice(start, start + count)
        return start

    def series(self) -> Series:
        """A copy of every row."""
        return {key: self.values[row] for key, row in self._rows.items()}

    def close(self) -> None:
        """Nothing to release."""


class SharedCells:
    """Cells in a file that sibling processes read while it is written. Made by `WorkerDirectory.join`.

    The file is a header, a scratch row, then blocks: key length, float count, key (JSON, padded to
    8 bytes), floats. A block is complete before the header's `used` covers it, and every float is
    8-byte aligned, so a reader sees whole values.
    """

    def __init__(self, path: Path, capacity: int) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        # Real blocks, not a sparse file: a store into a hole of a full disk would kill the process.
        os.posix_fallocate(self._fd, 0, capacity)
        self._map = mmap.mmap(self._fd, capacity)
        self.values: memoryview[float] = memoryview(self._map).cast("d")
        self._capacity = capacity
        self._scratch = _HEADER.size // _FLOAT_BYTES
        self._used = _HEADER.size + _SCRATCH_FLOATS * _FLOAT_BYTES
        self._publish()

    def allocate(self, key: SeriesKey, count: int) -> int:
        """See `Cells`. When the file is full the row is a scratch one that no reader sees."""
        block = _encode_block(key, [0.0] * count)
        if self._used + len(block) > self._capacity:
            return self._scratch
        end = self._used + len(block)
        self._map[self._used : end] = block
        self._used = end
        self._publish()
        return end // _FLOAT_BYTES - count

    def _publish(self) -> None:
        self._map[: _HEADER.size] = _HEADER.pack(_MAGIC, self._used)

    def close(self) -> None:
        """Let go of the file: from now on siblings count this worker as dead. May be called twice."""
        if self._fd < 0:
            return
        self.values.release()
        self._map.close()
        os.close(self._fd)
        self._fd = -1
        # What is still recorded goes nowhere.
        self.values = memoryview(bytearray(self._capacity)).cast("d")
        self._capacity = 0


class WorkerDirectory:
    """The directory where the worker processes of one server keep their cells.

    `additive` names the metrics that live on in the archive when their worker dies.
    """

    def __init__(self, path: Path, additive: frozenset[str]) -> None:
        self._path = path
        self._additive = additive
        _make_private(path)

    def join(self, capacity: int) -> SharedCells:
        """This process's cells, `capacity` bytes on disk. Call it in the worker itself, after any fork."""
        path = self._path / f"worker-{os.getpid()}-{os.urandom(4).hex()}.cells"
        # Without the lock a sibling could meet the file before its owner holds it, and bury it.
        with self._locked():
            try:
                return SharedCells(path, -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE)
            except OSError as error:
                raise MetricsDirectoryError(
                    f"cannot make a metrics file of {capacity} bytes in {self._path}: {error.strerror}"
                ) from error

    def collect(self) -> tuple[list[Series], Series]:
        """The series of each live worker, and the archive's counters of the dead ones."""
        with self._locked():
            live, dead = self._sort()
            archive = _read(self._path / _ARCHIVE_FILE)
            if dead:
                self._fold(dead, archive)
            counters = {key: row for key, row in archive.items() if key[0] != _FOLDED}
            return [_read(path) for path in live], counters

    def clear(self) -> None:
        """Forget the archive and every dead worker: for the start of a server, before its workers."""
        with self._locked():
            _, dead = self._sort()
            for path in (*dead, self._path / _ARCHIVE_FILE):
                path.unlink(missing_ok=True)

    def _sort(self) -> tuple[list[Path], list[Path]]:
        live: list[Path] = []
        dead: list[Path] = []
        for path in sorted(self._path.glob(_WORKER_PATTERN)):
            (live if _is_held(path) else dead).append(path)
        return live, dead

    def _fold(self, dead: list[Path], archive: Series) -> None:
        """Move the counters of `dead` into the archive, once each.

        The archive names what it took in until the file is gone, so that a crash between the two
        counts nothing twice.
        """
        for path in dead:
            if (_FOLDED, path.name) in archive:
                continue
            add_rows(archive, {k: row for k, row in _read(path).items() if k[0] in self._additive})
            archive[(_FOLDED, path.name)] = []
        self._store(archive)
        for path in dead:
            path.unlink(missing_ok=True)
            del archive[(_FOLDED, path.name)]
        self._store(archive)

    def _store(self, archive: Series) -> None:
        blocks = b"".join(_encode_block(key, row) for key, row in archive.items())
        start = _HEADER.size + _SCRATCH_FLOATS * _FLOAT_BYTES
        header = _HEADER.pack(_MAGIC, start + len(blocks)).ljust(start, b"\0")
        temporary = self._path / f"{_ARCHIVE_FILE}.new"
        temporary.write_bytes(header + blocks)
        temporary.replace(self._path / _ARCHIVE_FILE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone in the directory: no worker joins and none is folded meanwhile. Held for milliseconds."""
        fd = os.open(self._path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def add_rows(into: Series, rows: Mapping[SeriesKey, list[float]]) -> None:
    """Add each row to the one of the same key, float by float."""
    for key, row in rows.items():
        mine = into.get(key)
        into[key] = list(row) if mine is None else [a + b for a, b in zip(mine, row, strict=True)]


def read_series(data: bytes | mmap.mmap) -> Series:
    """The rows of a cells file. Raises ValueError when it is not one."""
    import json  # here, because a process without siblings shares nothing

    if len(data) < _HEADER.size:
        raise ValueError("shorter than its header")
    magic, used = _HEADER.unpack_from(data)
    if magic != _MAGIC or used > len(data) or used % _FLOAT_BYTES:
        raise ValueError("not a cells file")
    series: Series = {}
    at = _HEADER.size + _SCRATCH_FLOATS * _FLOAT_BYTES
    while at < used:
        key_bytes, count = _BLOCK.unpack_from(data, at)
        at += _BLOCK.size
        floats = at + _padded(key_bytes)
        end = floats + count * _FLOAT_BYTES
        if end > used:
            raise ValueError("a block passes the end")
        key = tuple(json.loads(data[at : at + key_bytes]))
        series[key] = list(struct.unpack_from(f"={count}d", data, floats))
        at = end
    return series


def _read(path: Path) -> Series:
    """The series of a file; none when it is absent, empty or damaged, which is logged."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_series(data)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, struct.error) as error:
        _log.warning("metrics file left out: file=%s reason=%s", path.name, error)
        return {}


def _is_held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _make_private(path: Path) -> None:
    """Make the directory, readable by us alone; refuse one that others could have filled."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat(follow_symlinks=False)
    except OSError as error:
        raise MetricsDirectoryError(f"cannot make the metrics directory {path}: {error.strerror}") from error
    if not path.is_dir() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise MetricsDirectoryError(
            f"the metrics directory {path} must be this user's own and writable by nobody else"
        )


def _encode_block(key: SeriesKey, row: list[float]) -> bytes:
    import json  # as above

    text = json.dumps(key).encode()
    head = _BLOCK.pack(len(text), len(row)) + text.ljust(_padded(len(text)), b" ")
    return head + struct.pack(f"={len(row)}d", *row)


def _padded(length: int) -> int:
    return -(-length // _FLOAT_BYTES) * _FLOAT_BYTES
