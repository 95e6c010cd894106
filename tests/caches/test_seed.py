"""A seed: built by one user, shipped, and read by another."""

import os
from pathlib import Path

import pytest

from nexus_core.caches.folder import CacheUnavailable
from nexus_core.caches.seed import SeedWriter
from tests.caches.processes import on_own_file_system
from tests.caches.reports import NOBODY, Reports, acting_as, needs_root
from tests.caches.worker import payload

SECRET = b"s" * 32


@pytest.fixture
def seed(public: Path) -> Path:
    """A seed with one entry and its own key."""
    SeedWriter(public / "seed", secret=None).store("one", b"data")
    return public / "seed"


def test_what_was_built_is_found(seed: Path, reports: Reports) -> None:
    """A seed brings the key that verifies it, and counts its own hits and misses."""
    cache = reports.seed(seed)
    assert (cache.load("one"), cache.load("two")) == (b"data", None)
    assert reports.events == [("seed", "hit"), ("seed", "miss")]
    assert reports.reasons == []


def test_no_seed_is_an_empty_one(reports: Reports) -> None:
    """Without a directory there is nothing to look into and nothing to count."""
    assert reports.seed(None).load("one") is None
    assert (reports.events, reports.reasons) == ([], [])


def test_a_configured_secret_is_not_written_down(public: Path, reports: Reports) -> None:
    """A seed built with a secret is opened by that secret only."""
    SeedWriter(public / "seed", secret=SECRET).store("one", b"data")
    assert [path.name for path in (public / "seed").iterdir()] == ["one.nxc"]
    assert reports.seed(public / "seed", secret=SECRET).load("one") == b"data"
    assert reports.seed(public / "seed", secret=b"t" * 32).load("one") is None
    assert reports.seed(public / "seed").load("one") is None


def test_a_seed_that_was_configured_and_is_not_there_is_told(public: Path, reports: Reports) -> None:
    """A wrong path in the settings is a slow start that nobody would notice."""
    cache = reports.seed(public / "nothing")
    assert (cache.load("one"), cache.load("one")) == (None, None)
    assert reports.reasons == ["seed_missing"]
    assert reports.events == [("seed", "error")] * 2


def test_a_damaged_entry_is_refused_and_left(seed: Path, reports: Reports) -> None:
    """A seed is read-only: a wrong file is told and not loaded, but not removed."""
    whole = (seed / "one.nxc").read_bytes()
    (seed / "one.nxc").write_bytes(whole[:-1] + b"x")
    cache = reports.seed(seed)
    assert (cache.load("one"), cache.load("one")) == (None, None)
    assert reports.reasons == ["seed_damaged"]
    assert (seed / "one.nxc").exists()


def test_another_user_than_the_builder_can_read_it(public: Path, reports: Reports) -> None:
    """Whatever the builder's umask, everyone may read folder, key and entries, and nobody else write."""
    before = os.umask(0o077)
    try:
        SeedWriter(public / "seed", secret=None).store("one", b"data")
    finally:
        os.umask(before)
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (public / "seed", *(public / "seed").iterdir())
    }
    assert modes == {"seed": 0o755, "key": 0o644, "one.nxc": 0o644}


@needs_root
def test_a_seed_of_root_is_trusted(seed: Path, reports: Reports) -> None:
    """An image is built by root and run by another user."""
    with acting_as(NOBODY):
        assert reports.seed(seed).load("one") == b"data"


@needs_root
def test_a_seed_of_another_user_is_not_trusted(public: Path, reports: Reports) -> None:
    """What some other user of the machine built is never executed."""
    with acting_as(NOBODY):
        SeedWriter(public / "seed", secret=None).store("one", b"evil code")
    assert reports.seed(public / "seed").load("one") is None
    assert reports.reasons == ["seed_foreign_owner"]


def test_a_seed_others_may_write_to_is_not_trusted(seed: Path, reports: Reports) -> None:
    """A right digest by a key that anybody may replace proves nothing."""
    seed.chmod(0o757)
    assert reports.seed(seed).load("one") is None
    assert reports.reasons == ["seed_writable_by_others"]


def test_a_read_only_mount_is_trusted_whoever_owns_it(tmp_path: Path) -> None:
    """A package unpacked by its host under some user's name can be written by nobody, so it is taken."""
    _, writable, mounted = on_own_file_system(
        tmp_path,
        """
        mount -t tmpfs none "$M"
        $W "$M/seed" 1000000 store:one:5000
        chmod 777 "$M/seed"
        chown -R 65534 "$M/seed" 2> /dev/null || true
        $W "$M/seed" 1000000 seed:one
        mount -o remount,ro "$M"
        $W "$M/seed" 1000000 seed:one load:one
        """,
    )
    assert writable["loaded"] == [None]
    assert mounted["loaded"] == [5000, None]
    assert mounted["reasons"][0] in ("foreign_owner", "writable_by_others")


def test_a_second_build_keeps_what_it_uses(seed: Path, reports: Reports) -> None:
    """A build finds entries of the last one, and at its end removes those that nothing uses any more."""
    SeedWriter(seed, secret=None).store("two", b"old")
    writer = SeedWriter(seed, secret=None)
    assert (writer.load("one"), writer.load("three")) == (b"data", None)
    writer.store("three", b"new")
    assert writer.remove_unused() == 1
    cache = reports.seed(seed)
    assert [cache.load(key) for key in ("one", "two", "three")] == [b"data", None, b"new"]


def test_a_build_replaces_a_damaged_entry(seed: Path, reports: Reports) -> None:
    """A wrong file of an earlier build is as good as none."""
    (seed / "one.nxc").write_bytes(b"bad")
    writer = SeedWriter(seed, secret=None)
    assert writer.load("one") is None
    writer.store("one", b"data")
    assert reports.seed(seed).load("one") == b"data"


def test_a_build_makes_its_folder_with_parents(public: Path, reports: Reports) -> None:
    """`nexus build --out a/b/seed` needs no other command first; an empty build makes nothing."""
    writer = SeedWriter(public / "a" / "b" / "seed", secret=None)
    assert writer.load("one") is None
    assert writer.remove_unused() == 0
    assert not (public / "a").exists()
    writer.store("one", payload("one", 100))
    assert reports.seed(public / "a" / "b" / "seed").load("one") == payload("one", 100)


def test_a_build_that_cannot_write_says_so(public: Path) -> None:
    """Unlike a cache, a build fails: a seed that lacks entries would be found out in production."""
    (public / "file").write_bytes(b"")
    writer = SeedWriter(public / "file", secret=None)
    with pytest.raises(CacheUnavailable, match="Not a directory") as caught:
        writer.store("one", b"data")
    assert caught.value.reason == "not_a_folder"
    with pytest.raises(CacheUnavailable, match="Not a directory"):
        writer.remove_unused()
