"""What starts a handler beside `POST /invoke/<name>`: triggers, and the rules of their patterns.

The pattern of every kind but `http` is a name (of a queue, an event type, a rule, ...), the beginning of
one with a `*` at its end, or the whole ARN of an AWS resource.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nexus_core.errors import InvalidHandler

TRIGGER_KINDS = ("http", "cloudevent", "sqs", "kinesis", "dynamodb", "sns", "s3", "eventbridge", "schedule")
"""The kinds of trigger; a `[[triggers]]` table has exactly one of them as its key."""

HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

RESERVED_ROOTS = frozenset(
    {"invoke", "suspensions", "handlers", "sessions", "health", "metrics", "console", "docs", "openapi.json"}
)
"""First path segments that belong to Nexus itself."""

CLOUDEVENT_METHODS = frozenset({"POST", "OPTIONS"})
"""What the path `/` takes CloudEvents with: the event, and the question whether it may be sent."""

MAX_PATTERN_LENGTH = 512

_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()+,;=:@-]+")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Trigger(NamedTuple):
    """One event source of a handler: a kind of `TRIGGER_KINDS` and its pattern, e.g. `GET /users/{id}`."""

    kind: str
    pattern: str

    @property
    def claim(self) -> tuple[str, ...]:
        """What no second handler may claim: an event starts one handler."""
        if self.kind == "http":
            return (self.kind, *parse_http_route(self.pattern).shape)
        return (self.kind, self.pattern)


class HttpRoute(NamedTuple):
    """A parsed HTTP trigger: the method, and the path's segments; a parameter's segment is `{name}`."""

    method: str
    segments: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path as it is written, e.g. `/users/{id}`."""
        return "/" + "/".join(self.segments)

    @property
    def shape(self) -> tuple[str, ...]:
        """What the route claims, whatever its parameters are called: two routes of one shape collide."""
        return (self.method, *("{}" if segment.startswith("{") else segment for segment in self.segments))

    @property
    def precedence(self) -> tuple[tuple[bool, str], ...]:
        """Sort key that puts a literal segment before a parameter: `/users/me` before `/users/{id}`."""
        return tuple((segment.startswith("{"), segment) for segment in (*self.segments, self.method))


def parse_trigger(kind: str, pattern: str) -> Trigger:
    """A checked trigger; raises `InvalidHandler` that says what is allowed."""
    if kind not in TRIGGER_KINDS:
        raise InvalidHandler(f"trigger kind {kind!r} is not known; allowed are {', '.join(TRIGGER_KINDS)}")
    if not pattern or not pattern.isprintable() or pattern != pattern.strip():
        raise InvalidHandler(f"trigger {kind} must be a printable string without spaces around it")
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidHandler(f"trigger {kind} is longer than {MAX_PATTERN_LENGTH} characters")
    if kind == "http":
        parse_http_route(pattern)
    else:
        _check_name(kind, pattern)
    return Trigger(kind, pattern)


def _check_name(kind: str, pattern: str) -> None:
    if "*" in pattern[:-1]:
        raise InvalidHandler(f"trigger {kind} {pattern!r}: a '*' may only stand at the end of a name")
    if pattern.startswith("arn:") and pattern.endswith("*"):
        raise InvalidHandler(f"trigger {kind} {pattern!r}: an ARN is written in full, without '*'")


def parse_http_route(pattern: str) -> HttpRoute:
    """Read `METHOD /path/{param}`; raises `InvalidHandler` for a bad or a reserved route."""
    method, _, path = pattern.partition(" ")
    if method not in HTTP_METHODS:
        raise InvalidHandler(
            f"HTTP trigger {pattern!r} must read 'METHOD /path' with a method of {', '.join(HTTP_METHODS)}"
        )
    if not path.startswith("/"):
        raise InvalidHandler(f"HTTP trigger {pattern!r}: the path must start with '/'")
    segments = tuple(path[1:].split("/")) if path != "/" else ()
    names = [name for segment in segments if (name := _checked_segment(pattern, segment))]
    if len(names) != len(set(names)):
        raise InvalidHandler(f"HTTP trigger {pattern!r} uses a parameter's name twice")
    if segments[0] in RESERVED_ROOTS if segments else method in CLOUDEVENT_METHODS:
        roots = ", ".join(f"/{root}" for root in sorted(RESERVED_ROOTS))
        raise InvalidHandler(
            f"HTTP trigger {pattern!r} claims a path of Nexus itself; "
            f"reserved are POST /, OPTIONS / and {roots}"
        )
    return HttpRoute(method, segments)


def _checked_segment(pattern: str, segment: str) -> str | None:
    """The name of a parameter's segment, None for a literal one."""
    if parameter := _PARAMETER.fullmatch(segment):
        return parameter[1]
    if segment in {"", ".", ".."} or not _LITERAL.fullmatch(segment):
        raise InvalidHandler(
            f"HTTP trigger {pattern!r}: path segment {segment!r} must be a {{name}} "
            "or letters, digits and ._~!$&'()+,;=:@-"
        )
    return None
