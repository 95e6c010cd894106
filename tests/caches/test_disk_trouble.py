"""A disk cache whose folder cannot be used or trusted: no disk cache, one warning, never a failed call."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.caches.processes import on_own_file_system, report, worker
from tests.caches.reports import NOBODY, Reports, acting_as, needs_root


def replaced_by_file(folder: Path) -> None:
    """A plain file has the folder's name."""
    folder.write_bytes(b"not a folder")


def linked(folder: Path) -> None:
    """The folder is a link to one of ours."""
    folder.with_name("elsewhere").mkdir(0o700)
    folder.symlink_to(folder.with_name("elsewhere"))


def below_a_file(folder: Path) -> None:
    """The parent is a plain file."""
    folder.parent.rmdir()
    folder.parent.write_bytes(b"")


def without_parent(folder: Path) -> None:
    """The parent is not there."""
    folder.parent.rmdir()


def writable(mode: int) -> Callable[[Path], None]:
    """A folder that others than its owner may write to."""

    def arrange(folder: Path) -> None:
        folder.mkdir()
        folder.chmod(mode)

    return arrange


def with_key(size: int, mode: int = 0o600) -> Callable[[Path], None]:
    """A folder with a key file of that size and mode."""

    def arrange(folder: Path) -> None:
        folder.mkdir(0o700)
        (folder / "key").write_bytes(bytes(size))
        (folder / "key").chmod(mode)

    return arrange


def with_linked_key(folder: Path) -> None:
    """A folder whose key is a link to a good one."""
    folder.mkdir(0o700)
    folder.with_name("a key").write_bytes(bytes(32))
    (folder / "key").symlink_to(folder.with_name("a key"))


def with_key_pipe(folder: Path) -> None:
    """A folder whose key is a pipe."""
    folder.mkdir(0o700)
    os.mkfifo(folder / "key", 0o600)


TROUBLES = [
    (replaced_by_file, "not_a_folder"),
    (linked, "not_a_folder"),
    (below_a_file, "not_a_folder"),
    (without_parent, "missing"),
    (writable(0o770), "writable_by_others"),
    (writable(0o707), "writable_by_others"),
    (writable(0o1777), "writable_by_others"),
    (with_key(31), "bad_key"),
    (with_key(33), "bad_key"),
    (with_key(0), "bad_key"),
    (with_key(32, 0o620), "writable_by_others"),
    (with_linked_key, "bad_key"),
    (with_key_pipe, "bad_key"),
]


def everything(folder: Path) -> list[str]:
    """All paths at and beside the folder."""
    return sorted(str(path) for path in folder.parent.parent.rglob("*"))


@pytest.mark.parametrize(("arrange", "reason"), TROUBLES)
def test_an_unfit_folder_means_no_disk_cache(
    tmp_path: Path,
    reports: Reports,
    caplog: pytest.LogCaptureFixture,
    arrange: Callable[[Path], None],
    reason: str,
) -> None:
    """Nothing is loaded, stored, changed or raised; the reason is told once, however often it is met."""
    folder = tmp_path / "parent" / "cache"
    folder.parent.mkdir()
    arrange(folder)
    before = everything(folder)
    descriptors = sorted(Path("/proc/self/fd").iterdir())
    cache = reports.disk(folder)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache.store("one", b"data")
            assert cache.load("one") is None
    assert reports.reasons == [reason]
    assert len(caplog.records) == 1
    assert reason in caplog.text
    assert everything(folder) == before
    assert cache.statistics().bytes == 0
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors
    assert {tier for tier, _ in reports.events} == {"disk"}


def test_a_folder_that_was_repaired_is_used(folder: Path, reports: Reports) -> None:
    """No restart is needed after an operator made the folder safe."""
    cache = reports.disk(folder)
    folder.mkdir()
    folder.chmod(0o777)
    cache.store("one", b"data")
    folder.chmod(0o700)
    cache.store("one", b"data")
    assert cache.load("one") == b"data"


def test_a_folder_opened_to_others_later_is_no_longer_trusted(folder: Path, reports: Reports) -> None:
    """Trust is asked for at each use, not once."""
    cache = reports.disk(folder)
    cache.store("one", b"data")
    folder.chmod(0o722)
    assert cache.load("one") is None
    assert reports.reasons == ["writable_by_others"]
    assert (folder / "one.nxc").exists()


@needs_root
def test_a_folder_of_another_user_is_not_trusted(public: Path, reports: Reports) -> None:
    """Another user's folder, key and entries, right in every bit, are neither loaded nor written to."""
    with acting_as(NOBODY):
        reports.disk(public / "cache").store("one", b"evil code")
        assert reports.disk(public / "cache").load("one") == b"evil code"
    ours = reports.disk(public / "cache")
    assert ours.load("one") is None
    ours.store("two", b"data")
    assert reports.reasons == ["foreign_owner"]
    assert not (public / "cache" / "two.nxc").exists()


