"""What a disk cache keeps, in which order it lets go, and how several users of one folder get on."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.caches.entry import HEADER_BYTES
from nexus_core.errors import InternalError
from tests.caches.processes import report, worker
from tests.caches.reports import Reports
from tests.caches.worker import churn_bytes


def names(folder: Path) -> list[str]:
    """Everything in the folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def aged(folder: Path, key: str, seconds: float) -> None:
    """Make an entry look as if it was used that long ago."""
    then = time.time() - seconds
    os.utime(folder / f"{key}.nxc", (then, then))


def test_what_was_stored_is_found_by_another_process_of_ours(folder: Path, reports: Reports) -> None:
    """Bytes come back whole through a second cache on the same folder, the empty ones too."""
    first = reports.disk(folder)
    first.store("one", b"data")
    first.store("none", b"")
    second = reports.disk(folder)
    assert (second.load("one"), second.load("none"), second.load("other")) == (b"data", b"", None)
    assert reports.events == [("disk", "hit"), ("disk", "hit"), ("disk", "miss")]
    assert reports.reasons == []


def test_nobody_else_may_read_or_write_what_it_makes(folder: Path, reports: Reports) -> None:
    """Folder, key and entries are for this user only, whatever the umask, and nothing else is left there."""
    before = os.umask(0)
    try:
        reports.disk(folder).store("one", b"data")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert modes == {"cache": 0o700, "key": 0o600, "one.nxc": 0o600}


def test_a_secret_of_ours_needs_no_key_file(folder: Path, reports: Reports) -> None:
    """With a secret from the configuration none is written, and only that secret opens the entries."""
    reports.disk(folder, secret=b"a" * 32).store("one", b"data")
    assert names(folder) == ["one.nxc"]
    assert reports.disk(folder, secret=b"a" * 32).load("one") == b"data"


def test_storing_again_replaces(folder: Path, reports: Reports) -> None:
    """The last bytes stored under a key are the ones found."""
    cache = reports.disk(folder)
    cache.store("one", b"first")
    cache.store("one", b"second")
    assert cache.load("one") == b"second"
    assert names(folder) == ["key", "one.nxc"]


def test_a_load_writes_nothing(folder: Path, reports: Reports) -> None:
    """Looking into a cache that is not there yet does not make it."""
    assert reports.disk(folder).load("one") is None
    assert not folder.exists()
    assert reports.events == [("disk", "miss")]


def test_a_folder_that_was_removed_is_made_again(folder: Path, reports: Reports) -> None:
    """Sweeping `/tmp` under a running process costs the entries and nothing more."""
    cache = reports.disk(folder)
    cache.store("one", b"data")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert cache.load("one") is None
    cache.store("one", b"again")
    assert cache.load("one") == b"again"


@pytest.mark.parametrize("key", ["../out", "a/b", ""])
def test_a_key_cannot_leave_the_folder(folder: Path, reports: Reports, key: str) -> None:
    """A key that is no plain name is a fault of ours, and is refused before any file is touched."""
    cache = reports.disk(folder)
    cache.store("one", b"data")
    with pytest.raises(InternalError, match="cache key"):
        cache.store(key, b"data")
    with pytest.raises(InternalError, match="cache key"):
        cache.load(key)
    assert names(folder) == ["key", "one.nxc"]


def test_the_least_recently_used_go_first(folder: Path, reports: Reports) -> None:
    """A hit counts as use: of three old entries the one that was loaded outlives a younger one."""
    cache = reports.disk(folder, max_bytes=4 * 1024)
    for age, key in ((400, "a"), (300, "b"), (200, "c")):
        cache.store(key, bytes(1024))
        aged(folder, key, age)
    assert cache.load("a") is not None
    cache.store("d", bytes(1024))
    assert names(folder) == ["a.nxc", "c.nxc", "d.nxc", "key"]


def test_a_hit_within_a_minute_writes_nothing(folder: Path, reports: Reports) -> None:
    """Only a use that would change the order by more than a minute is marked on the disk."""
    cache = reports.disk(folder)
    cache.store("one", b"data")
    aged(folder, "one", 50)
    before = (folder / "one.nxc").stat().st_mtime_ns
    assert cache.load("one") == b"data"
    assert (folder / "one.nxc").stat().st_mtime_ns == before
    aged(folder, "one", 70)
    assert cache.load("one") == b"data"
    assert (folder / "one.nxc").stat().st_mtime_ns > before


@given(sizes=st.lists(st.integers(0, 3000), max_size=40))
def test_the_bound_holds_after_every_store(sizes: list[int]) -> None:
    """Whatever is stored, the folder never holds more than its bound, and what was stored last is there."""
    with TemporaryDirectory() as path:
        reports, folder = Reports(), Path(path) / "cache"
        cache = reports.disk(folder, max_bytes=4000)
        for number, size in enumerate(sizes):
            cache.store(f"k{number}", bytes(size))
            held = [entry.stat().st_size for entry in folder.glob("*.nxc")]
            assert sum(held) <= 4000
            assert cache.load(f"k{number}") == bytes(size)
        assert reports.reasons == []


