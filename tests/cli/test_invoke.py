"""`nexus invoke`, from its arguments to what it prints."""

import json
import subprocess
import sys

import pytest

from tests.cli.command import PROGRAM, Command

ECHO = "export default (event) => event;"
FULL = """
export default function (event) {
  console.log("seen", event);
  $log.warn("careful");
  $state.count = ($state.count ?? 0) + 1;
  delete $state.old;
  $emit("counted", { count: $state.count });
  $view.update("total", $state.count);
  return $state.count;
}
"""
FULL_MANIFEST = 'capabilities = ["state:read:*", "state:write:*", "events:emit:counted", "view:update:total"]'


def test_the_return_value_is_the_output(nexus: Command) -> None:
    """Standard output holds the return value as JSON, and nothing else."""
    nexus.write("echo.js", ECHO)
    done = nexus("invoke", "echo.js", "--event", '{"who":"bob"}')
    assert (done.code, json.loads(done.out)) == (0, {"who": "bob"})
    assert "success in" in done.err


@pytest.mark.parametrize(
    "given",
    ["handlers/one.js", "one", "./handlers/two", "two", "handlers/two/index.js", "handlers/two/nexus.toml"],
)
def test_a_handler_is_named_or_pointed_at(nexus: Command, given: str) -> None:
    """A name, a file, a folder, and a file of a folder all mean the handler."""
    nexus.write("handlers/one.js", "return ctx.handler;")
    nexus.write("handlers/two/index.js", "return ctx.handler;")
    nexus.write("handlers/two/nexus.toml", "")
    done = nexus("invoke", given)
    assert (done.code, json.loads(done.out)) == (0, "one" if "one" in given else "two")


def test_a_handler_may_be_anywhere(nexus: Command) -> None:
    """A path outside the handlers folder brings its own manifest and files."""
    nexus.write(
        "elsewhere/deep/sum/index.ts", 'import { a } from "./a.ts"; export default () => a as number;'
    )
    nexus.write("elsewhere/deep/sum/a.ts", "export const a: number = 41;")
    nexus.write("elsewhere/deep/bad.js", "not JavaScript")
    assert nexus("invoke", "elsewhere/deep/sum").out == "41\n"


def test_a_name_wins_over_a_folder_here(nexus: Command) -> None:
    """A bare word is a handler's name first, and a path only when no handler has it."""
    nexus.write("handlers/both.js", "return 'served';")
    nexus.write("both/index.js", "return 'here';")
    nexus.write("only/index.js", "return 'here';")
    assert [nexus("invoke", name).out for name in ("both", "only")] == ['"served"\n', '"here"\n']


def test_a_path_reads_one_handler(nexus: Command) -> None:
    """What is wrong with a neighbour in the handlers folder is no concern of a path's, but of a name's."""
    nexus.write("handlers/one.js", ECHO)
    nexus.write("handlers/one.ts", ECHO)
    assert nexus("invoke", "handlers/one.js").code == 0
    done = nexus("invoke", "one")
    assert (done.code, "one.js and one.ts claim the same name" in done.err) == (1, True)


def test_what_a_call_did_is_told_beside(nexus: Command) -> None:
    """Logs, state changes, events and view commands go to standard error."""
    nexus.write("full.js", FULL)
    nexus.write("full.toml", FULL_MANIFEST)
    done = nexus("invoke", "full.js", "--event", "7", "--state", '{"count": 4, "old": true}')
    assert done.out == "5\n"
    told = done.err.splitlines()
    assert told[:-1] == [
        "info  seen 7",
        "warn  careful",
        "state count = 5",
        "state old deleted",
        'event counted {"count":5}',
        "view  total 5",
    ]


def test_json_prints_the_whole_result(nexus: Command) -> None:
    """With --json, standard output is the result with its effects, and standard error is silent."""
    nexus.write("full.js", FULL)
    nexus.write("full.toml", FULL_MANIFEST)
    done = nexus("invoke", "full.js", "--json")
    result = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert (result["status"], result["returnValue"]) == ("success", 1)
    assert result["stateMutations"][0] == {"op": "set", "key": "count", "value": 1}
    assert result["logs"][1] == {"level": "warn", "message": "careful"}


def test_an_error_points_at_its_place(nexus: Command) -> None:
    """A thrown error exits with 1 and shows path, line, column, the source line and a caret."""
    nexus.write("sub/bad.js", "export default function (event) {\n  return event.who.name;\n}\n")
    done = nexus("invoke", "sub/bad.js", "--event", "{}")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[:4] == [
        "error[EXECUTION_ERROR]: TypeError: cannot read property 'name' of undefined",
        " --> sub/bad.js:2:20",
        "2 |   return event.who.name;",
        "  |                    ^",
    ]


