"""The format of one cache file: header, then payload, under a digest that only we can make.

    magic (4) | format version (4) | payload length (8) | HMAC-SHA256 (32) | payload

The digest covers the fields before it, the name and the payload, so a file that was cut, changed,
swapped or renamed is never taken for another. HMAC-SHA256 and not keyed BLAKE2b: with the SHA
instructions of today's servers it takes half the time (1.5 against 3.0 ms for 2.4 MB).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from typing import Final

from nexus_core.errors import InternalError

SUFFIX: Final = ".nxc"
HEADER_BYTES: Final = 48

_MAGIC = b"NXC\x1a"
_FORMAT_VERSION = 1
_FIELDS = struct.Struct("<4sIQ")
_NAME_LENGTH = struct.Struct("<I")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
# The same secret may key other digests elsewhere; no such digest is ever valid here.
_PURPOSE = b"nexus cache entry\0"


def file_name(key: str) -> str:
    """The file of `key`. Raises `InternalError` for a key that is no plain name: keys are made by us."""
    if not _KEY.fullmatch(key):
        raise InternalError(f"cache key {key[:200]!r} must be 1 to 200 letters, digits, '.', '_' or '-'")
    return key + SUFFIX


def payload_bytes(header: bytes) -> int | None:
    """The payload length a header of this format claims; None for any other bytes."""
    if len(header) != HEADER_BYTES:
        return None
    magic, version, length = _FIELDS.unpack_from(header)
    return int(length) if (magic, version) == (_MAGIC, _FORMAT_VERSION) else None


class EntryFormat:
    """Writes and checks headers with one secret."""

    def __init__(self, secret: bytes) -> None:
        self._start = hmac.new(secret, _PURPOSE, hashlib.sha256)

    def header(self, key: str, payload: bytes) -> bytes:
        """The `HEADER_BYTES` that go before `payload`."""
        fields = _FIELDS.pack(_MAGIC, _FORMAT_VERSION, len(payload))
        return fields + self._digest(fields, key, payload)

    def accepts(self, key: str, header: bytes, payload: bytes) -> bool:
        """Whether this is what `header` made for the same key and secret, to the last bit."""
        fields, digest = header[: _FIELDS.size], header[_FIELDS.size :]
        return payload_bytes(header) == len(payload) and hmac.compare_digest(
            digest, self._digest(fields, key, payload)
        )

    def _digest(self, fields: bytes, key: str, payload: bytes) -> bytes:
        name = key.encode()
        digest = self._start.copy()
        digest.update(fields + _NAME_LENGTH.pack(len(name)) + name)
        digest.update(payload)
        return digest.digest()