@pytest.mark.parametrize(("size", "kept"), [(3750 - HEADER_BYTES, True), (3751 - HEADER_BYTES, False)])
def test_a_value_larger_than_the_cache_is_not_kept(
    folder: Path, reports: Reports, size: int, kept: bool
) -> None:
    """Fifteen sixteenths of the bound is the largest value; a larger one leaves the others in peace."""
    cache = reports.disk(folder, max_bytes=4000)
    cache.store("small", b"data")
    aged(folder, "small", 100)
    cache.store("large", bytes(size))
    assert (cache.load("large") is not None) == kept
    assert (cache.load("small") is not None) == (not kept)


def test_no_bytes_means_no_disk_cache(folder: Path, reports: Reports) -> None:
    """A bound of zero stores nothing and complains about nothing."""
    cache = reports.disk(folder, max_bytes=0)
    cache.store("one", b"")
    assert not folder.exists()
    assert reports.reasons == []


def test_leftovers_of_killed_processes_are_removed(folder: Path, reports: Reports) -> None:
    """A half written file is removed once it is old; one that may still be written is left alone."""
    cache = reports.disk(folder)
    cache.store("one", b"data")
    for name, age in ((".tmp-1-old", 700), (".tmp-2-new", 500)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    reports.disk(folder).store("two", b"data")
    assert names(folder) == [".tmp-2-new", "key", "one.nxc", "two.nxc"]


def test_the_folder_is_not_listed_for_each_store(folder: Path, reports: Reports) -> None:
    """A process lists the folder again, and sweeps it, only after it stored a sixty-fourth of the bound."""
    cache = reports.disk(folder, max_bytes=64 * 1000)
    cache.store("first", b"")
    (folder / ".tmp-1-old").write_bytes(b"half")
    os.utime(folder / ".tmp-1-old", (1, 1))
    cache.store("small", bytes(999 - HEADER_BYTES))
    assert (folder / ".tmp-1-old").exists()
    cache.store("last", b"")
    assert not (folder / ".tmp-1-old").exists()


def test_statistics_count_the_whole_folder(folder: Path, reports: Reports) -> None:
    """A process that stored nothing itself reports what the others did; no folder counts as empty."""
    before = reports.disk(folder, max_bytes=4000).statistics()
    assert (before.entries, before.bytes, before.max_bytes) == (0, 0, 4000)
    writer = reports.disk(folder)
    writer.store("one", bytes(100))
    writer.store("two", bytes(200))
    for cache in (writer, reports.disk(folder)):
        found = cache.statistics()
        assert (found.entries, found.bytes) == (2, 300 + 2 * HEADER_BYTES)
    assert reports.reasons == []


def test_threads_share_one_cache(folder: Path, reports: Reports) -> None:
    """Eight threads that store, load and evict get right bytes or none, and no complaint."""
    cache = reports.disk(folder, max_bytes=20_000)

    def use(number: int) -> bool:
        key = f"k{number % 40}"
        cache.store(key, churn_bytes(key))
        return cache.load(f"k{number % 17}") in (None, churn_bytes(f"k{number % 17}"))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(400)))
    assert reports.reasons == []
    assert ("disk", "error") not in reports.events


def test_processes_share_one_folder(folder: Path) -> None:
    """Four processes that start in no folder at once agree on its key, and none sees a wrong byte."""
    max_bytes = 30_000
    with ExitStack() as stack:
        started = [
            stack.enter_context(worker(folder, max_bytes, "wait", f"churn:{number}:300"))
            for number in range(4)
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [report(process) for process in started]
    assert [(one["wrong"], one["reasons"]) for one in found] == [(0, [])] * 4
    assert all(one["results"] == ["hit", "miss"] for one in found)
    assert sum(path.stat().st_size for path in folder.glob("*.nxc")) <= max_bytes
    assert {path.suffix for path in folder.iterdir() if path.name != "key"} == {".nxc"}


def test_a_killed_process_leaves_only_whole_entries(folder: Path, reports: Reports) -> None:
    """Whenever a process is killed, every entry it leaves is right to the last byte."""
    for number in range(3):
        with worker(folder, 10_000_000, "wait", f"churn:{number}:1000000") as process:
            assert process.stdout is not None
            assert process.stdin is not None
            process.stdout.readline()
            process.stdin.write("go\n")
            process.stdin.flush()
            deadline = time.monotonic() + 30
            while len(list(folder.glob("*.nxc"))) < 10 * (number + 1) and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
    cache = reports.disk(folder)
    keys = [path.stem for path in folder.glob("*.nxc")]
    assert len(keys) >= 30
    assert all(cache.load(key) == churn_bytes(key) for key in keys)
