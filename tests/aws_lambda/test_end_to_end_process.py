"""The function's process under AWS's emulator: a start that fails, a full disk, little time, and its end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from functions.aws_lambda.emulator import Emulator
from tests.aws_lambda.emulated import SECONDS, code_of, direct, plan_of, tells_nothing_of_the_host

# Lambda sends SIGTERM only where an extension is registered: this one waits for the end and is told of it.
_EXTENSION = f"""#!{sys.executable}
import http.client, json, os
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
api.request(
    "POST",
    "/2020-01-01/extension/register",
    json.dumps({{"events": ["SHUTDOWN"]}}),
    {{"Lambda-Extension-Name": "bystander"}},
)
answer = api.getresponse()
answer.read()
identity = {{"Lambda-Extension-Identifier": answer.headers["Lambda-Extension-Identifier"]}}
api.request("GET", "/2020-01-01/extension/event/next", headers=identity)
print("bystander:", json.loads(api.getresponse().read())["eventType"], flush=True)
"""
# What is mounted is seen by the command and its children only. The folder to mount at, or from, comes last.
_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
_SMALL_DISK = (*_OWN_MOUNTS, "sh", "-c", 'mount -t tmpfs -o size=256k none "$0" && exec "$@"')
_OWN_LAYERS = (*_OWN_MOUNTS, "sh", "-c", 'mount --bind "$0" /opt && exec "$@"')

_MARGIN_MS = 19_000
_TIMEOUT_SECONDS = 20


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, where the function meets a disk of 256 kB."""
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def mounts() -> None:
    """Skips where nothing can be mounted."""
    if subprocess.run([*_OWN_MOUNTS, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounts of one's own need root")


@pytest.fixture(scope="module")
def confined(program: Path, small_disk: Path, mounts: None) -> Iterator[Emulator]:
    """The function with a small disk and a second for a call; started."""
    plan = plan_of(
        small_disk,
        prefix=(*_SMALL_DISK, str(small_disk)),
        timeout_seconds=_TIMEOUT_SECONDS,
        deadline_margin_ms=_MARGIN_MS,
    )
    with Emulator(program, plan) as emulator:
        # The emulator takes the start out of the first event's time, so that one may well find none left.
        emulator.invoke({"handler": "hello"})
        yield emulator


def fill(file: Path) -> None:
    """Write until that fails."""
    with file.open("wb", buffering=0) as opened:
        while True:
            opened.write(bytes(1024))


def test_a_bad_setting_ends_the_start_and_is_named(program: Path, tmp_path: Path) -> None:
    """The answer names variable, value and range, and nothing of the host; nothing else is tried."""
    with Emulator(program, plan_of(tmp_path, timeout_ms="soon")) as emulator:
        reply = emulator.invoke({"handler": "hello"})
    assert (reply.status, reply.error_type) == (502, "ConfigError")
    assert reply.value["errorMessage"] == "NEXUS_TIMEOUT_MS: 'soon' is not allowed; allowed: 0 to 86400000"
    assert tells_nothing_of_the_host(reply.body), reply.body


def test_a_cache_without_room_costs_no_call(confined: Emulator) -> None:
    """Where not even the engine's code fits on the disk, a warning says so and calls succeed."""
    assert direct(confined, "hello", {"who": "bob"})["returnValue"] == {"greeting": "hello bob"}
    assert "is not used (full)" in confined.log


def test_a_full_disk_fails_only_calls_that_keep_state(confined: Emulator, small_disk: Path) -> None:
    """With no byte left, a call that keeps state ends with a typed error; others go on, and it does later."""
    (pid,) = confined.function_pids
    filler = Path(f"/proc/{pid}/root{small_disk}/filler")
    with pytest.raises(OSError, match="No space left"):
        fill(filler)
    assert code_of(direct(confined, "counter", {}, session="s")) == "INTERNAL_ERROR"
    assert direct(confined, "hello", {"who": "bob"})["status"] == "success"
    filler.unlink()
    assert direct(confined, "counter", {}, session="s")["returnValue"]["count"] == 1
    assert confined.function_pids == (pid,)


def test_a_call_has_no_more_time_than_the_invocation(confined: Emulator) -> None:
    """A handler with a minute of its own ends with what is left of the function's time; the process stays."""
    (pid,) = confined.function_pids
    result = direct(confined, "patient")
    assert code_of(result) == "TIMEOUT"
    assert result["error"]["limit"]["value"] <= _TIMEOUT_SECONDS * 1000 - _MARGIN_MS
    assert direct(confined, "hello", {"who": "bob"})["status"] == "success"
    assert confined.function_pids == (pid,)


def test_sigterm_ends_the_function_in_order(
    program: Path, filled_cache: Path, mounts: None, tmp_path: Path
) -> None:
    """At the end of its sandbox the process closes all and goes by itself, before Lambda would kill it."""
    extension = tmp_path / "opt" / "extensions" / "bystander"
    extension.parent.mkdir(parents=True)
    extension.write_text(_EXTENSION)
    extension.chmod(0o755)
    prefix = (*_OWN_LAYERS, str(tmp_path / "opt"))
    with Emulator(program, plan_of(tmp_path, cache_dir=filled_cache, prefix=prefix)) as emulator:
        assert direct(emulator, "counter", {}, session="s")["status"] == "success"
    assert "bystander: SHUTDOWN" in emulator.log
    assert "Sending SIGKILL" not in emulator.log


def test_an_environment_whose_process_was_killed_starts_again(
    program: Path, filled_cache: Path, tmp_path: Path
) -> None:
    """After the death of the process the next event finds a new one, with the state kept before."""
    with Emulator(program, plan_of(tmp_path, cache_dir=filled_cache)) as emulator:
        assert direct(emulator, "counter", {}, session="s")["returnValue"]["count"] == 1
        (pid,) = emulator.function_pids
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + SECONDS
        while emulator.function_pids and time.monotonic() < deadline:
            time.sleep(0.01)
        # The death is told to whoever comes next.
        emulator.invoke({"handler": "hello"})
        assert direct(emulator, "counter", {}, session="s")["returnValue"]["count"] == 2
        assert emulator.function_pids != (pid,)
