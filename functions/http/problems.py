"""Failures outside a call, as `application/problem+json` (RFC 9457).

`type` is `about:blank`, so `title` is the status's own phrase; the members `code` (an `ErrorCode`) and
`instance` (the request id) are what callers and operators look things up by.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from functions.http.answers import Answer, Header
from nexus_core.errors import ErrorCode, InvalidRequest, NexusError

PROBLEM_TYPE: Final = (b"content-type", b"application/problem+json")


class HttpProblem(InvalidRequest):
    """A refusal that only HTTP knows: its own status and, with it, headers such as `Allow`."""

    def __init__(self, message: str, status: HTTPStatus, headers: Sequence[Header] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = tuple(headers)

    @property
    def http_status(self) -> int:
        """The status this problem is answered with."""
        return self.status


class CallProblem(NexusError):
    """A call's error as whoever caused the call may see it: code and message, no source, no stack."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # the other errors have one code each


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a problem document; `instance` is the request id."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    instance: str


def problem_answer(error: NexusError, request_id: str, headers: Sequence[Header] = ()) -> Answer:
    """The answer to a request that never became a call, or whose call may not be shown to the caller."""
    status = HTTPStatus(error.http_status)
    problem = Problem(
        title=status.phrase, status=status, detail=error.message, code=error.code, instance=request_id
    )
    own = error.headers if isinstance(error, HttpProblem) else ()
    return Answer(status, [PROBLEM_TYPE, *own, *headers], msgspec.json.encode(problem))


def method_not_allowed(method: str, path: str, allowed: Sequence[str]) -> HttpProblem:
    """The refusal of a method that `path` does not have; `allowed` are those it has."""
    listing = ", ".join(sorted(allowed))
    return HttpProblem(
        f"{path} does not answer {method}; allowed: {listing}",
        HTTPStatus.METHOD_NOT_ALLOWED,
        [(b"allow", listing.encode())],
    )
