"""The function under AWS's emulator: started once, shared by all tests that leave it as it was."""

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from functions.aws_lambda.emulator import Emulator, EmulatorMissing, find_program
from tests.aws_lambda.emulated import ROOT, SECONDS, TwoStarts, direct, plan_of
from tests.aws_lambda.once import made_once
from tests.aws_lambda.stack import Stack, read_stack, translate

# The SAM CLI has an environment of its own; all that it can make is made by one process.
_SAM_PROGRAM = """
import json
from samcli.lib.generated_sample_events.events import Events
events = Events()
made = {}
for service, kinds in events.event_mapping.items():
    for kind, about in kinds.items():
        values = {name.replace("-", "_"): tag.get("default", "") for name, tag in about["tags"].items()}
        made[f"{service} {kind}"] = json.loads(events.generate_event(service, kind, values))
print(json.dumps(made))
"""


@pytest.fixture(scope="session")
def program() -> Path:
    """AWS's emulator."""
    try:
        return find_program(ROOT)
    except EmulatorMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def two_starts(
    program: Path, new_cache: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoStarts]:
    """Two environments, started at once."""
    cache = new_cache()
    plan = plan_of(tmp_path_factory.mktemp("function"), cache_dir=cache)
    event = {"handler": "litter", "event": {"secret": "first"}}
    with Emulator(program, plan) as emulator:
        with Emulator(program, plan) as other, ThreadPoolExecutor() as threads:
            first, elsewhere = threads.map(lambda one: one.invoke(event), (emulator, other))
        yield TwoStarts(emulator, first, elsewhere, other.log, cache)


@pytest.fixture(scope="session")
def emulator(two_starts: TwoStarts) -> Emulator:
    """The function, which has answered before."""
    return two_starts.emulator


@pytest.fixture(scope="session")
def filled_cache(two_starts: TwoStarts) -> Path:
    """A cache directory that knows every guest."""
    return two_starts.cache


@pytest.fixture(scope="session")
def sam_events() -> dict[str, Any]:
    """Every event that `sam local generate-event` can make, by service and kind: `sqs receive-message`."""
    python = ROOT / ".venv-sam" / "bin" / "python"
    if not python.exists():
        pytest.skip("the SAM CLI is not installed: `make sam-tools` brings it")
    done = subprocess.run(
        [python, "-c", _SAM_PROGRAM], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    made: dict[str, Any] = json.loads(done.stdout)
    return made


@pytest.fixture
def same_process(emulator: Emulator) -> Iterator[None]:
    """Fails the test when the function's process died of it, or takes no more events after it."""
    pids = emulator.function_pids
    yield
    assert direct(emulator, "hello", {"who": "you"})["returnValue"] == {"greeting": "hello you"}
    assert emulator.function_pids == pids


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The template as it is deployed."""
    return read_stack(made_once(tmp_path_factory, "stack.json", translate))
