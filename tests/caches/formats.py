"""Headers made by hand, so that a wrong field can carry a right digest."""

import hashlib
import hmac
import struct


def header_by_hand(
    secret: bytes,
    key: str,
    payload: bytes,
    *,
    magic: bytes = b"NXC\x1a",
    version: int = 1,
    length: int | None = None,
) -> bytes:
    """A header with the fields given and a digest that fits them."""
    fields = struct.pack("<4sIQ", magic, version, len(payload) if length is None else length)
    name = struct.pack("<I", len(key)) + key.encode()
    text = b"nexus cache entry\0" + fields + name + payload
    return fields + hmac.new(secret, text, hashlib.sha256).digest()
