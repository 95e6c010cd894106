"""ExtensionRegistry: where extensions come from, and what of their failures a guest sees."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nexus_core.config import RuntimeConfig
from nexus_core.errors import InvalidHandler
from nexus_core.extensions.base import ExtensionCall, ExtensionError, ExtensionMethod
from nexus_core.extensions.registry import ExtensionRegistry
from tests.extensions.names import call_of


class Greeting:
    """The example of the registry's documentation, and methods that fail in every way."""

    name = "greeting"

    def __init__(self, config: RuntimeConfig | None = None) -> None:
        self.config = config
        self.closed = 0
        self.methods: Mapping[str, ExtensionMethod] = {
            "hello": self.hello,
            "crash": self.crash,
            "strange": self.strange,
            "surrogate": self.surrogate,
            "wait": self.wait,
        }

    async def hello(self, call: ExtensionCall) -> dict[str, str]:
        """A greeting."""
        if not call.args or not isinstance(call.args[0], str):
            raise ExtensionError("hello(name) needs a string", name="TypeError")
        return {"greeting": "hello " + call.args[0]}

    async def crash(self, _call: ExtensionCall) -> None:
        """Fails with something the guest must not see."""
        raise ValueError("the password is 1234")

    async def strange(self, _call: ExtensionCall) -> object:
        """Returns what no JSON can hold."""
        return object()

    async def surrogate(self, _call: ExtensionCall) -> str:
        """Returns what no UTF-8 can hold."""
        return "\ud800"

    async def wait(self, _call: ExtensionCall) -> None:
        """Never ends."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Counts."""
        self.closed += 1


def registry_with(*extensions: Any) -> ExtensionRegistry:
    """A registry with these objects."""
    return ExtensionRegistry(RuntimeConfig(), extensions)


async def test_a_method_gets_the_call_and_gives_json_text() -> None:
    """The value comes back as JSON text that msgspec embeds as it is."""
    value = await registry_with(Greeting()).call("greeting", call_of("hello", "bob"))
    assert json.loads(bytes(value)) == {"greeting": "hello bob"}
    assert msgspec.json.encode([value]) == b'[{"greeting":"hello bob"}]'


async def test_an_extensions_own_error_reaches_the_guest() -> None:
    """Name and message of an ExtensionError pass unchanged."""
    with pytest.raises(ExtensionError, match="needs a string") as caught:
        await registry_with(Greeting()).call("greeting", call_of("hello"))
    assert caught.value.name == "TypeError"


