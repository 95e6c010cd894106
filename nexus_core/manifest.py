"""`nexus.toml`: what a handler may do, what it may use, and what starts it. See docs/handlers.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from nexus_core.capabilities import CapabilitySet
from nexus_core.errors import InvalidHandler
from nexus_core.limits import ResourceLimits
from nexus_core.source_text import find_toml_key, invalid_at
from nexus_core.triggers import TRIGGER_KINDS, Trigger, parse_http_route, parse_trigger

MAX_MANIFEST_BYTES = 32 * 1024
MAX_TRIGGERS = 64

# The standard TOML reader needs quadratic time for a key with many dots (27 s for 30,000 of them).
_MAX_DOTS_PER_LINE = 500

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OWN_KEYS = ("capabilities", "entry", "env", "limits", "triggers")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked manifest. The default one has no capabilities, no triggers and default limits."""

    capabilities: CapabilitySet = CapabilitySet()
    limits: ResourceLimits = ResourceLimits()
    triggers: tuple[Trigger, ...] = ()
    env: Mapping[str, str] = _NOTHING
    """What the handler sees as `ctx.env`."""
    extensions: Mapping[str, Mapping[str, Any]] = _NOTHING
    """Settings by extension name, e.g. `{"http": {"allow": [...]}}`; each extension checks its own."""
    entry: str | None = None
    """The file to start with, relative to the handler's folder; None means `index.*`."""


def parse_manifest(text: str, file: str, defaults: ResourceLimits) -> Manifest:
    """Read a manifest; limits it does not set are `defaults`.

    Raises `InvalidHandler` with the place in `file` for whatever is not allowed.
    """
    # Trust changes hands here: the text is an author's, nothing in it is believed.
    return _Reader(text, file).read(defaults)


