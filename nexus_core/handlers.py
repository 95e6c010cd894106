"""`HandlerRegistry`: the handlers of one directory, read ahead of time and swapped as a whole.

Readers see one immutable table, so looking a handler up is a dict hit and needs no lock; `refresh`
builds the next table beside it. A handler that cannot be accepted keeps its place in the table as its
error, and hides nobody else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from nexus_core.errors import HandlerNotFound, InternalError, InvalidHandler
from nexus_core.handler_source import (
    CODE_SUFFIXES,
    MANIFEST_NAME,
    WASM_SUFFIXES,
    HandlerSource,
    is_declaration,
    is_handler_name,
    load_handler,
    source_paths,
)
from nexus_core.limits import ResourceLimits
from nexus_core.manifest import Manifest
from nexus_core.triggers import TRIGGER_KINDS, Trigger, parse_http_route

__all__ = ["HandlerRegistry", "HandlerSource", "Manifest", "Trigger", "load_handler"]

# A file changed this shortly before it was read may change again without a new time stamp.
_UNSETTLED_NS = 1_000_000_000

_Stamp = tuple[tuple[str, int, int, int, int], ...]


class _Loaded(NamedTuple):
    """One handler as last read: its source or its error, and the stamp of the files it was read from."""

    outcome: HandlerSource | InvalidHandler
    stamp: _Stamp
    settled: bool


class _Table(NamedTuple):
    """What the registry answers from until the next refresh."""

    sources: Mapping[str, HandlerSource]
    errors: Mapping[str, InvalidHandler]
    triggers: Mapping[str, Sequence[tuple[Trigger, str]]]


class HandlerRegistry:
    """The handlers of `directory`; limits a manifest does not set are `defaults`.

    The directory is read at once, and again by `refresh`; one that does not exist (yet) is empty.
    Every method may be called from any thread.
    """

    def __init__(self, directory: Path, defaults: ResourceLimits) -> None:
        self._directory = directory
        self._defaults = defaults
        self._loaded: dict[str, _Loaded] = {}
        self._table = _tabulate({})
        self._refreshing = threading.Lock()
        self.refresh()

    def names(self) -> tuple[str, ...]:
        """The names of all handlers, sorted, those that cannot be accepted included."""
        return tuple(sorted([*self._table.sources, *self._table.errors]))

    def get(self, name: str) -> HandlerSource:
        """The handler of this name; raises `HandlerNotFound`, or the `InvalidHandler` it failed with."""
        table = self._table
        source = table.sources.get(name)
        if source is not None:
            return source
        error = table.errors.get(name)
        raise _not_found(name, table.sources) if error is None else _copied(error)

    def errors(self) -> Mapping[str, InvalidHandler]:
        """Why handlers cannot be accepted, by name."""
        return self._table.errors

    def triggers(self, kind: str) -> Sequence[tuple[Trigger, str]]:
        """The triggers of one kind, each with its handler's name.

        HTTP triggers are in the order to try them: a literal segment comes before a parameter.
        """
        return self._table.triggers.get(kind, ())

    def refresh(self) -> frozenset[str]:
        """Read again what changed on disk; gives the names that appeared, went or answer differently now."""
        with self._refreshing:
            loaded = {
                name: self._load(name, paths) for name, paths in sorted(_claims(self._directory).items())
            }
            before, after = self._table, _tabulate({name: entry.outcome for name, entry in loaded.items()})
            self._loaded, self._table = loaded, after
        return _changed(before, after)

    def _load(self, name: str, paths: Sequence[Path]) -> _Loaded:
        """One handler, from the last reading when its files are the same."""
        try:
            stamp = _stamp_of(paths)
            known = self._loaded.get(name)
            if known is not None and known.settled and known.stamp == stamp:
                return known
            newest = max((changed for _, changed, *_ in stamp), default=0)
            settled = newest < time.time_ns() - _UNSETTLED_NS
            return _Loaded(self._read(paths), stamp, settled)
        except InvalidHandler as error:
            return _Loaded(_copied(error), (), settled=False)
        except OSError as error:
            # Files that are replaced while they are read: the next refresh looks again.
            unread = InvalidHandler(f"handler {name!r} cannot be read: {error.strerror}")
            return _Loaded(unread, (), settled=False)

    def _read(self, paths: Sequence[Path]) -> HandlerSource:
        heads = [path for path in paths if path.suffix != ".toml" or path.is_dir()]
        manifests = [path for path in paths if path not in heads]
        if not heads:
            raise InvalidHandler(f"{manifests[0].name} stands alone: there is no handler file of that name")
        if len(heads) > 1:
            raise InvalidHandler(f"{' and '.join(path.name for path in heads)} claim the same name; keep one")
        if manifests and heads[0].is_dir():
            raise InvalidHandler(
                f"{manifests[0].name} is not read: a folder's manifest is {heads[0].name}/{MANIFEST_NAME}"
            )
        return load_handler(heads[0], self._defaults, _root_of(heads[0], self._directory))


def _root_of(head: Path, directory: Path) -> Path:
    """The folder whose files the handler may consist of; a folder that is a link must stay in `directory`."""
    if not head.is_dir():
        return directory
    if not head.resolve().is_relative_to(directory.resolve()):
        raise InvalidHandler(f"{head.name} is a link that leaves the handlers directory")
    return head


def _claims(directory: Path) -> dict[str, list[Path]]:
    """The paths that belong to handlers, by handler name; nothing is read yet."""
    claims: dict[str, list[Path]] = {}
    try:
        with os.scandir(directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return claims
    except OSError as error:
        raise InternalError(f"the handlers directory cannot be read: {error.strerror}") from error
    for entry in entries:
        path = directory / entry.name
        if entry.name.startswith(".") or is_declaration(entry.name):
            continue
        if entry.is_dir():
            if _looks_like_handler(path):
                claims.setdefault(entry.name, []).append(path)
        elif path.suffix in (*CODE_SUFFIXES, *WASM_SUFFIXES, ".toml"):
            claims.setdefault(path.stem, []).append(path)
    return claims


def _looks_like_handler(folder: Path) -> bool:
    """Whether a folder is meant as a handler: a manifest or any `index` file tells."""
    names = (MANIFEST_NAME, *(f"index{suffix}" for suffix in (*CODE_SUFFIXES, *WASM_SUFFIXES)))
    return any((folder / name).exists() for name in names)


def _stamp_of(paths: Iterable[Path]) -> _Stamp:
    """What the file system tells of a handler's files; a change of any of them changes it."""
    stamps = []
    for path in paths:
        files = [path]
        if path.is_dir():
            files = [path / relative for relative in (*source_paths(path), MANIFEST_NAME)]
        for file in files:
            if file.name == MANIFEST_NAME and not file.exists():
                continue
            status = file.stat()
            stamps.append((str(file), status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


def _tabulate(outcomes: Mapping[str, HandlerSource | InvalidHandler]) -> _Table:
    """The table of all handlers; of two that claim the same trigger, the later name is refused."""
    sources: dict[str, HandlerSource] = {}
    errors: dict[str, InvalidHandler] = {}
    claimed: dict[tuple[str, ...], str] = {}
    for name, outcome in sorted(outcomes.items()):
        if isinstance(outcome, InvalidHandler):
            errors[name] = outcome
        elif (collision := _collision(outcome, claimed)) is not None:
            errors[name] = collision
        else:
            sources[name] = outcome
            claimed.update({trigger.claim: name for trigger in outcome.manifest.triggers})
    by_kind = {kind: _sorted_triggers(kind, sources) for kind in TRIGGER_KINDS}
    return _Table(MappingProxyType(sources), MappingProxyType(errors), MappingProxyType(by_kind))


def _collision(source: HandlerSource, claimed: Mapping[tuple[str, ...], str]) -> InvalidHandler | None:
    for trigger in source.manifest.triggers:
        owner = claimed.get(trigger.claim)
        if owner is not None:
            return InvalidHandler(
                f"trigger {trigger.kind} {trigger.pattern!r} already belongs to handler {owner!r}"
            )
    return None


def _sorted_triggers(kind: str, sources: Mapping[str, HandlerSource]) -> tuple[tuple[Trigger, str], ...]:
    found = [
        (trigger, name)
        for name, source in sources.items()
        for trigger in source.manifest.triggers
        if trigger.kind == kind
    ]
    if kind == "http":
        found.sort(key=lambda item: parse_http_route(item[0].pattern).precedence)
    return tuple(found)


def _changed(before: _Table, after: _Table) -> frozenset[str]:
    """The names whose source, manifest or error differs between two tables."""
    names = {*before.sources, *before.errors, *after.sources, *after.errors}
    return frozenset(
        name
        for name in names
        if before.sources.get(name) != after.sources.get(name)
        or _text(before.errors.get(name)) != _text(after.errors.get(name))
    )


def _copied(error: InvalidHandler) -> InvalidHandler:
    """The error without its traceback, which would hold on to what was read and grow with each raise."""
    return InvalidHandler(error.message, location=error.location, snippet=error.snippet)


def _text(error: InvalidHandler | None) -> str | None:
    return error.message if error else None


def _not_found(name: str, known: Iterable[str]) -> HandlerNotFound:
    """The error for an unknown name; it tells the names most like it."""
    # Trust changes hands here: a name that can be no handler's is not compared with anything.
    if not is_handler_name(name):
        return HandlerNotFound("no handler can have this name: 1 to 63 of a-z, 0-9, '_' and '-' are allowed")
    import difflib

    # Only names that start alike, and a bounded number, so that wrong names stay cheap to refuse.
    alike = [other for other in known if other[0] == name[0]][:100]
    close = difflib.get_close_matches(name, alike, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return HandlerNotFound(f"no handler is called {name!r}{hint}")
