"""What NAME and PATH on the command line mean: a handler of the handlers folder, or one anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from nexus_core.config import RuntimeConfig
from nexus_core.errors import HandlerNotFound, InvalidHandler
from nexus_core.handler_source import CODE_SUFFIXES, MANIFEST_NAME, WASM_SUFFIXES, HandlerSource, load_handler
from nexus_core.handlers import HandlerRegistry


class Target(NamedTuple):
    """One handler that was named: where it is, as messages show it, and its source or why there is none."""

    name: str
    path: Path
    outcome: HandlerSource | InvalidHandler

    @property
    def folder(self) -> str:
        """What goes before the name of one of the handler's files to make it a path from here."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return "" if folder == Path() else f"{folder}/"

    def source(self) -> HandlerSource:
        """The handler; raises the `InvalidHandler` that says why it cannot be accepted."""
        if isinstance(self.outcome, InvalidHandler):
            raise self.outcome
        return self.outcome


def find_handler(given: str, config: RuntimeConfig) -> Target:
    """The handler of this name or path; raises `HandlerNotFound` when there is none."""
    path = Path(given)
    if not _looks_like_path(given):
        registry = HandlerRegistry(config.handlers_dir, config.limits)
        if given in registry.names() or not path.exists():
            return _registered(given, registry, config)
    if not path.exists():
        raise HandlerNotFound(f"there is no file or folder {given}")
    return _at_path(_handler_at(path), config)


def find_handlers(given: str, config: RuntimeConfig) -> Iterator[Target]:
    """The handler of this name or path, or every handler of a folder that holds some."""
    path = Path(given)
    if path.is_dir() and not _is_handler_folder(path):
        yield from handlers_of(path, config)
    else:
        yield find_handler(given, config)


def handlers_of(folder: Path, config: RuntimeConfig) -> Iterator[Target]:
    """Every handler of a folder, those that cannot be accepted included, by name."""
    registry = HandlerRegistry(folder, config.limits)
    for name in registry.names():
        yield Target(name, _path_of(name, folder), _outcome(name, registry))


def _registered(name: str, registry: HandlerRegistry, config: RuntimeConfig) -> Target:
    return Target(name, _path_of(name, config.handlers_dir), _outcome(name, registry))


def _at_path(path: Path, config: RuntimeConfig) -> Target:
    # Only this handler is read, also in the handlers folder: the others would cost more than the call.
    try:
        return Target(path.stem, path, load_handler(path, config.limits))
    except InvalidHandler as error:
        return Target(path.stem, path, error)


def _outcome(name: str, registry: HandlerRegistry) -> HandlerSource | InvalidHandler:
    try:
        return registry.get(name)
    except InvalidHandler as error:
        return error


def _looks_like_path(given: str) -> bool:
    return "/" in given or given.endswith((*CODE_SUFFIXES, *WASM_SUFFIXES)) or given in (".", "..")


def _handler_at(path: Path) -> Path:
    """The handler a path is part of: `counter/index.js` and `counter/nexus.toml` mean `counter`."""
    is_part = path.name == MANIFEST_NAME or (path.stem == "index" and path.suffix in CODE_SUFFIXES)
    return path.resolve().parent if is_part else path


def _is_handler_folder(folder: Path) -> bool:
    return any((folder / name).exists() for name in (MANIFEST_NAME, *_index_files()))


def _index_files() -> tuple[str, ...]:
    return tuple(f"index{suffix}" for suffix in (*CODE_SUFFIXES, *WASM_SUFFIXES))


def _path_of(name: str, folder: Path) -> Path:
    """The file or folder of a handler's name."""
    files: Mapping[str, Path] = {
        suffix: folder / f"{name}{suffix}" for suffix in (*CODE_SUFFIXES, *WASM_SUFFIXES)
    }
    return next((path for path in files.values() if path.is_file()), folder / name)