@pytest.mark.parametrize("method", ["crash", "strange", "surrogate"])
async def test_any_other_failure_is_told_to_the_log_only(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The guest learns that it failed; the cause stands in the log under the request id."""
    with pytest.raises(ExtensionError) as caught:
        await registry_with(Greeting()).call("greeting", call_of(method, request_id="r77"))
    assert caught.value.message == f"$ext.greeting.{method} failed"
    assert "r77" in caplog.text
    if method == "crash":
        assert "the password is 1234" in caplog.text


async def test_cancelling_a_call_is_no_failure_of_the_extension() -> None:
    """The runtime's cancellation passes through."""
    task = asyncio.create_task(registry_with(Greeting()).call("greeting", call_of("wait")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_unknown_extension_is_an_error_of_the_guest() -> None:
    """The message names what was asked for."""
    with pytest.raises(ExtensionError, match="no extension 'nothing'"):
        await registry_with().call("nothing", call_of("x"))


async def test_an_unknown_method_is_an_error_that_lists_the_others() -> None:
    """The message names the methods there are."""
    with pytest.raises(ExtensionError, match=r"no method 'bye'.*crash, hello"):
        await registry_with(Greeting()).call("greeting", call_of("bye"))


async def test_closing_closes_each_once_and_survives_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """One extension that cannot close does not keep the others open."""

    class Broken(Greeting):
        name = "broken"

        async def close(self) -> None:
            raise OSError("stuck")

    greeting = Greeting()
    registry = registry_with(Broken(), greeting)
    await registry.close()
    await registry.close()
    assert greeting.closed == 1
    assert "stuck" in caplog.text


async def test_connections_are_closed_by_who_has_some(caplog: pytest.LogCaptureFixture) -> None:
    """Extensions without connections are left alone, and one that fails keeps no other one's open."""

    class Connected(Greeting):
        name = "connected"
        disconnects = 0

        async def disconnect(self) -> None:
            self.disconnects += 1

    class Stuck(Connected):
        name = "stuck"

        async def disconnect(self) -> None:
            raise OSError("no way out")

    connected, plain = Connected(), Greeting()
    registry = registry_with(Stuck(), connected, plain)
    await registry.disconnect()
    assert (connected.disconnects, connected.closed, plain.closed) == (1, 0, 0)
    assert "no way out" in caplog.text
    value = await registry.call("connected", call_of("hello", "bob"))
    assert json.loads(bytes(value)) == {"greeting": "hello bob"}


def test_settings_are_checked_by_the_extension_they_are_for() -> None:
    """A wrong table, or one for an extension nobody has, is refused before any call."""
    registry = registry_with(Greeting())
    registry.check_settings({"http": {"allow": ["api.example.com"]}, "greeting": {"any": 1}})
    with pytest.raises(InvalidHandler, match="'\\*'"):
        registry.check_settings({"http": {"allow": ["*"]}})
    with pytest.raises(InvalidHandler, match="'alow'"):
        registry.check_settings({"http": {"alow": []}})
    with pytest.raises(InvalidHandler, match=r"table \[nothing\]"):
        registry.check_settings({"nothing": {}})


# Entry points


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path where a test can install a package with entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def install(folder: Path, package: str, source: str, *entries: str) -> None:
    """Install a module and its entry points of our group."""
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[nexus.extensions]", *entries]))


ACME = """
class Clock:
    name = "clock"

    def __init__(self, config):
        self.methods = {"zone": self.zone}
        self.config = config

    async def zone(self, call):
        return [self.config.host, call.handler]

    async def close(self):
        pass
"""


async def test_an_installed_package_adds_an_extension(installed: Path) -> None:
    """Its entry point is found by name, made with the configuration, and imported on the first call only."""
    install(installed, "acme_clock", ACME, "clock = acme_clock:Clock")
    registry = ExtensionRegistry(RuntimeConfig())
    assert registry.names() == {"http", "clock"}
    assert "acme_clock" not in sys.modules
    assert bytes(await registry.call("clock", call_of("zone"))) == b'["127.0.0.1","hello"]'


@pytest.mark.parametrize(
    ("source", "entry"),
    [
        ("raise RuntimeError('license expired')", "clock = acme_broken:Clock"),
        ("", "clock = acme_broken:Clock"),
        (ACME, "watch = acme_broken:Clock"),
    ],
)
async def test_a_broken_package_fails_its_own_calls_only(
    installed: Path, source: str, entry: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The guest hears that it could not be loaded, the log says why, and the rest works."""
    install(installed, "acme_broken", source, entry)
    registry = ExtensionRegistry(RuntimeConfig(), [Greeting()])
    name = entry.split(" ", 1)[0]
    with pytest.raises(ExtensionError, match=f"^extension '{name}' could not be loaded$"):
        await registry.call(name, call_of("zone"))
    assert "acme_broken" in caplog.text
    await registry.call("greeting", call_of("hello", "bob"))


async def test_a_built_in_name_cannot_be_taken_over(
    installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A package that calls itself http is left out, and the log says so."""
    install(installed, "acme_http", ACME, "http = acme_http:Clock")
    registry = ExtensionRegistry(RuntimeConfig())
    with pytest.raises(ExtensionError, match="has no method 'zone'"):
        await registry.call("http", call_of("zone"))
    assert registry.names() == {"http"}
    assert "acme_http:Clock" in caplog.text


async def test_of_two_packages_with_one_name_only_one_is_used(
    installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second is left out aloud instead of winning by chance."""
    install(installed, "acme_one", ACME, "clock = acme_one:Clock")
    install(installed, "acme_two", ACME, "clock = acme_two:Clock")
    assert ExtensionRegistry(RuntimeConfig()).names() == {"http", "clock"}
    assert "its name is taken" in caplog.text


async def test_values_of_the_standard_library_become_json() -> None:
    """An extension may return dates and the like; they are encoded on the host's side."""

    class Dates(Greeting):
        async def hello(self, call: ExtensionCall) -> Any:
            return datetime(2025, 1, 1, tzinfo=UTC)

    assert bytes(await registry_with(Dates()).call("greeting", call_of("hello"))) == b'"2025-01-01T00:00:00Z"'