def test_an_error_of_a_served_folder_has_its_path(nexus: Command) -> None:
    """The place of an error in a handler's folder is a path from here."""
    nexus.write("handlers/two/index.js", "export default () => { throw new Error('no') };")
    assert " --> handlers/two/index.js:1:" in nexus("invoke", "two").err


def test_code_that_does_not_parse_is_shown(nexus: Command) -> None:
    """A syntax error exits with 1 and points into the file."""
    nexus.write("bad.js", "export default function () {\n  let = 1 +;\n}\n")
    done = nexus("invoke", "bad.js")
    assert done.code == 1
    assert done.err.startswith("error[COMPILATION_ERROR]: SyntaxError: ")
    assert " --> bad.js:2:" in done.err


def test_a_bad_manifest_is_shown(nexus: Command) -> None:
    """An error in the manifest exits with 1 and points into the manifest, naming the place once."""
    nexus.write("one.js", ECHO)
    nexus.write("one.toml", "[limits]\ntimeout = 3\n")
    done = nexus("invoke", "one.js")
    assert done.code == 1
    assert done.err.splitlines()[0].startswith("error[INVALID_HANDLER]: limit 'timeout' is not known")
    assert done.err.splitlines()[1] == " --> one.toml:2:1"


def test_a_breach_names_its_limit(nexus: Command) -> None:
    """A passed limit exits with 1 and tells its name, value and use."""
    nexus.write("two.js", "$emit('a'); $emit('a');")
    nexus.write("two.toml", 'capabilities = ["events:emit:a"]\n[limits]\nmax_events = 1\n')
    done = nexus("invoke", "two.js")
    assert done.code == 1
    assert "  limit: max_events = 1, used 2" in done.err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["helo"], "no handler is called 'helo'; did you mean hello?"),
        (["missing.js"], "there is no file or folder missing.js"),
        (["hello", "--event", "@missing.json"], "--event: missing.json cannot be read: No such file"),
        (["hello", "--state", "[]"], "--state: an object is needed"),
        (["hello", "--state", "{}", "--session", "a"], "--state is for a call without --session"),
        (["hello", "--session", "a b"], "a session id must be"),
        ([], "Missing argument 'NAME|PATH'"),
        (["hello", "--config", "missing.toml"], "missing.toml: the configuration file cannot be read"),
    ],
)
def test_a_call_that_cannot_be_made_exits_with_2(nexus: Command, arguments: list[str], message: str) -> None:
    """What is wrong with the command itself exits with 2 and says what."""
    nexus.write("handlers/hello.js", ECHO)
    done = nexus("invoke", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_the_event_may_come_from_a_file_or_from_standard_input(nexus: Command) -> None:
    """`@FILE` and `-` read the event from there."""
    nexus.write("echo.js", ECHO)
    nexus.write("event.json", '["file"]')
    assert json.loads(nexus("invoke", "echo.js", "--event", "@event.json").out) == ["file"]
    assert json.loads(nexus("invoke", "echo.js", "--event", "-", stdin=b'["in"]').out) == ["in"]
    assert json.loads(nexus("invoke", "echo.js").out) is None


def test_a_session_lasts(nexus: Command) -> None:
    """With --session the state is read from the store and written to it; with --state nothing is."""
    nexus.write("full.js", FULL)
    nexus.write("full.toml", FULL_MANIFEST)
    nexus("invoke", "full.js", "--state", '{"count": 50}')
    outs = [nexus("invoke", "full.js", "--session", session).out for session in ("a", "a", "b")]
    assert outs == ["1\n", "2\n", "1\n"]


def test_a_handler_cannot_steer_the_terminal(nexus: Command) -> None:
    """Escapes in logs, names and values are printed as escapes."""
    nexus.write("loud.js", "$log.info('\\x1b[31m\\u202e\\x9b'); $emit('a\\x1b', '\\x9b'); return '\\x9b2J';")
    nexus.write("loud.toml", 'capabilities = ["events:emit:*"]')
    done = nexus("invoke", "loud.js")
    assert not {"\x1b", "\x9b", "\u202e"} & {*done.out, *done.err}
    assert json.loads(done.out) == "\x9b2J"
    assert done.err.splitlines()[0] == r"info  \u001b[31m\u202e\u009b"


def test_a_call_imports_no_server(nexus: Command) -> None:
    """The process of one call loads no web framework, HTTP client, metrics library or file watcher."""
    nexus.write("echo.js", ECHO)
    command = [sys.executable, "-X", "importtime", PROGRAM, "invoke", "echo.js"]
    run = subprocess.run(
        command, cwd=nexus.folder, env=dict(nexus.environ), capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
    assert "msgspec" in imported
    unwanted = {"starlette", "uvicorn", "httpx", "prometheus_client", "watchfiles", "jwt", "sqlite3"}
    assert imported & unwanted == set()
