"""The command as a whole: its overview, its errors, and when it uses colour."""

import os
import pty
import subprocess
import sys
import tomllib

import pytest

from functions.cli.main import nexus as group
from tests.cli.command import PROGRAM, Command
from tests.project.sources import ROOT

COMMANDS = ("serve", "invoke", "list", "check", "build", "dev", "doctor", "tune")
FAILING = "export default () => { $log.warn('careful'); throw new Error('no'); };"


def test_the_overview_names_every_command(nexus: Command) -> None:
    """`nexus --help` lists each subcommand."""
    done = nexus("--help")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.partition("Commands:\n")[2].splitlines()] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(nexus: Command, name: str) -> None:
    """Each subcommand explains itself, in the words of the overview."""
    overview = " ".join(nexus("--help").out.split())
    done = nexus(name, "-h")
    assert done.code == 0
    command = group.commands.get(name) or group.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert f"{name} " in overview
    assert done.out.startswith(f"Usage: nexus {name} ")


def test_the_version_is_the_packages(nexus: Command) -> None:
    """`nexus --version` is what pyproject.toml builds."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert nexus("--version").out == f"nexus {version}\n"


def test_an_unknown_command_exits_with_2(nexus: Command) -> None:
    """A mistyped subcommand is a usage error."""
    done = nexus("invok")
    assert done.code == 2
    assert "No such command 'invok'" in done.err


@pytest.mark.parametrize(
    "arguments", [("list",), ("invoke", "one"), ("check",), ("build", "--out", "seed"), ("serve",)]
)
def test_a_bad_setting_stops_every_command(nexus: Command, arguments: tuple[str, ...]) -> None:
    """A setting that is not allowed exits with 2 and names its variable and what is allowed."""
    done = nexus(*arguments, NEXUS_TIMEOUT_MS="soon")
    assert (done.code, done.out) == (2, "")
    assert done.err == "nexus: error: NEXUS_TIMEOUT_MS: 'soon' is not allowed; allowed: 0 to 86400000\n"


def test_options_go_before_variables(nexus: Command) -> None:
    """An option overrides its variable, and the file is overridden by both."""
    nexus.write("a/from_option.js", "")
    nexus.write("b/from_variable.js", "")
    nexus.write("c/from_file.js", "")
    nexus.write("settings.toml", 'handlers_dir = "c"')
    command = ("list", "--config", "settings.toml")
    assert "from_option" in nexus(*command, "--handlers-dir", "a", NEXUS_HANDLERS_DIR="b").out
    assert "from_variable" in nexus(*command, NEXUS_HANDLERS_DIR="b").out
    assert "from_file" in nexus(*command).out


def on_terminal(nexus: Command, **variables: str) -> bytes:
    """What `nexus invoke` of a failing handler writes to a terminal."""
    nexus.write("bad.js", FAILING)
    leader, follower = pty.openpty()
    environ = {**os.environ, **nexus.environ, "TERM": "xterm", **variables}
    if "NO_COLOR" not in variables:
        environ.pop("NO_COLOR", None)
    command = [sys.executable, PROGRAM, "invoke", "bad.js"]
    subprocess.run(
        command, cwd=nexus.folder, env=environ, stdin=follower, stdout=follower, stderr=follower, check=False
    )
    os.close(follower)
    written = b""
    try:
        while part := os.read(leader, 65536):
            written += part
    except OSError:
        pass  # the terminal has no writer any more
    finally:
        os.close(leader)
    return written


def test_a_terminal_gets_colour(nexus: Command) -> None:
    """On a terminal errors are red and logs have their level's colour."""
    written = on_terminal(nexus)
    assert b"\x1b[31m\x1b[1merror[EXECUTION_ERROR]" in written
    assert b"\x1b[33mwarn" in written


def test_no_color_is_respected(nexus: Command) -> None:
    """With NO_COLOR a terminal gets the same words without any escape."""
    written = on_terminal(nexus, NO_COLOR="1")
    assert b"error[EXECUTION_ERROR]: no" in written
    assert b"\x1b" not in written


def test_a_pipe_gets_no_colour(nexus: Command) -> None:
    """What is not a terminal gets plain text."""
    nexus.write("bad.js", FAILING)
    done = nexus("invoke", "bad.js")
    assert "error[EXECUTION_ERROR]: no" in done.err
    assert "\x1b" not in done.err
