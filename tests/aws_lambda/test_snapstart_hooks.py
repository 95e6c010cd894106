"""SnapStart's hooks, in Lambda's own registries and called by Lambda's own runtime client."""

from __future__ import annotations

import io
import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
import snapshot_restore_py as registries  # type: ignore[import-untyped]
from awslambdaric.lambda_runtime_hooks_runner import (  # type: ignore[import-untyped]
    run_after_restore,
    run_before_snapshot,
)

from functions.aws_lambda.observer import Observer
from functions.aws_lambda.snapstart import register_hooks, reseed
from nexus_core.config import RuntimeConfig


class Context:
    """Lambda's context object, as far as it is used."""

    aws_request_id = "one"

    def get_remaining_time_in_millis(self) -> int:
        """See `LambdaContext`."""
        return 3000


class Recorder:
    """An adapter that records what it was asked to do, and in what state Python's random numbers were."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.random_at_restore: object = None

    def warm(self, budget_seconds: float) -> int:
        """See `Pictured`."""
        assert budget_seconds > 0
        self.asked.append("warm")
        return 0

    def before_snapshot(self) -> None:
        """See `Pictured`."""
        self.asked.append("before")

    def after_restore(self) -> None:
        """See `Pictured`."""
        self.asked.append("after")
        self.random_at_restore = random.getstate()


@pytest.fixture(autouse=True)
def _restore_process() -> Iterator[None]:
    """Give the process its own logging and registries back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    kept = [list(registry) for registry in (registries.get_before_snapshot(), registries.get_after_restore())]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    registries.get_before_snapshot()[:], registries.get_after_restore()[:] = kept


def test_the_picture_is_warm_and_what_starts_from_it_is_new() -> None:
    """Before, handlers are loaded and connections closed; after, random numbers are new first of all."""
    adapter = Recorder()
    observer = Observer({}, RuntimeConfig(), io.BytesIO())
    assert register_hooks(adapter, observer)
    run_before_snapshot()
    assert adapter.asked == ["warm", "before"]
    pictured = random.getstate()
    run_after_restore()
    assert adapter.asked == ["warm", "before", "after"]
    assert adapter.random_at_restore != pictured


def test_the_first_event_after_a_restore_is_a_cold_start() -> None:
    """Each process made from a picture tells of its own cold start, whatever was before the picture."""
    stream = io.BytesIO()
    observer = Observer({}, RuntimeConfig(), stream)
    register_hooks(Recorder(), observer)
    for restored in (False, True):
        if restored:
            run_after_restore()
        with observer.invocation({}, Context(), "direct"):
            logging.getLogger("library").warning("told")
    assert [json.loads(line)["cold_start"] for line in stream.getvalue().splitlines()] == [True, True]


def test_two_restores_draw_other_numbers() -> None:
    """From one state of Python's generator, each reseeding leads somewhere else."""
    state = random.getstate()
    drawn = set()
    for _ in range(3):
        random.setstate(state)
        reseed()
        drawn.add(random.random())
    random.setstate(state)
    assert len(drawn) == 3


def test_an_error_of_a_hook_reaches_the_runtime_client() -> None:
    """A process that could not be renewed must not take events: Lambda hears of it and ends it."""

    class Broken(Recorder):
        def after_restore(self) -> None:
            raise OSError("no clock")

    register_hooks(Broken(), Observer({}, RuntimeConfig(), io.BytesIO()))
    with pytest.raises(OSError, match="no clock"):
        run_after_restore()


def test_a_container_without_the_hooks_starts_as_well() -> None:
    """Where Lambda's library is not installed nothing is registered and nothing fails."""
    program = """
import sys
sys.modules["snapshot_restore_py"] = None
from functions.aws_lambda.snapstart import register_hooks
print(register_hooks(None, None))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
