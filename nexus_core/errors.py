"""Every error Nexus reports, and the one table that says how each is answered.

The root is `NexusError`. A subclass stands for one code; `ERROR_TABLE` maps the code to an
HTTP status and to whether a retry can help. Wrappers read the table and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, NamedTuple


class ErrorCode(StrEnum):
    """The codes a caller can meet; also the label values of `nexus_errors_total`."""

    HANDLER_NOT_FOUND = "HANDLER_NOT_FOUND"
    INVALID_HANDLER = "INVALID_HANDLER"
    COMPILATION_ERROR = "COMPILATION_ERROR"
    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    SUSPENSION_NOT_FOUND = "SUSPENSION_NOT_FOUND"
    SUSPENSION_CONFLICT = "SUSPENSION_CONFLICT"
    STATE_CONFLICT = "STATE_CONFLICT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    STACK_OVERFLOW = "STACK_OVERFLOW"
    RESOURCE_LIMIT = "RESOURCE_LIMIT"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    POOL_EXHAUSTED = "POOL_EXHAUSTED"
    TIMEOUT = "TIMEOUT"


class ErrorAnswer(NamedTuple):
    """How one code is answered: HTTP status, and whether the same call may succeed later."""

    http_status: int
    retryable: bool


ERROR_TABLE: Mapping[ErrorCode, ErrorAnswer] = MappingProxyType(
    {
        ErrorCode.HANDLER_NOT_FOUND: ErrorAnswer(404, False),
        ErrorCode.INVALID_HANDLER: ErrorAnswer(422, False),
        ErrorCode.COMPILATION_ERROR: ErrorAnswer(422, False),
        ErrorCode.INVALID_REQUEST: ErrorAnswer(400, False),
        ErrorCode.UNAUTHENTICATED: ErrorAnswer(401, False),
        ErrorCode.PERMISSION_DENIED: ErrorAnswer(403, False),
        ErrorCode.SUSPENSION_NOT_FOUND: ErrorAnswer(404, False),
        ErrorCode.SUSPENSION_CONFLICT: ErrorAnswer(409, False),
        ErrorCode.STATE_CONFLICT: ErrorAnswer(409, True),
        ErrorCode.PAYLOAD_TOO_LARGE: ErrorAnswer(413, False),
        ErrorCode.EXECUTION_ERROR: ErrorAnswer(500, False),
        ErrorCode.MEMORY_LIMIT: ErrorAnswer(500, False),
        ErrorCode.STACK_OVERFLOW: ErrorAnswer(500, False),
        ErrorCode.RESOURCE_LIMIT: ErrorAnswer(500, False),
        ErrorCode.INTERNAL_ERROR: ErrorAnswer(500, True),
        ErrorCode.POOL_EXHAUSTED: ErrorAnswer(503, True),
        ErrorCode.TIMEOUT: ErrorAnswer(504, True),
    }
)


class SourceLocation(NamedTuple):
    """A place in the author's own source; `line` and `column` count from 1."""

    file: str
    line: int
    column: int


class LimitBreach(NamedTuple):
    """Which limit was passed, its value, and what the call used or asked for."""

    name: str
    value: int
    used: int


class NexusError(Exception):
    """Root of every error Nexus raises on purpose.

    `message` is safe to show a caller: it names what, where and what is allowed, and holds
    nothing of the host. `retryable` and `http_status` come from `ERROR_TABLE`.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed when it is tried again."""
        return ERROR_TABLE[self.code].retryable

    @property
    def http_status(self) -> int:
        """The HTTP status that answers this error."""
        return ERROR_TABLE[self.code].http_status


class HandlerNotFound(NexusError):
    """No handler has this name. Deploy it, or correct the name; unlike `InvalidHandler`, no file exists."""

    code = ErrorCode.HANDLER_NOT_FOUND


