"""Read what a guest hands over, and check all of it: here the guest's word becomes the host's fact.

The guest is hostile and can forge any part of this text, so each operation is held against the
call's capabilities and counted against its limits, whatever the bootstrap already checked.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Literal

import msgspec

from nexus_core.capabilities import CapabilitySet
from nexus_core.errors import (
    GuestError,
    LimitBreach,
    PayloadTooLarge,
    PermissionDenied,
    ResourceLimitExceeded,
)
from nexus_core.limits import ResourceLimits
from nexus_core.result import EmittedEvent, LogRecord, PendingCall, StateMutation, ViewCommand

_NULL = msgspec.Raw(b"null")
_MOST_DENIALS = 100
_MOST_TOKEN_CHARACTERS = 300
_MOST_NAME_CHARACTERS = 200
_MOST_ERROR_CHARACTERS = 8192

# JavaScript's strings may hold half a surrogate pair, which is no Unicode text; its JSON writes such
# a half as an escape, and a whole pair never as one.
_HALF_PAIR = re.compile(rb"(?<!\\)((?:\\\\)*)\\ud[89a-f][0-9a-f]{2}")
_REPLACEMENT = rb"\1\\ufffd"


class Thrown(msgspec.Struct, frozen=True):
    """What the handler threw or rejected with, as text; nothing of it is trusted."""

    name: str | None = None
    message: str | None = None
    stack: str | None = None

    def cut(self) -> Thrown:
        """The same in bounds: a guest can write megabytes into any of them."""
        return Thrown(
            self.name and self.name[:_MOST_NAME_CHARACTERS],
            self.message and self.message[:_MOST_ERROR_CHARACTERS],
            self.stack and self.stack[:_MOST_ERROR_CHARACTERS],
        )


_NOTHING_THROWN = Thrown()


class _Set(msgspec.Struct, frozen=True, array_like=True, tag="set"):
    key: str
    value: msgspec.Raw


class _Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete"):
    key: str


class _Emit(msgspec.Struct, frozen=True, array_like=True, tag="emit"):
    name: str
    payload: msgspec.Raw


class _View(msgspec.Struct, frozen=True, array_like=True, tag="view"):
    id: str
    data: msgspec.Raw


class _Log(msgspec.Struct, frozen=True):
    level: Literal["debug", "info", "warn", "error"]
    message: str


class _FlushText(msgspec.Struct, frozen=True):
    outcome: Literal["returned", "threw", "pending"]
    operations: list[_Set | _Delete | _Emit | _View]
    calls: list[PendingCall]
    logs: list[_Log]
    denials: list[str]
    value: msgspec.Raw = _NULL
    error: Thrown = _NOTHING_THROWN


class Usage:
    """What one call has used so far, over all its flushes."""

    __slots__ = ("awaited", "denials", "events", "host_calls", "last_call_id", "log_bytes", "mutations")

    def __init__(self) -> None:
        self.host_calls: dict[str, int] = defaultdict(int)
        self.mutations = 0
        self.events = 0
        self.log_bytes = 0
        self.denials = 0
        self.awaited = 0
        """Extension calls handed over and not answered yet."""
        self.last_call_id = 0


class Flush(msgspec.Struct, frozen=True, kw_only=True):
    """One checked flush. `denials` are refusals the guest met and reported, for the audit log."""

    outcome: Literal["returned", "threw", "pending"]
    value: msgspec.Raw
    thrown: Thrown
    mutations: tuple[StateMutation, ...]
    events: tuple[EmittedEvent, ...]
    view_commands: tuple[ViewCommand, ...]
    calls: tuple[PendingCall, ...]
    logs: tuple[LogRecord, ...]
    denials: tuple[str, ...]


class FlushReader:
    """Decodes flushes and checks them against a call's capabilities and limits."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_FlushText)

    def read(self, data: bytes, capabilities: CapabilitySet, limits: ResourceLimits, usage: Usage) -> Flush:
        """The checked flush; raises `GuestError` for a forged text and a typed error for each breach."""
        text = self._decode(data)
        size, most = len(text.value), limits.max_output_bytes
        if size > most:
            raise PayloadTooLarge(
                f"the return value has {size} bytes; max_output_bytes is {most}",
                LimitBreach("max_output_bytes", most, size),
            )
        # Before each is looked at: a forged text can hold millions.
        most = sum(usage.host_calls.values()) + len(text.operations) + len(text.calls)
        hold_to_count("max_host_calls", limits.max_host_calls, most)
        operations = _Operations(capabilities, usage.host_calls)
        for operation in text.operations:
            operations.take(operation)
        if text.calls:
            _check_calls(text.calls, capabilities, usage)
        usage.mutations += len(operations.mutations)
        usage.events += len(operations.events)
        hold_to_count("max_state_mutations", limits.max_state_mutations, usage.mutations)
        hold_to_count("max_events", limits.max_events, usage.events)
        return Flush(
            outcome=text.outcome,
            value=text.value,
            thrown=text.error.cut() if text.outcome == "threw" else _NOTHING_THROWN,
            mutations=tuple(operations.mutations),
            events=tuple(operations.events),
            view_commands=tuple(operations.view_commands),
            calls=tuple(text.calls),
            logs=_bounded_logs(text.logs, limits.max_log_bytes, usage) if text.logs else (),
            denials=_bounded_denials(text.denials, usage) if text.denials else (),
        )

    def _decode(self, data: bytes) -> _FlushText:
        if b"\\ud" in data:
            data = _HALF_PAIR.sub(_REPLACEMENT, data)
        try:
            # The values stay JSON text, in which the decoder lets through what is not UTF-8.
            if not data.isascii():
                data.decode()
            return self._decoder.decode(data)
        except RecursionError as error:
            raise GuestError("the handler handed over a value that is nested too deeply") from error
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise GuestError("the handler broke the text its sandbox hands over") from error