@needs_root
def test_a_folder_of_root_is_not_taken_by_others(public: Path, reports: Reports) -> None:
    """A process without root's rights neither reads nor needs what root cached."""
    reports.disk(public / "cache").store("one", b"data")
    with acting_as(NOBODY):
        theirs = reports.disk(public / "cache")
        theirs.store("two", b"data")
        assert (theirs.load("one"), theirs.load("two")) == (None, None)
    assert reports.reasons == ["read_only", "unreadable"]


@needs_root
def test_a_key_of_another_user_is_not_trusted(folder: Path, reports: Reports) -> None:
    """Whoever owns the key can sign anything."""
    cache = reports.disk(folder)
    cache.store("one", b"data")
    os.chown(folder / "key", NOBODY, NOBODY)
    assert cache.load("one") is None
    assert reports.reasons == ["foreign_owner"]


@needs_root
def test_a_folder_without_write_permission_is_still_read(public: Path, reports: Reports) -> None:
    """A user who may read but not write its own folder has hits, no stores, and one warning."""
    with acting_as(NOBODY):
        cache = reports.disk(public / "cache")
        cache.store("one", b"data")
        (public / "cache").chmod(0o500)
        cache.store("two", b"data")
        assert (cache.load("one"), cache.load("two")) == (b"data", None)
    assert reports.reasons == ["read_only"]


@needs_root
def test_a_parent_without_write_permission_means_no_disk_cache(public: Path, reports: Reports) -> None:
    """Where the folder cannot be made, calls go on without it."""
    public.chmod(0o755)
    with acting_as(NOBODY):
        cache = reports.disk(public / "cache")
        cache.store("one", b"data")
        assert cache.load("one") is None
    assert reports.reasons == ["read_only"]


@needs_root
def test_an_unreadable_key_means_no_disk_cache(public: Path, reports: Reports) -> None:
    """Without its key nothing can be verified, so nothing is loaded."""
    with acting_as(NOBODY):
        cache = reports.disk(public / "cache")
        cache.store("one", b"data")
        (public / "cache" / "key").chmod(0)
        assert cache.load("one") is None
    assert reports.reasons == ["unreadable"]


def test_a_read_only_file_system_is_still_read(tmp_path: Path) -> None:
    """On a file system mounted read-only what is there is loaded, and storing is given up with a warning."""
    _, after = on_own_file_system(
        tmp_path,
        """
        mount -t tmpfs none "$M"
        $W "$M/cache" 1000000 store:one:5000
        mount -o remount,ro "$M"
        $W "$M/cache" 1000000 load:one store:two:5000 load:two store:three:10
        """,
    )
    assert after == {"loaded": [5000, None], "wrong": 0, "reasons": ["read_only"], "results": ["hit", "miss"]}


def test_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    """When the disk fills up, what was stored before is loaded, and nothing half written is left."""
    first, listing = on_own_file_system(
        tmp_path,
        """
        mount -t tmpfs -o size=64k none "$M"
        $W "$M/cache" 1000000 store:one:20000 store:two:200000 load:one load:two store:three:200000
        printf '"%s"\\n' "$(ls -A "$M/cache" | tr '\\n' ' ')"
        """,
    )
    assert first == {"loaded": [20000, None], "wrong": 0, "reasons": ["full"], "results": ["hit", "miss"]}
    assert listing.split() == ["key", "one.nxc"]


def test_a_disk_that_was_full_at_the_start_is_used_once_it_has_room(tmp_path: Path) -> None:
    """A key that could not be written whole is not there at all, so the next start makes a good one."""
    full, later = on_own_file_system(
        tmp_path,
        """
        mount -t tmpfs -o size=64k none "$M"
        mkdir -m 700 "$M/cache"
        cat /dev/zero > "$M/filler" 2> /dev/null || true
        $W "$M/cache" 1000000 store:one:5000 load:one
        rm "$M/filler"
        $W "$M/cache" 1000000 store:one:5000 load:one
        """,
    )
    assert (full["loaded"], full["reasons"]) == ([None], ["full"])
    assert (later["loaded"], later["reasons"]) == ([5000], [])


def test_a_file_size_limit_counts_as_a_full_disk(folder: Path) -> None:
    """A process that may not write large files keeps small ones and goes on."""
    with worker(
        folder, 1_000_000, "limit:10000", "store:one:5000", "store:two:50000", "load:one", "load:two"
    ) as process:
        assert report(process) == {
            "loaded": [5000, None], "wrong": 0, "reasons": ["full"], "results": ["hit", "miss"],
        }  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["key", "one.nxc"]