class InvalidHandler(NexusError):
    """A handler's files or manifest are refused; unlike `CompilationError`, no code was run yet."""

    code = ErrorCode.INVALID_HANDLER

    def __init__(
        self, message: str, *, location: SourceLocation | None = None, snippet: str | None = None
    ) -> None:
        super().__init__(message)
        self.location = location
        self.snippet = snippet


class CompilationError(NexusError):
    """A handler's code does not parse, or fails while its module is loaded."""

    code = ErrorCode.COMPILATION_ERROR

    def __init__(
        self,
        message: str,
        *,
        name: str = "Error",
        location: SourceLocation | None = None,
        snippet: str | None = None,
        stack: str | None = None,
    ) -> None:
        super().__init__(message)
        self.name = name
        self.location = location
        self.snippet = snippet
        self.stack = stack


class InvalidRequest(NexusError):
    """The caller's request is malformed: bad JSON, an unknown option, a value out of range."""

    code = ErrorCode.INVALID_REQUEST


class Unauthenticated(NexusError):
    """The caller did not prove who it is. Unlike `PermissionDenied`, a valid token would help."""

    code = ErrorCode.UNAUTHENTICATED


class PermissionDenied(NexusError):
    """A caller's scope or a handler's capability does not cover what was tried; `token` names it.

    `location` and `snippet` show where the handler tried, when that is known.
    """

    code = ErrorCode.PERMISSION_DENIED

    def __init__(
        self,
        message: str,
        *,
        token: str | None = None,
        location: SourceLocation | None = None,
        snippet: str | None = None,
    ) -> None:
        super().__init__(message)
        self.token = token
        self.location = location
        self.snippet = snippet


class SuspensionNotFound(NexusError):
    """No suspended call has this id: it ended, expired or never was."""

    code = ErrorCode.SUSPENSION_NOT_FOUND


class SuspensionConflict(NexusError):
    """Another process resumed or cancelled this suspended call first."""

    code = ErrorCode.SUSPENSION_CONFLICT


class StateConflict(NexusError):
    """Another call committed to the session since this one read it; nothing of this flush was applied."""

    code = ErrorCode.STATE_CONFLICT


class LimitError(NexusError):
    """Base of the errors that name a limit; raised through its subclasses only."""

    def __init__(self, message: str, breach: LimitBreach | None = None) -> None:
        super().__init__(message)
        self.breach = breach


class PayloadTooLarge(LimitError):
    """An input or an output has more bytes than its limit."""

    code = ErrorCode.PAYLOAD_TOO_LARGE


class MemoryLimitExceeded(LimitError):
    """The guest asked for more memory than `memory_limit_bytes`."""

    code = ErrorCode.MEMORY_LIMIT


class StackOverflow(LimitError):
    """The guest recursed deeper than its stack."""

    code = ErrorCode.STACK_OVERFLOW


class ResourceLimitExceeded(LimitError):
    """The guest passed a count: host calls, state mutations or events."""

    code = ErrorCode.RESOURCE_LIMIT


class HandlerTimeout(LimitError):
    """The call passed `timeout_ms` (wall) or `cpu_ms` (guest time)."""

    code = ErrorCode.TIMEOUT


class PoolExhausted(NexusError):
    """Every instance is busy and the waiting line is full, or the wait was too long. Retry later."""

    code = ErrorCode.POOL_EXHAUSTED


class GuestError(NexusError):
    """The handler threw, rejected, never settled or trapped; carries what the author needs to find it."""

    code = ErrorCode.EXECUTION_ERROR

    def __init__(
        self,
        message: str,
        *,
        name: str = "Error",
        stack: str | None = None,
        location: SourceLocation | None = None,
        snippet: str | None = None,
    ) -> None:
        super().__init__(message)
        self.name = name
        self.stack = stack
        self.location = location
        self.snippet = snippet


class InternalError(NexusError):
    """Nexus itself failed. The message says no more; the log has the cause under the request id."""

    code = ErrorCode.INTERNAL_ERROR
