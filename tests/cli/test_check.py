"""`nexus check` and `nexus list`."""

import json

import pytest

from tests.cli.command import Command

READS = "export default () => {\n  $state.a = 1;\n  $emit('x.' + 1);\n  return $state[one];\n};\n"


def test_a_good_handler_passes(nexus: Command) -> None:
    """A handler that compiles exits with 0, and what it needs is listed."""
    nexus.write("one.js", "export default () => { $state.a = 1; };")
    nexus.write("one.toml", 'capabilities = ["state:write:*"]')
    done = nexus("check", "one.js")
    assert (done.code, done.out.splitlines()) == (0, ["ok   one  one.js", "     needs state:write:a"])


def test_a_handler_is_not_run(nexus: Command) -> None:
    """Checking loads the code and calls nothing."""
    nexus.write("one.js", "export default () => { throw new Error('ran'); };")
    assert nexus("check", "one.js").code == 0


@pytest.mark.parametrize(
    ("files", "error", "place"),
    [
        ({"one.js": "export default () => {\n  let = +;\n};"}, "COMPILATION_ERROR", "one.js:2:"),
        ({"one.js": "export const a = 1;"}, "COMPILATION_ERROR", ""),
        ({"one.ts": "export default (a: ) => a;"}, "COMPILATION_ERROR", "one.ts:1:"),
        ({"one.js": "", "one.toml": "[limits]\nx = 1"}, "INVALID_HANDLER", "one.toml:2:1"),
        (
            {"one.js": "", "one.toml": 'capabilities = ["ext:http"]\n[http]\nallow = ["http://x"]'},
            "INVALID_HANDLER",
            "",
        ),
        ({"one.js": "import './two.js';"}, "COMPILATION_ERROR", "one.js:1:8"),
    ],
)
def test_a_bad_handler_fails(nexus: Command, files: dict[str, str], error: str, place: str) -> None:
    """What cannot be accepted, parsed, loaded or set up exits with 1 and points at the place."""
    for path, text in files.items():
        nexus.write(path, text)
    done = nexus("check", next(iter(files)))
    assert done.code == 1
    assert f"error[{error}]" in done.out
    assert f" --> {place}" in done.out or not place


def test_capabilities_are_compared(nexus: Command) -> None:
    """Lacking, unused and unknown capabilities are told with their place; only --strict fails for them."""
    nexus.write("one.js", READS)
    nexus.write("one.toml", 'capabilities = ["ext:http", "events:emit:y", "state:read:b"]')
    (found,) = json.loads(nexus("check", "one.js", "--json").out)
    assert [
        (lack["token"], lack["location"]["line"], lack["location"]["column"]) for lack in found["missing"]
    ] == [
        ("state:write:a", 2, 3),
        ("events:emit:x.*", 3, 3),
    ]
    assert found["unused"] == ["events:emit:y", "ext:http"]
    assert found["unknown"] == ["one.js:4:10 $state[one]"]
    assert nexus("check", "one.js").code == 0
    strict = nexus("check", "one.js", "--strict")
    assert strict.code == 1
    assert (
        "warning: $state.a needs state:write:a, which the manifest lacks\n      --> one.js:2:3" in strict.out
    )


def test_a_wider_pattern_covers_a_narrower_one(nexus: Command) -> None:
    """A computed name is covered when the manifest allows all names with its beginning."""
    nexus.write("one.js", "export default (event) => $emit(`user.${event}`);")
    nexus.write("one.toml", 'capabilities = ["events:emit:u*"]')
    nexus.write("two.js", "export default (event) => $emit(`user.${event}`);")
    nexus.write("two.toml", 'capabilities = ["events:emit:user.a"]')
    one, two = json.loads(nexus("check", "one.js", "two.js", "--json").out)
    assert (one["missing"], one["unused"]) == ([], [])
    assert [lack["token"] for lack in two["missing"]] == ["events:emit:user.*"]


def test_a_folder_stands_for_all_its_handlers(nexus: Command) -> None:
    """A folder of handlers, and no path at all, check every handler; one that fails fails the whole."""
    nexus.write("handlers/one.js", "")
    nexus.write("handlers/two/index.js", "export default 1;")
    nexus.write("handlers/three.toml", "")
    for arguments in ((), ("handlers",)):
        done = nexus("check", *arguments)
        assert done.code == 1
        assert [line.split()[:2] for line in done.out.splitlines() if not line.startswith(" ")] == [
            ["ok", "one"],
            ["FAIL", "three"],
            ["FAIL", "two"],
        ]
        assert done.err == "3 checked, 2 failed, 0 with capabilities missing\n"


def test_nothing_to_check_is_a_mistake(nexus: Command) -> None:
    """A folder without handlers, and a path that is not there, exit with 2."""
    (nexus.folder / "empty").mkdir()
    assert nexus("check", "empty").code == 2
    assert nexus("check").code == 2
    assert nexus("check", "missing.js").code == 2


def test_the_list_tells_triggers_and_capabilities(nexus: Command) -> None:
    """`nexus list` shows each handler with what starts it and what it may do, the refused ones too."""
    nexus.write("handlers/api/index.js", "")
    nexus.write("handlers/api/nexus.toml", 'capabilities = ["ext:http"]\n[[triggers]]\nhttp = "GET /a/{id}"')
    nexus.write("handlers/bad.js", "")
    nexus.write("handlers/bad.toml", "x = 1")
    done = nexus("list")
    assert done.code == 0
    assert [line.split() for line in done.out.splitlines()[:4]] == [
        ["api", "handlers/api"],
        ["on", "http", "GET", "/a/{id}"],
        ["may", "ext:http"],
        ["bad", "handlers/bad.js"],
    ]
    assert " --> handlers/bad.toml:1:1" in done.out
    api, bad = json.loads(nexus("list", "--json").out)
    assert api == {
        "name": "api",
        "path": "handlers/api",
        "triggers": ["http GET /a/{id}"],
        "capabilities": ["ext:http"],
    }
    assert (bad["name"], bad["error"]["code"]) == ("bad", "INVALID_HANDLER")


def test_an_empty_list_says_so(nexus: Command) -> None:
    """With no handlers the list is empty, and people are told where it looked."""
    done = nexus("list")
    assert (done.code, done.out, done.err) == (0, "", "there are no handlers in handlers\n")
    assert json.loads(nexus("list", "--json").out) == []
