"""Finds the extension behind `$ext.<name>` and keeps its failures from guests.

Built in are those of this folder. An operator's package adds one through its `pyproject.toml`:

    [project.entry-points."nexus.extensions"]
    greeting = "acme_nexus:Greeting"

and in `acme_nexus.py`, for `await $ext.greeting.hello("bob")`:

    from nexus_core.extensions.base import ExtensionCall, ExtensionError

    class Greeting:
        name = "greeting"

        def __init__(self, config):
            self.methods = {"hello": self.hello}

        async def hello(self, call: ExtensionCall) -> dict[str, str]:
            if not call.args or not isinstance(call.args[0], str):
                raise ExtensionError("hello(name) needs a string", name="TypeError")
            return {"greeting": "hello " + call.args[0]}

        async def close(self) -> None:
            pass
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from nexus_core.config import RuntimeConfig
from nexus_core.errors import InvalidHandler
from nexus_core.extensions.base import (
    ChecksSettings,
    Extension,
    ExtensionCall,
    ExtensionError,
    HoldsConnections,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "nexus.extensions"

_log = logging.getLogger(__name__)


def _http(config: RuntimeConfig) -> Extension:
    # Here, because only handlers that ask for it need it.
    from nexus_core.extensions.http import HttpExtension

    return HttpExtension(config)


class ExtensionRegistry:
    """The extensions of one runtime: built in, from entry points, and the objects in `extensions`.

    Each is made on its first call. A built-in name cannot be taken over by an entry point; an
    object of `extensions` goes before both.
    """

    def __init__(self, config: RuntimeConfig, extensions: Iterable[Extension] = ()) -> None:
        self._config = config
        self._made: dict[str, Extension] = {extension.name: extension for extension in extensions}
        self._builtin: Mapping[str, Callable[[RuntimeConfig], Extension]] = {"http": _http}
        self._found: dict[str, EntryPoint] | None = None

    def names(self) -> frozenset[str]:
        """Every name that `call` knows. Imports no extension."""
        return frozenset(self._made) | frozenset(self._builtin) | frozenset(self._entry_points())

    async def call(self, extension: str, call: ExtensionCall) -> msgspec.Raw:
        """Run one method and return its value as JSON text, which msgspec encodes as it is.

        Raises only `ExtensionError`. Whatever else goes wrong in an extension is told to the log,
        under the request id, and to the guest as a plain failure.
        """
        found = self._get(extension)
        method = found.methods.get(call.method)
        if method is None:
            allowed = ", ".join(sorted(found.methods))
            raise ExtensionError(f"$ext.{extension} has no method {call.method[:100]!r}; it has {allowed}")
        try:
            return msgspec.Raw(msgspec.json.encode(await method(call)))
        except ExtensionError:
            raise
        except Exception as error:
            _log.exception(
                "extension failed: extension=%s method=%s handler=%s request_id=%s",
                extension,
                call.method,
                call.handler,
                call.request_id,
            )
            raise ExtensionError(f"$ext.{extension}.{call.method} failed") from error

    def check_settings(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Check a manifest's extension tables; raises `InvalidHandler`, also for a name nobody has."""
        for name, table in settings.items():
            try:
                extension = self._get(name)
            except ExtensionError as error:
                raise InvalidHandler(f"table [{name}]: {error.message}") from error
            if isinstance(extension, ChecksSettings):
                extension.check_settings(table)

    async def disconnect(self) -> None:
        """See `HoldsConnections`: for every extension that was made and is one."""
        for name, extension in self._made.items():
            if isinstance(extension, HoldsConnections):
                try:
                    await extension.disconnect()
                except Exception:  # noqa: BLE001 - the other extensions must let go all the same
                    _log.exception("extension kept its connections: extension=%s", name)

    async def close(self) -> None:
        """Close every extension that was made; one that fails does not stop the others."""
        made, self._made = self._made, {}
        for name, extension in made.items():
            try:
                await extension.close()
            except Exception:  # noqa: BLE001 - the other extensions must be closed all the same
                _log.exception("extension did not close: extension=%s", name)

    def _get(self, name: str) -> Extension:
        extension = self._made.get(name)
        if extension is None:
            extension = self._made[name] = self._make(name)
        return extension

    def _make(self, name: str) -> Extension:
        builtin = self._builtin.get(name)
        if builtin is not None:
            return builtin(self._config)
        entry_point = self._entry_points().get(name)
        if entry_point is None:
            raise ExtensionError(f"there is no extension {name[:100]!r}")
        try:
            extension: Extension = entry_point.load()(self._config)
            if extension.name != name:
                raise InvalidHandler(f"entry point {name!r} gives an extension named {extension.name!r}")
        except Exception as error:
            _log.exception("extension could not be loaded: %s = %s", name, entry_point.value)
            raise ExtensionError(f"extension {name!r} could not be loaded") from error
        return extension

    def _entry_points(self) -> Mapping[str, EntryPoint]:
        if self._found is None:
            # 25 ms to import, and only a name that is not built in needs it.
            from importlib.metadata import entry_points

            self._found = {}
            for entry_point in entry_points(group=ENTRY_POINT_GROUP):
                taken = self._found.get(entry_point.name)
                if entry_point.name in self._builtin or (taken and taken.value != entry_point.value):
                    _log.error(
                        "extension left out, its name is taken: %s = %s", entry_point.name, entry_point.value
                    )
                else:
                    self._found[entry_point.name] = entry_point
        return self._found
