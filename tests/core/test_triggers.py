"""Triggers and HTTP routes."""

import re

import pytest

from nexus_core.errors import InvalidHandler
from nexus_core.triggers import RESERVED_ROOTS, TRIGGER_KINDS, parse_http_route, parse_trigger


@pytest.mark.parametrize("kind", [kind for kind in TRIGGER_KINDS if kind != "http"])
def test_every_kind_takes_a_pattern(kind: str) -> None:
    """A trigger of each kind keeps its pattern as it is written."""
    assert parse_trigger(kind, "some.name") == (kind, "some.name")


@pytest.mark.parametrize(
    ("kind", "pattern", "reason"),
    [
        ("ftp", "x", "trigger kind 'ftp' is not known; allowed are http, cloudevent"),
        ("sqs", "", "printable"),
        ("sqs", "a\nb", "printable"),
        ("sqs", " queue", "without spaces"),
        ("sqs", "q" * 513, "longer than 512"),
        ("sqs", "a*b", "'*' may only stand at the end"),
        ("s3", "*.jpg", "'*' may only stand at the end"),
        ("sns", "arn:aws:sns:eu-west-1:1:*", "an ARN is written in full"),
    ],
)
def test_bad_triggers_are_refused(kind: str, pattern: str, reason: str) -> None:
    """An unknown kind, an empty, unprintable or overlong pattern is refused with the reason."""
    with pytest.raises(InvalidHandler, match=re.escape(reason)):
        parse_trigger(kind, pattern)


@pytest.mark.parametrize(
    ("pattern", "segments"),
    [("GET /", ()), ("DELETE /users/{id}", ("users", "{id}")), ("POST /a.b/~c/@d", ("a.b", "~c", "@d"))],
)
def test_routes_are_parsed(pattern: str, segments: tuple[str, ...]) -> None:
    """A route is its method and segments, and can be written back."""
    route = parse_http_route(pattern)
    assert route.segments == segments
    assert f"{route.method} {route.path}" == pattern


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("/users", "must read 'METHOD /path'"),
        ("get /users", "with a method of GET, HEAD"),
        ("GET users", "must start with '/'"),
        ("GET  /users", "must start with '/'"),
        ("GET /users/", "path segment ''"),
        ("GET //users", "path segment ''"),
        ("GET /a/../b", "path segment '..'"),
        ("GET /a%20b", "path segment 'a%20b'"),
        ("GET /a?b", "path segment 'a?b'"),
        ("GET /{id:path}", "path segment '{id:path}'"),
        ("GET /x{id}", "path segment 'x{id}'"),
        ("GET /{a}/{a}", "a parameter's name twice"),
        ("POST /", "reserved are POST /"),
    ],
)
def test_bad_routes_are_refused(pattern: str, reason: str) -> None:
    """A route that is malformed or not Nexus's to give away is refused with the reason."""
    with pytest.raises(InvalidHandler, match=re.escape(reason)):
        parse_trigger("http", pattern)


@pytest.mark.parametrize("root", sorted(RESERVED_ROOTS))
def test_reserved_paths_are_refused(root: str) -> None:
    """No route may lie at or below a path of Nexus itself; a path that only starts alike may."""
    for pattern in (f"GET /{root}", f"PUT /{root}/deeper/{{id}}"):
        with pytest.raises(InvalidHandler, match="claims a path of Nexus itself"):
            parse_http_route(pattern)
    assert parse_http_route(f"GET /{root}s1").segments == (f"{root}s1",)


def test_shape_ignores_names_of_parameters() -> None:
    """Two routes that differ only in a parameter's name claim the same; another method does not."""
    assert parse_http_route("GET /u/{a}").shape == parse_http_route("GET /u/{b}").shape
    assert parse_http_route("GET /u/{a}").shape != parse_http_route("PUT /u/{a}").shape
    assert parse_http_route("GET /u/me").shape != parse_http_route("GET /u/{a}").shape


def test_precedence_puts_literals_first() -> None:
    """Sorted by precedence, a literal segment comes before a parameter at the same place."""
    patterns = ["GET /{x}/list", "GET /users/{id}", "GET /users/me"]
    ordered = sorted(patterns, key=lambda pattern: parse_http_route(pattern).precedence)
    assert ordered == ["GET /users/me", "GET /users/{id}", "GET /{x}/list"]
