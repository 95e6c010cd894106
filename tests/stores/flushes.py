"""Short ways to write mutations and events."""

import msgspec

from nexus_core.result import EmittedEvent, StateMutation


def put(key: str, value: bytes = b"1") -> StateMutation:
    """A write of JSON text."""
    return StateMutation(op="set", key=key, value=msgspec.Raw(value))


def drop(key: str) -> StateMutation:
    """A delete."""
    return StateMutation(op="delete", key=key)


def event(name: str, payload: bytes = b"null") -> EmittedEvent:
    """An event with JSON text."""
    return EmittedEvent(name=name, payload=msgspec.Raw(payload))


def text_of(size: int) -> bytes:
    """A JSON string of exactly `size` bytes."""
    return b'"' + b"x" * (size - 2) + b'"'
