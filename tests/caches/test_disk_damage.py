"""A disk cache whose files were changed: nothing but what it wrote comes back, and the rest is removed."""

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.caches.formats import header_by_hand
from tests.caches.reports import NOBODY, Reports, needs_root

SECRET = b"s" * 32
PAYLOAD = b"sixteen bytes ok"


@pytest.fixture
def entry(folder: Path, reports: Reports) -> Path:
    """The file of one good entry, `one`."""
    reports.disk(folder, secret=SECRET).store("one", PAYLOAD)
    return folder / "one.nxc"


def is_thrown_away(entry: Path, reports: Reports, secret: bytes = SECRET) -> bool:
    """Whether the entry is not loaded, counted as an error, and gone after."""
    reports.events.clear()
    data = reports.disk(entry.parent, secret=secret).load(entry.stem)
    return data is None and reports.events == [("disk", "error")] and not os.path.lexists(entry)


def test_a_file_cut_anywhere_is_thrown_away(entry: Path, reports: Reports) -> None:
    """No beginning of an entry passes for it, the empty file included."""
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert is_thrown_away(entry, reports), length


def test_a_flip_of_any_bit_is_noticed(entry: Path, reports: Reports) -> None:
    """Each bit of magic, version, length, digest and payload matters."""
    whole = entry.read_bytes()
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        entry.write_bytes(changed)
        entry.chmod(0o600)
        assert is_thrown_away(entry, reports), bit


@given(start=st.integers(0, 200), gone=st.integers(0, 200), put=st.binary(max_size=100))
@example(start=200, gone=0, put=b"x")
@example(start=0, gone=200, put=b"")
def test_only_what_was_written_comes_back(start: int, gone: int, put: bytes) -> None:
    """After any splice of bytes, a load gives the stored payload if nothing changed, else nothing."""
    with TemporaryDirectory() as path:
        reports, folder = Reports(), Path(path) / "cache"
        cache = reports.disk(folder, secret=SECRET)
        cache.store("one", PAYLOAD * 5)
        entry = folder / "one.nxc"
        whole = entry.read_bytes()
        changed = whole[:start] + put + whole[start + gone :]
        entry.write_bytes(changed)
        assert cache.load("one") == (PAYLOAD * 5 if changed == whole else None)
        assert entry.exists() == (changed == whole)


def test_a_right_file_made_by_hand_is_taken(entry: Path, reports: Reports) -> None:
    """The hand that makes the wrong files below makes right ones too."""
    entry.write_bytes(header_by_hand(SECRET, "one", b"by hand") + b"by hand")
    assert reports.disk(entry.parent, secret=SECRET).load("one") == b"by hand"


@pytest.mark.parametrize(
    "header",
    [
        header_by_hand(SECRET, "one", PAYLOAD, version=0),
        header_by_hand(SECRET, "one", PAYLOAD, version=2),
        header_by_hand(SECRET, "one", PAYLOAD, magic=b"NXC\x1b"),
        header_by_hand(SECRET, "one", PAYLOAD, length=len(PAYLOAD) - 1),
        header_by_hand(SECRET, "one", PAYLOAD, length=len(PAYLOAD) + 1),
        header_by_hand(SECRET, "two", PAYLOAD),
        header_by_hand(b"t" * 32, "one", PAYLOAD),
    ],
    ids=["older", "newer", "magic", "shorter", "longer", "other name", "other secret"],
)
def test_a_wrong_field_is_refused_though_its_digest_fits(
    entry: Path, reports: Reports, header: bytes
) -> None:
    """Version, magic, length, name and secret are each checked, not only the bytes."""
    entry.write_bytes(header + PAYLOAD)
    assert is_thrown_away(entry, reports)


def test_a_renamed_file_is_refused(entry: Path, reports: Reports) -> None:
    """Good code of one handler cannot be passed off as another's."""
    other = entry.with_name("two.nxc")
    entry.rename(other)
    assert is_thrown_away(other, reports)


def test_entries_of_another_secret_are_refused(entry: Path, reports: Reports) -> None:
    """Changing the secret empties the cache."""
    assert is_thrown_away(entry, reports, secret=b"t" * 32)


def test_entries_of_another_key_file_are_refused(folder: Path, reports: Reports) -> None:
    """When the key file is replaced, what the old one signed is thrown away."""
    reports.disk(folder).store("one", PAYLOAD)
    (folder / "key").write_bytes(os.urandom(32))
    reports.events.clear()
    assert reports.disk(folder).load("one") is None
    assert reports.events == [("disk", "error")]
    assert not (folder / "one.nxc").exists()


def test_a_file_that_claims_to_be_huge_is_not_read(entry: Path, reports: Reports) -> None:
    """A terabyte of nothing costs neither memory nor time."""
    with entry.open("r+b") as file:
        file.truncate(2**40)
    assert is_thrown_away(entry, reports)


def test_a_link_is_removed_and_its_target_is_not(entry: Path, reports: Reports, tmp_path: Path) -> None:
    """Even a link to a good entry is refused: its owner is not the file's."""
    target = tmp_path / "target"
    entry.rename(target)
    entry.symlink_to(target)
    assert is_thrown_away(entry, reports)
    assert target.exists()


def test_a_pipe_does_not_hang_a_load(entry: Path, reports: Reports) -> None:
    """A name that became a pipe is refused like any other wrong file."""
    entry.unlink()
    os.mkfifo(entry, 0o600)
    assert is_thrown_away(entry, reports)


def test_a_folder_in_the_place_of_an_entry_is_survived(entry: Path, reports: Reports) -> None:
    """Where a file cannot be read, replaced or removed, there is no entry, and the others go on."""
    entry.unlink()
    entry.mkdir()
    cache = reports.disk(entry.parent, secret=SECRET)
    assert cache.load("one") is None
    assert reports.reasons == []
    cache.store("one", PAYLOAD)
    cache.store("two", PAYLOAD)
    assert (cache.load("one"), cache.load("two")) == (None, PAYLOAD)
    assert reports.reasons == ["io_error"]
    assert sorted(path.name for path in entry.parent.iterdir()) == ["one.nxc", "two.nxc"]


@needs_root
def test_a_file_of_another_user_is_refused(entry: Path, reports: Reports) -> None:
    """A right digest does not help a file that somebody else may change."""
    os.chown(entry, NOBODY, NOBODY)
    assert is_thrown_away(entry, reports)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_others_may_write_is_refused(entry: Path, reports: Reports, mode: int) -> None:
    """What the group or anybody may change is not ours any more."""
    entry.chmod(mode)
    assert is_thrown_away(entry, reports)


def test_damage_is_logged_once(entry: Path, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """A whole folder of wrong files makes one warning, counts each, and is no degraded cache."""
    cache = reports.disk(entry.parent, secret=SECRET)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            (entry.parent / f"bad{number}.nxc").write_bytes(b"bad")
            assert cache.load(f"bad{number}") is None
    assert len(caplog.records) == 1
    assert "bad0.nxc is damaged" in caplog.text
    assert reports.events == [("disk", "error")] * 3
    assert reports.reasons == []
