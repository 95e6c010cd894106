"""SnapStart: the real runtime client through snapshot, restore and the events after it."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.aws_lambda.emulator import session_of
from tests.aws_lambda.emulated import SECONDS, code_of, plan_of
from tests.aws_lambda.runtime_api import RuntimeApi, started


@pytest.fixture(scope="module")
def restored(filled_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeApi]:
    """The API of a function that was restored once."""
    folder = tmp_path_factory.mktemp("snapstart")
    with RuntimeApi() as api, started(api, plan_of(folder, cache_dir=filled_cache), folder / "log"):
        api.wait_for_snapshot()
        api.restore()
        yield api


def call(api: RuntimeApi, handler: str, event: object = None, **options: Any) -> Any:
    """The result of a direct invocation; fails when the invocation itself failed."""
    answer = api.invoke({"handler": handler, "event": event}, **options)
    assert answer.kind == "response", answer.body
    return answer.value


def test_a_restored_function_is_warm(restored: RuntimeApi) -> None:
    """The first call after a restore compiles nothing and makes no instance."""
    result = call(restored, "hello", {"who": "bob"})
    assert result["returnValue"] == {"greeting": "hello bob"}
    assert (result["metrics"]["coldStart"], result["metrics"]["compilationTimeUs"]) == (False, None)


def test_limits_hold_after_a_restore(restored: RuntimeApi) -> None:
    """A handler that loops is ended by its own time, or by what the invocation has left."""
    assert code_of(call(restored, "loop")) == "TIMEOUT"
    result = call(restored, "patient", time_ms=1_500)
    assert code_of(result) == "TIMEOUT"
    assert result["error"]["limit"]["value"] <= 1_000
    assert code_of(call(restored, "greedy")) == "MEMORY_LIMIT"


def test_state_is_kept_after_a_restore(restored: RuntimeApi) -> None:
    """The store is there after the restore, and keeps what is written."""
    for count in (1, 2):
        answer = restored.invoke({"handler": "counter", "event": {}, "session": "s"})
        assert answer.value["returnValue"]["count"] == count


def test_an_invocation_that_fails_tells_its_error(restored: RuntimeApi) -> None:
    """What no source sends is an error with a code, as without SnapStart."""
    answer = restored.invoke({"nothing": "known"})
    assert (answer.kind, answer.value["errorType"]) == ("error", "INVALID_REQUEST")


def test_sigterm_ends_a_waiting_function(filled_cache: Path, tmp_path: Path) -> None:
    """While it waits for an event, SIGTERM closes all and ends the process with code 0."""
    log = tmp_path / "log"
    with RuntimeApi() as api, started(api, plan_of(tmp_path, cache_dir=filled_cache), log) as process:
        api.wait_for_snapshot()
        api.restore()
        assert code_of(call(api, "loop")) == "TIMEOUT"
        api.wait_until_idle()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0, log.read_text()


def test_two_restores_of_one_snapshot_share_no_random_numbers(filled_cache: Path, tmp_path: Path) -> None:
    """Two functions with one memory give other numbers and identifiers in every call, and both keep time."""
    plan = plan_of(tmp_path, handler="tests.aws_lambda.twice_restored.handler", cache_dir=filled_cache)
    with RuntimeApi() as api, started(api, plan, tmp_path / "log") as process:
        api.wait_for_snapshot(copies=2)
        assert len(session_of(process.pid)) == 2
        api.restore()
        values = [call(api, "random", copies=2)["returnValue"] for _ in range(6)]
        for kind in ("math", "crypto", "uuid"):
            assert len({json.dumps(value[kind]) for value in values}) == len(values)
        for _ in range(2):
            assert code_of(call(api, "loop", copies=2)) == "TIMEOUT"
