"""`python -m functions.aws_lambda.local`: the function on this machine, under AWS's own emulator.

It starts as on Lambda, gets one event, and then waits for more on a loopback address. Settings are the
`NEXUS_*` variables; without one that says otherwise, HTTP events need no token.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

from functions.aws_lambda.emulator import (
    HOST,
    Emulator,
    EmulatorFailed,
    EmulatorMissing,
    FunctionPlan,
    Reply,
    find_program,
)

_SAMPLE = {"handler": "hello", "event": {"who": "Lambda"}}
_PREFIX = "NEXUS_"


class _CannotStart(Exception):
    """Something the command needs is not there; the message says what, and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when the event was answered, 1 when it failed, 2 when the function could not be started."""
    options = _parser().parse_args(arguments)
    # What ends other commands ends this one, and what it started, in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        event = _read_event(options.event)
        plan = _plan(options.timeout, os.environ)
        program = find_program(Path.cwd())
        with Emulator(program, plan, port=options.port, echo=sys.stderr) as emulator:
            return _serve(emulator, event, once=options.once)
    except (_CannotStart, EmulatorMissing) as error:
        print(f"error: {error}", file=sys.stderr)
    except EmulatorFailed as error:
        print(f"error: {error.reason}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 0
    return 2


def _serve(emulator: Emulator, event: bytes, *, once: bool) -> int:
    reply = emulator.invoke(event)
    print(_shown(reply), flush=True)
    if reply.status != HTTPStatus.OK:
        raise _CannotStart("the function did not start; the answer above says why")
    # What the reader is to read next comes after the log of the first event.
    emulator.wait_for("END RequestId")
    print(f"\nINIT took {emulator.init_ms:.0f} ms.", file=sys.stderr)
    if not once:
        print(
            f"The function waits for events; Ctrl-C stops it. Events of every source:\n"
            f"  curl {emulator.url} -d '{json.dumps(_SAMPLE)}'\n"
            f"  curl {emulator.url} -d @events/sqs.json",
            file=sys.stderr,
        )
        threading.Event().wait()
    return int(reply.error_type is not None)


def _shown(reply: Reply) -> str:
    """The answer, indented when it is JSON."""
    with contextlib.suppress(ValueError):
        return json.dumps(reply.value, indent=2, ensure_ascii=False)
    return reply.body.decode(errors="replace")


def _read_event(file: Path | None) -> bytes:
    if file is None:
        return json.dumps(_SAMPLE).encode()
    try:
        content = file.read_bytes()
        json.loads(content)
    except OSError as error:
        raise _CannotStart(f"{file}: the event cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _CannotStart(f"{file}: the event is not JSON: {error}") from error
    return content


def _plan(timeout_seconds: int, environ: Mapping[str, str]) -> FunctionPlan:
    if importlib.util.find_spec("awslambdaric") is None:
        raise _CannotStart("Lambda's runtime client is not installed: `pip install awslambdaric`")
    settings = {
        "NEXUS_AUTH": "off",
        "NEXUS_HANDLERS_DIR": "handlers",
        **{name: value for name, value in environ.items() if name.startswith(_PREFIX)},
    }
    if "NEXUS_JWT_SECRET" in settings and "NEXUS_AUTH" not in environ:
        del settings["NEXUS_AUTH"]
    handlers = Path(settings["NEXUS_HANDLERS_DIR"]).resolve()
    if not handlers.is_dir():
        raise _CannotStart(f"{handlers}: there is no such folder of handlers; NEXUS_HANDLERS_DIR names it")
    return FunctionPlan(Path.cwd(), environ=settings, timeout_seconds=timeout_seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m functions.aws_lambda.local", description=__doc__)
    parser.add_argument("--event", type=Path, metavar="FILE", help="the first event; default: call `hello`")
    parser.add_argument("--port", type=int, default=9000, help=f"port on {HOST}; default: 9000")
    parser.add_argument("--timeout", type=int, default=30, help="seconds an invocation has; default: 30")
    parser.add_argument("--once", action="store_true", help="stop after the first event")
    return parser


if __name__ == "__main__":
    sys.exit(main())
