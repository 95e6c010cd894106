"""What `make lambda-local` runs."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from functions.aws_lambda.emulator import HOST, INVOKE_PATH, session_of
from tests.aws_lambda.emulated import GUESTS, ROOT, SECONDS, free_port


@pytest.fixture
def environ(program: Path, filled_cache: Path, tmp_path: Path) -> dict[str, str]:
    """The settings of a user who has called it before."""
    return os.environ | {
        "NEXUS_HANDLERS_DIR": str(GUESTS),
        "NEXUS_CACHE_DIR": str(filled_cache),
        "NEXUS_STORE_URL": f"sqlite:///{tmp_path}/nexus.db",
    }


def command(*options: object) -> Sequence[str]:
    """The command on a port of its own."""
    port = ("--port", str(free_port()))
    return [sys.executable, "-m", "functions.aws_lambda.local", *port, *map(str, options)]


def run(environ: dict[str, str], *options: object) -> "subprocess.CompletedProcess[str]":
    """The command, to its end."""
    return subprocess.run(
        command(*options), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_the_answer_is_printed(environ: dict[str, str], tmp_path: Path) -> None:
    """A file's event is sent, its answer is the only thing on stdout, and the log is on stderr."""
    event = tmp_path / "event.json"
    event.write_text('{"handler": "hello", "event": {"who": "you"}}')
    done = run(environ, "--once", "--event", event)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["returnValue"] == {"greeting": "hello you"}
    assert "INIT took" in done.stderr


def test_an_event_that_fails_is_an_exit_code(environ: dict[str, str], tmp_path: Path) -> None:
    """An event that the function refuses gives exit code 1."""
    event = tmp_path / "event.json"
    event.write_text('{"nothing": "known"}')
    done = run(environ, "--once", "--event", event)
    assert (done.returncode, json.loads(done.stdout)["errorType"]) == (1, "INVALID_REQUEST")


def test_a_function_that_does_not_start_is_no_function(environ: dict[str, str]) -> None:
    """A bad setting is shown, and the command ends with exit code 2."""
    done = run(environ | {"NEXUS_TIMEOUT_MS": "soon"})
    assert done.returncode == 2
    assert json.loads(done.stdout)["errorMessage"].startswith("NEXUS_TIMEOUT_MS: 'soon' is not allowed")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {},
            ["--event", "missing.json"],
            "missing.json: the event cannot be read: No such file or directory",
        ),
        ({}, ["--event", "Makefile"], "Makefile: the event is not JSON"),
        ({"NEXUS_HANDLERS_DIR": "nowhere"}, [], "nowhere: there is no such folder of handlers"),
    ],
    ids=["no file", "no JSON", "no handlers"],
)
def test_what_is_not_there_is_named(
    environ: dict[str, str], changes: dict[str, str], options: list[str], message: str
) -> None:
    """A mistake is told in one line, with exit code 2, before anything is started."""
    done = run(environ | changes, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_ctrl_c_stops_all_that_was_started(environ: dict[str, str]) -> None:
    """It takes more events until Ctrl-C, and then leaves no process."""
    started = command()
    port = int(started[started.index("--port") + 1])
    process = subprocess.Popen(started, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process, process.stderr as written:
        assert any("Ctrl-C stops it" in line for line in written)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        event = json.dumps({"handler": "hello", "event": {"who": "me"}}).encode()
        with urllib.request.urlopen(f"http://{HOST}:{port}{INVOKE_PATH}", event) as reply:
            assert json.load(reply)["returnValue"] == {"greeting": "hello me"}
        process.send_signal(signal.SIGINT)
        written.read()
    assert process.returncode == 0
    assert len(children) == 1
    deadline = time.monotonic() + SECONDS
    while session_of(int(children[0])):
        assert time.monotonic() < deadline
        time.sleep(0.02)
