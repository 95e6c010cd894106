"""A handler's files as its guest sees them: resolved, stripped of types, and mapped back for errors."""

from __future__ import annotations

from collections.abc import Mapping

from nexus_core.engine.imports import resolve_import
from nexus_core.engine.source_file import SourceFile, Stripper, prepare_source
from nexus_core.errors import NexusError

MAIN = "nexus:main"
"""The importer that stands for the host: it may name the entry only."""


class HandlerModules:
    """The files of one handler, prepared as they are asked for."""

    def __init__(self, entry: str, files: Mapping[str, str], stripper: Stripper) -> None:
        self._entry = entry
        self._files = files
        self._stripper = stripper
        self._prepared: dict[str, SourceFile] = {}

    def resolve(self, specifier: str, importer: str) -> str:
        """The path a specifier names; raises `CompilationError` when it names none."""
        return self._entry if importer == MAIN else resolve_import(specifier, importer, self._files)

    def text(self, path: str) -> str:
        """The JavaScript of a file; raises `CompilationError` when it cannot be prepared."""
        return self._prepare(path).guest

    def sources(self) -> Mapping[str, SourceFile]:
        """Every file that can be prepared, by its path: what error positions are mapped with."""
        for path in self._files:
            try:
                self._prepare(path)
            except NexusError:
                continue
        return self._prepared

    def _prepare(self, path: str) -> SourceFile:
        prepared = self._prepared.get(path)
        if prepared is None:
            entry = path == self._entry
            prepared = prepare_source(path, self._files[path], self._stripper, entry=entry)
            self._prepared[path] = prepared
        return prepared
