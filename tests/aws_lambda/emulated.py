"""The function under AWS's emulator, as the tests of this folder start it and ask it."""

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from functions.aws_lambda.emulator import HANDLER, HOST, Emulator, FunctionPlan, Reply

ROOT = Path(__file__).parents[2]
GUESTS = Path(__file__).with_name("guests")
SECONDS = 60
"""How long anything may take on a busy machine before a test gives up."""

_LEAKS = re.compile(
    r"Traceback|\.py\b|/site-packages|/home/|/root/|/usr/|/tmp/|/var/|" + re.escape(str(ROOT))
)


class TwoStarts(NamedTuple):
    """Two environments of one function that started at once on one cache directory without handlers.

    The first is still there, the second gone, each with its answer to its first event.
    """

    emulator: Emulator
    first: Reply
    elsewhere: Reply
    log_elsewhere: str
    cache: Path


def plan_of(
    folder: Path,
    *,
    handler: str = HANDLER,
    prefix: Sequence[str] = (),
    timeout_seconds: int = 30,
    **settings: object,
) -> FunctionPlan:
    """The function with the guests of this folder, its cache and state below `folder`."""
    chosen = {
        "handlers_dir": GUESTS,
        "cache_dir": folder / "cache",
        "store_url": f"sqlite:///{folder}/nexus.db",
        "auth": "off",
        **settings,
    }
    environ = {f"NEXUS_{name.upper()}": str(value) for name, value in chosen.items()}
    return FunctionPlan(
        ROOT, handler=handler, environ=environ, prefix=prefix, timeout_seconds=timeout_seconds
    )


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def direct(emulator: Emulator, handler: str, event: object = None, **more: Any) -> Any:
    """The whole result of a direct invocation; fails when the invocation itself failed."""
    return result_of(emulator.invoke({"handler": handler, "event": event, **more}))


def result_of(reply: Reply) -> Any:
    """The result that a direct invocation answered."""
    assert (reply.status, reply.error_type) == (200, None), reply.body[:1000]
    return reply.value


def code_of(result: Any) -> str:
    """The code of a result that is an error."""
    assert (result["status"], result["returnValue"]) == ("error", None)
    return str(result["error"]["code"])


def records(log: str, logger: str = "") -> Iterator[Any]:
    """The function's own lines in a log: all, or those of one logger."""
    for line in log.splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            if logger in ("", record.get("logger")):
                yield record


def calls(log: str) -> list[str]:
    """The handlers that were called, in order, told by a log."""
    return [record["handler"] for record in records(log, "nexus.call")]


def noted(log: str) -> list[Any]:
    """What the guest `noted` was handed, in order, told by its lines in a log."""
    messages = [record["message"] for record in records(log, "nexus.handler")]
    return [json.loads(text.removeprefix("noted ")) for text in messages if text.startswith("noted ")]


def logged_after(emulator: Emulator, start: int, ends: int = 1) -> str:
    """The log from `start` on, once so many invocations have ended in it."""
    deadline = time.monotonic() + SECONDS
    while emulator.log.count("END RequestId", start) < ends:
        assert time.monotonic() < deadline, emulator.log[start:]
        time.sleep(0.005)
    return emulator.log[start:]


def tells_nothing_of_the_host(body: bytes) -> bool:
    """Whether an answer is free of Python, of its tracebacks and of this machine's paths."""
    return _LEAKS.search(body.decode()) is None


def patched(value: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of JSON `value` with other values at dotted paths, as `Records.0.body`; None removes a key."""
    copy = json.loads(json.dumps(value))
    for path, change in changes.items():
        *parents, last = path.split(".")
        at = copy
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        if change is None:
            at.pop(last, None)
        else:
            at[last] = change
    return copy
