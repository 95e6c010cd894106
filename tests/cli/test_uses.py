"""Capabilities read off source text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.cli.uses import find_uses

PIECES = [
    "$state",
    "$emit",
    "$ext",
    "$view",
    "crypto",
    ".",
    "?.",
    "[",
    "]",
    "(",
    ")",
    "`",
    "${",
    "}",
    '"a"',
    "'",
]
PIECES += ["=", "==", "+=", "++", "delete ", " in ", "x", ",", "\n", "//", "/*", "1", "\\", "update", "push"]


def tokens_of(source: str) -> list[str | None]:
    """The tokens of the uses in one file, in order."""
    return [use.token for use in find_uses({"index.js": source})]


@pytest.mark.parametrize(
    ("source", "tokens"),
    [
        ("$state.a", ["state:read:a"]),
        ("$state?.a", ["state:read:a"]),
        ("$state['a b']", ["state:read:a b"]),
        ("$state.a = 1", ["state:write:a"]),
        ("$state.a == 1", ["state:read:a"]),
        ("$state.a => 1", ["state:read:a"]),
        ("$state.a += 1", ["state:read:a", "state:write:a"]),
        ("$state.a ??= []", ["state:read:a", "state:write:a"]),
        ("$state.a++", ["state:read:a", "state:write:a"]),
        ("--$state.a", ["state:read:a", "state:write:a"]),
        ("delete $state.a", ["state:write:a"]),
        ("delete $state.a.b", ["state:read:a", "state:write:a"]),
        ("$state.a.b = 1", ["state:read:a", "state:write:a"]),
        ("$state.a[0].b = 1", ["state:read:a", "state:write:a"]),
        ("$state.a.push(1)", ["state:read:a", "state:write:a"]),
        ("$state.a.map(f)", ["state:read:a"]),
        ("'a' in $state", ["state:read:a"]),
        ("$state[`user.${id}`] = 1", ["state:write:user.*"]),
        ("$state[`all`]", ["state:read:all"]),
        ("$state[key]", [None]),
        ("Object.keys($state)", [None]),
        ("$emit('a.b', {c: [1, 2]})", ["events:emit:a.b"]),
        ("$emit('a.' + kind)", ["events:emit:a.*"]),
        ("$emit(name)", [None]),
        ("list.forEach($emit)", [None]),
        ("$ext.http.get(url)", ["ext:http"]),
        ("$ext['mail'].send()", ["ext:mail"]),
        ("const { http } = $ext", [None]),
        ("$view.update('total', 1)", ["view:update:total"]),
        ("$view.update(id, 1)", [None]),
        ("crypto.randomUUID()", ["crypto:random"]),
        ("crypto.subtle", []),
        ("other.$state.a; // $state.b\n'$state.c'; `$state.d`; /$state.e/", []),
        ("`${$state.a}`", ["state:read:a"]),
    ],
)
def test_a_use_is_read_as_it_is_written(source: str, tokens: list[str | None]) -> None:
    """Each way to write a use gives the capability it needs, or none where the name is computed."""
    assert tokens_of(source) == tokens


def test_a_use_has_its_place() -> None:
    """Each use tells file, line, column and its own text; files that are no code are not read."""
    files = {"data.json": '{"a": "$state.a"}', "lib/one.ts": "let a: number =\n  $state.count;"}
    (use,) = find_uses(files)
    assert (use.location, use.text) == (("lib/one.ts", 2, 3), "$state.count")


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_source_can_be_read(source: str) -> None:
    """Whatever the source, reading it ends without an error, and uses point into it."""
    for use in find_uses({"index.js": source}):
        line = source.split("\n")[use.location.line - 1]
        assert line[use.location.column - 1 :].startswith(("$", "crypto"))
