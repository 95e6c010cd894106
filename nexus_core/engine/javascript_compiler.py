"""What reads an author's JavaScript and TypeScript: the compile of a handler, and where its errors are.

Nothing of it is needed to run a handler that is compiled already, so it is imported on first use.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

from nexus_core.engine.call import CallPolicy
from nexus_core.engine.diagnostics import error_site
from nexus_core.engine.driver import RunCancelled, TimeBudget, finish
from nexus_core.engine.flush import Thrown
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript import JavaScriptEngine
from nexus_core.engine.javascript_loader import JavaScriptLoader, LoadFailed
from nexus_core.engine.modules import HandlerModules
from nexus_core.engine.typescript import TypeScriptStripper
from nexus_core.errors import CompilationError, GuestError, NexusError

_PROBED = "probe.js"
_PROBE_MS = 500


class JavaScriptCompiler:
    """Compiles handlers for `engine`, and explains their errors; any thread may call it."""

    def __init__(self, engine: JavaScriptEngine) -> None:
        self._engine = engine
        wasm = engine.engine
        self._stripper = TypeScriptStripper(wasm.engine, wasm.load_module)

    def compile(
        self, entry: str, files: Mapping[str, str], policy: CallPolicy, least_size: int
    ) -> Generator[None, None, HeapImage]:
        """See `JavaScriptKind.compile`."""
        modules = HandlerModules(entry, files, self._stripper)
        try:
            return (yield from JavaScriptLoader(self._engine, entry, modules, policy).run(least_size))
        except LoadFailed as failure:
            message, name = _words(failure.thrown)
            site = error_site(message, failure.thrown.stack, modules.sources(), probe=self._parse)
            raise CompilationError(
                message, name=name, location=site.location, snippet=site.snippet, stack=site.stack
            ) from None

    def explain(self, thrown: Thrown, entry: str, files: Mapping[str, str]) -> GuestError:
        """See `JavaScriptKind.explain`."""
        message, name = _words(thrown)
        site = error_site(message, thrown.stack, HandlerModules(entry, files, self._stripper).sources())
        return GuestError(message, name=name, stack=site.stack, location=site.location, snippet=site.snippet)

    def _parse(self, text: str) -> str:
        """The message of a syntax error in a module's text, "" when there is none to be had."""
        loader = JavaScriptLoader(self._engine, _PROBED, _OneFile(text), CallPolicy.none())
        try:
            finish(loader.run(0), TimeBudget(_PROBE_MS, 0))
        except LoadFailed as failure:
            return failure.thrown.message or ""
        except (NexusError, RunCancelled):
            return ""
        return ""


class _OneFile:
    """A module that imports nothing, for the parser to judge."""

    def __init__(self, text: str) -> None:
        self._text = text

    def resolve(self, specifier: str, importer: str) -> str:  # noqa: ARG002 - the protocol's shape
        """Only the module itself."""
        return _PROBED

    def text(self, path: str) -> str:  # noqa: ARG002 - the protocol's shape
        """The text."""
        return self._text


def _words(thrown: Thrown) -> tuple[str, str]:
    return thrown.message or "", (thrown.name or "Error")[:200]
