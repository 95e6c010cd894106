"""The format of a cache file, written down a second time."""

import hashlib
import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.caches.entry import HEADER_BYTES, EntryFormat, file_name, payload_bytes
from nexus_core.errors import InternalError
from tests.caches.formats import header_by_hand

SECRET = b"s" * 32


@given(payload=st.binary(max_size=300))
def test_the_format_is_the_one_written_down(payload: bytes) -> None:
    """A header is magic, version, length and a keyed digest over these, the key's name and the payload."""
    header = EntryFormat(SECRET).header("name", payload)
    assert header == header_by_hand(SECRET, "name", payload)
    assert len(header) == HEADER_BYTES
    assert payload_bytes(header) == len(payload)
    assert EntryFormat(SECRET).accepts("name", header, payload)


@given(payload=st.binary(max_size=50), other=st.binary(max_size=50))
def test_no_other_payload_is_accepted(payload: bytes, other: bytes) -> None:
    """A header fits one payload only."""
    header = EntryFormat(SECRET).header("name", payload)
    assert EntryFormat(SECRET).accepts("name", header, other) == (payload == other)


def test_name_and_payload_do_not_run_into_each_other() -> None:
    """Moving bytes from the name to the payload is noticed, at equal totals."""
    header = EntryFormat(SECRET).header("ab", b"cd")
    assert not EntryFormat(SECRET).accepts("a", header, b"bcd")
    assert not EntryFormat(SECRET).accepts("abc", header, b"d")


def test_a_digest_made_for_another_purpose_is_refused() -> None:
    """The same secret over the same bytes, without our purpose, proves nothing here."""
    fields = struct.pack("<4sIQ", b"NXC\x1a", 1, 2)
    digest = hmac.new(SECRET, fields + struct.pack("<I", 4) + b"name" + b"ab", hashlib.sha256).digest()
    assert not EntryFormat(SECRET).accepts("name", fields + digest, b"ab")


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../up", "a/b", ".hidden", "a b", "a\n", "a\0", "ü", "x" * 201]
)
def test_a_key_that_is_no_plain_name_is_refused(key: str) -> None:
    """No key can name a file outside the folder, or a hidden or temporary one."""
    with pytest.raises(InternalError, match="must be 1 to 200 letters"):
        file_name(key)


@pytest.mark.parametrize("key", ["a", "quickjs-" + "0" * 64, "A.b_c-1", "x" * 200])
def test_a_plain_name_becomes_a_file(key: str) -> None:
    """The file's name is the key's, with an ending that the secret's own file cannot have."""
    assert file_name(key) == key + ".nxc"