class _Reader:
    """Checks one manifest, key by key, and points at the key that is wrong."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file

    def read(self, defaults: ResourceLimits) -> Manifest:
        document = self._parse()
        capabilities = self._capabilities(document.pop("capabilities", []))
        return Manifest(
            capabilities=capabilities,
            limits=self._limits(document.pop("limits", {}), defaults),
            triggers=self._triggers(document.pop("triggers", [])),
            env=self._env(document.pop("env", {})),
            entry=self._entry(document.pop("entry", None)),
            extensions=self._extensions(document, capabilities),
        )

    def _fail(self, message: str, *path: str, index: int = 0, value: str = "") -> InvalidHandler:
        line, column = find_toml_key(self._text, path, index=index, value=value)
        return invalid_at(message, self._file, self._text, line, column)

    def _parse(self) -> dict[str, Any]:
        # Only handlers with a manifest pay for this import.
        import tomllib

        if len(self._text.encode()) > MAX_MANIFEST_BYTES:
            raise InvalidHandler(f"{self._file} is larger than {MAX_MANIFEST_BYTES} bytes")
        for number, line in enumerate(self._text.split("\n"), 1):
            if line.count(".") > _MAX_DOTS_PER_LINE:
                message = f"more than {_MAX_DOTS_PER_LINE} dots in one line; split the line"
                raise invalid_at(message, self._file, self._text, number, 1)
        try:
            return tomllib.loads(self._text)
        except RecursionError:
            raise InvalidHandler(f"{self._file} nests its values too deep") from None
        # A number of too many digits is a plain ValueError.
        except ValueError as error:
            raise self._syntax_error(str(error)) from None

    def _syntax_error(self, text: str) -> InvalidHandler:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", text)
        if place:
            return invalid_at(text[: place.start()], self._file, self._text, int(place[1]), int(place[2]))
        lines = self._text.rstrip("\r\n").split("\n")
        if text.endswith(" (at end of document)"):
            message = text.removesuffix(" (at end of document)")
            return invalid_at(message, self._file, self._text, len(lines), len(lines[-1]) + 1)
        return InvalidHandler(f"{self._file}: a number has too many digits")

    def _capabilities(self, tokens: object) -> CapabilitySet:
        if not isinstance(tokens, list):
            raise self._fail("capabilities must be a list of strings", "capabilities")
        for token in tokens:
            try:
                CapabilitySet.parse([token])
            except InvalidHandler as error:
                value = f"{token}" if isinstance(token, str) else ""
                raise self._fail(error.message, "capabilities", value=value) from None
        try:
            return CapabilitySet.parse(tokens)
        except InvalidHandler as error:
            raise self._fail(error.message, "capabilities") from None

    def _limits(self, table: object, defaults: ResourceLimits) -> ResourceLimits:
        if not isinstance(table, dict):
            raise self._fail("limits must be a table", "limits")
        fields = ResourceLimits.__struct_fields__
        for name in table:
            if name not in fields:
                allowed = ", ".join(fields)
                raise self._fail(f"limit {name!r} is not known; allowed are {allowed}", "limits", name)
        try:
            return msgspec.convert(msgspec.structs.asdict(defaults) | table, ResourceLimits)
        except msgspec.ValidationError as error:
            reason, _, name = str(error).partition(" - at `$.")
            name = name.rstrip("`")
            raise self._fail(f"limit {name}: {_plain(reason)}", "limits", name) from None

    def _triggers(self, tables: object) -> tuple[Trigger, ...]:
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self._fail("triggers must be written as [[triggers]] tables", "triggers")
        if len(tables) > MAX_TRIGGERS:
            raise self._fail(f"at most {MAX_TRIGGERS} triggers are allowed", "triggers", index=MAX_TRIGGERS)
        triggers: list[Trigger] = []
        for index, table in enumerate(tables):
            trigger = self._trigger(table, index)
            if any(_collide(trigger, earlier) for earlier in triggers):
                message = f"trigger {trigger.kind} = {trigger.pattern!r} stands here twice"
                raise self._fail(message, "triggers", trigger.kind, index=index)
            triggers.append(trigger)
        return tuple(triggers)

    def _trigger(self, table: dict[str, object], index: int) -> Trigger:
        if len(table) != 1:
            kinds = ", ".join(TRIGGER_KINDS)
            message = f"a trigger has exactly one key of {kinds}; this one has {len(table)}"
            raise self._fail(message, "triggers", index=index)
        ((kind, pattern),) = table.items()
        if not isinstance(pattern, str):
            raise self._fail(f"trigger {kind} must be a string", "triggers", kind, index=index)
        try:
            return parse_trigger(kind, pattern)
        except InvalidHandler as error:
            raise self._fail(error.message, "triggers", kind, index=index) from None

    def _env(self, table: object) -> Mapping[str, str]:
        if not isinstance(table, dict):
            raise self._fail("env must be a table of strings", "env")
        for name, value in table.items():
            if not _ENV_NAME.fullmatch(name):
                raise self._fail(f"env name {name!r} must be letters, digits and _", "env", name)
            if not isinstance(value, str):
                raise self._fail(f"env {name} must be a string", "env", name)
        return MappingProxyType(table)

    def _entry(self, entry: object) -> str | None:
        if entry is not None and not isinstance(entry, str):
            raise self._fail("entry must be a string: a file of this folder", "entry")
        return entry

    def _extensions(
        self, document: dict[str, Any], capabilities: CapabilitySet
    ) -> Mapping[str, Mapping[str, Any]]:
        for name, table in document.items():
            if not isinstance(table, dict):
                allowed = ", ".join(_OWN_KEYS)
                message = f"key {name!r} is not known; allowed are {allowed} and extensions' tables"
                raise self._fail(message, name)
            # A misspelt [limit] would otherwise pass as the settings of an extension nobody has.
            if not capabilities.allows("ext", name):
                message = f"table [{name}] would set up an extension, but capabilities lack 'ext:{name}'"
                raise self._fail(message, name)
        return MappingProxyType({name: MappingProxyType(table) for name, table in document.items()})


def _collide(one: Trigger, two: Trigger) -> bool:
    """Whether two triggers of one handler claim the same thing."""
    if one.kind == two.kind == "http":
        return parse_http_route(one.pattern).shape == parse_http_route(two.pattern).shape
    return one == two


def _plain(reason: str) -> str:
    """A reason of msgspec without its back-ticks, in lower case, to stand after a colon."""
    reason = reason.replace("`", "")
    return reason[:1].lower() + reason[1:]
