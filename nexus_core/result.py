"""What one call gives back. The JSON form (camelCase) is the same on every host; see docs/handlers.md."""

from __future__ import annotations

from typing import Literal

import msgspec

from nexus_core.errors import (
    CompilationError,
    ErrorCode,
    GuestError,
    InvalidHandler,
    LimitError,
    NexusError,
    PermissionDenied,
)


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the values that leave Nexus as JSON."""


class StateMutation(_Wire, frozen=True):
    """One write (`op="set"`, `value` is JSON text) or delete of a `$state` key."""

    op: Literal["set", "delete"]
    key: str
    value: msgspec.Raw = msgspec.Raw(b"null")


class EmittedEvent(_Wire, frozen=True):
    """One `$emit(name, payload)`; `payload` is JSON text."""

    name: str
    payload: msgspec.Raw = msgspec.Raw(b"null")


class ViewCommand(_Wire, frozen=True):
    """One `$view.update(id, data)`; `data` is JSON text."""

    id: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class LogRecord(_Wire, frozen=True):
    """One line the handler logged; `level` is debug, info, warn or error."""

    level: str
    message: str


class PendingCall(_Wire, frozen=True):
    """An extension call a suspended handler waits for; `args` is a JSON array."""

    call_id: int
    extension: str
    method: str
    args: msgspec.Raw


class Suspension(_Wire, frozen=True):
    """A call that sleeps: its id and the extension calls it waits for."""

    id: str
    pending: tuple[PendingCall, ...]


class AsyncResult(_Wire, frozen=True):
    """The answer to one pending call: `value` (JSON text) when `ok`, else an error's name and message."""

    call_id: int
    ok: bool
    value: msgspec.Raw = msgspec.Raw(b"null")
    error_name: str = "Error"
    error_message: str = ""


class ErrorLocation(_Wire, frozen=True):
    """A place in the author's source; `line` and `column` count from 1."""

    file: str
    line: int
    column: int


class ErrorLimit(_Wire, frozen=True):
    """The limit that was passed: its name, its value and what was used."""

    name: str
    value: int
    used: int


class ErrorInfo(_Wire, frozen=True):
    """An error as the caller sees it. Nothing of the host is in it."""

    code: ErrorCode
    message: str
    retryable: bool
    name: str | None = None
    stack: str | None = None
    location: ErrorLocation | None = None
    snippet: str | None = None
    limit: ErrorLimit | None = None

    @classmethod
    def of(cls, error: NexusError) -> ErrorInfo:
        """The caller's view of an error of ours."""
        info = cls(code=error.code, message=error.message, retryable=error.retryable)
        if isinstance(error, LimitError):
            limit = ErrorLimit(**error.breach._asdict()) if error.breach else None
            return msgspec.structs.replace(info, limit=limit)
        if isinstance(error, (GuestError, CompilationError, InvalidHandler, PermissionDenied)):
            location = ErrorLocation(**error.location._asdict()) if error.location else None
            info = msgspec.structs.replace(info, location=location, snippet=error.snippet)
        if isinstance(error, (GuestError, CompilationError)):
            info = msgspec.structs.replace(info, name=error.name, stack=error.stack)
        return info


class ExecutionMetrics(_Wire, frozen=True):
    """What one call used. Times are microseconds, sizes bytes, `host_calls` a count by function."""

    duration_us: int = 0
    cpu_us: int = 0
    memory_used_bytes: int = 0
    memory_peak_bytes: int = 0
    host_calls: dict[str, int] = {}
    cache_hit: bool = True
    compilation_time_us: int | None = None
    cold_start: bool = False


class WasmResult(_Wire, frozen=True):
    """The outcome of one call; `return_value` is JSON text."""

    status: Literal["success", "error", "suspended"]
    return_value: msgspec.Raw = msgspec.Raw(b"null")
    state_mutations: tuple[StateMutation, ...] = ()
    events: tuple[EmittedEvent, ...] = ()
    view_commands: tuple[ViewCommand, ...] = ()
    suspension: Suspension | None = None
    error: ErrorInfo | None = None
    metrics: ExecutionMetrics = ExecutionMetrics()
    logs: tuple[LogRecord, ...] = ()
