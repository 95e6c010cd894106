"""Choosing stores and sinks by URL."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from nexus_core.config import ConfigError
from nexus_core.stores.open import open_event_sink, open_state_store
from tests.stores.flushes import event


@pytest.mark.parametrize(
    "url", ["", "memory", "memory:x", "sqlite://x", "sqlite:///", "mysql://u:secret@h/db"]
)
def test_unknown_stores_are_refused(url: str) -> None:
    """An unknown URL is refused by a message that lists what is allowed and shows no password."""
    with pytest.raises(
        ConfigError, match=r"NEXUS_STORE_URL: .* allowed are 'memory:' and 'sqlite:///PATH'"
    ) as caught:
        open_state_store(url)
    assert "secret" not in caught.value.message


def test_unknown_sinks_are_refused() -> None:
    """An unknown sink is refused by a message that lists what is allowed."""
    with pytest.raises(
        ConfigError, match="NEXUS_EVENT_SINK: 'kafka:' is no event sink; allowed are 'none:', 'log:' and"
    ):
        open_event_sink("kafka://broker")


async def test_relative_paths_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes name a path from the working directory."""
    monkeypatch.chdir(tmp_path)
    await open_state_store("sqlite:///nexus.db").close()
    assert (tmp_path / "nexus.db").exists()


async def test_none_sink_drops_events(caplog: pytest.LogCaptureFixture) -> None:
    """`none:` takes events and leaves no trace of them."""
    caplog.set_level(logging.DEBUG)
    sink = open_event_sink("none:")
    await sink.publish("hello", None, [event("e")])
    await sink.close()
    await sink.close()
    assert not caplog.records


async def test_log_sink_logs_events_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """`log:` writes one record for each event, with its handler, session and a bounded payload."""
    caplog.set_level(logging.INFO)
    sink = open_event_sink("log:")
    await sink.publish(
        "hello", "s1", [event("first", b'{"a":1}'), event("second", b'"' + b"x" * 9000 + b'"')]
    )
    await sink.close()
    first, second = (record.getMessage() for record in caplog.records)
    assert first == 'event first handler=hello session=s1 payload={"a":1}'
    assert 4096 <= len(second) < 4300


def test_libraries_load_on_first_use() -> None:
    """Opening one store loads no other, so what they need is not paid for."""
    code = (
        "import sys, nexus_core.stores.open as o; o.open_state_store('memory:');"
        "print(*(name for name in sys.modules if name.startswith('nexus_core.stores.')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.rpartition(".")[2] for name in run.stdout.split()} == {"base", "bounds", "memory", "open"}