class _Operations:
    """Sorts a flush's operations by kind; raises `PermissionDenied` for one that is not allowed."""

    def __init__(self, capabilities: CapabilitySet, counts: dict[str, int]) -> None:
        self._capabilities = capabilities
        self._counts = counts
        self.mutations: list[StateMutation] = []
        self.events: list[EmittedEvent] = []
        self.view_commands: list[ViewCommand] = []

    def take(self, operation: _Set | _Delete | _Emit | _View) -> None:
        """Check one operation, count it and keep it."""
        if type(operation) is _Set:
            demand(self._capabilities, "state:write", operation.key)
            self.mutations.append(StateMutation(op="set", key=operation.key, value=operation.value))
            self._counts["state_set"] += 1
        elif type(operation) is _Delete:
            demand(self._capabilities, "state:write", operation.key)
            self.mutations.append(StateMutation(op="delete", key=operation.key))
            self._counts["state_delete"] += 1
        elif type(operation) is _Emit:
            demand(self._capabilities, "events:emit", operation.name)
            self.events.append(EmittedEvent(name=operation.name, payload=operation.payload))
            self._counts["emit"] += 1
        elif type(operation) is _View:
            demand(self._capabilities, "view:update", operation.id)
            self.view_commands.append(ViewCommand(id=operation.id, data=operation.data))
            self._counts["view"] += 1


def demand(capabilities: CapabilitySet, kind: str, name: str) -> None:
    """Raise `PermissionDenied` for what the handler may not do."""
    if not capabilities.allows(kind, name):
        token = f"{kind}:{name}"[:300]
        raise PermissionDenied(f"the handler has no capability {token}", token=token)


def _check_calls(calls: list[PendingCall], capabilities: CapabilitySet, usage: Usage) -> None:
    for call in calls:
        demand(capabilities, "ext", call.extension)
        # Ids rise, so a forged one can never answer for a call that is already on its way.
        if call.call_id <= usage.last_call_id or not bytes(call.args).lstrip().startswith(b"["):
            raise GuestError("the guest handed over a malformed extension call")
        usage.last_call_id = call.call_id
        usage.awaited += 1
        usage.host_calls["ext_call"] += 1


def hold_to_count(name: str, limit: int, used: int) -> None:
    """Raise `ResourceLimitExceeded` when more was used than the limit of this name."""
    if used > limit:
        raise count_breach(name, limit, used)


def count_breach(name: str, limit: int, used: int) -> ResourceLimitExceeded:
    """The error of a count that was passed."""
    return ResourceLimitExceeded(
        f"the handler used {used} of {name}; the limit is {limit}", LimitBreach(name, limit, used)
    )


def _bounded_denials(denials: list[str], usage: Usage) -> tuple[str, ...]:
    """The last of them, which may be the one that ended the call: one at least of each flush that has any."""
    room = max(1, _MOST_DENIALS - usage.denials)
    kept = tuple(token[:_MOST_TOKEN_CHARACTERS] for token in denials[-room:])
    usage.denials += len(kept)
    return kept


def _bounded_logs(logs: list[_Log], limit: int, usage: Usage) -> tuple[LogRecord, ...]:
    kept = []
    for record in logs:
        room = limit - usage.log_bytes
        if room <= 0:
            break
        data = record.message.encode("utf-8", "replace")
        # One more for the line's end: empty lines are not free.
        usage.log_bytes += min(len(data), room) + 1
        cut = data[:room].decode("utf-8", "ignore") if len(data) > room else record.message
        kept.append(LogRecord(level=record.level, message=cut))
    return tuple(kept)
