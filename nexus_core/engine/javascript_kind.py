"""JavaScript and TypeScript as a guest kind: compile a handler, make instances, explain its errors."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from nexus_core.engine.call import CallPolicy
from nexus_core.engine.diagnostics import error_site
from nexus_core.engine.driver import RunCancelled, TimeBudget, finish
from nexus_core.engine.flush import Thrown
from nexus_core.engine.image import HeapImage, ImageArena
from nexus_core.engine.javascript import JavaScriptEngine
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_loader import JavaScriptLoader, LoadFailed
from nexus_core.engine.modules import HandlerModules
from nexus_core.engine.typescript import TypeScriptStripper
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.errors import CompilationError, GuestError, NexusError

_PROBED = "probe.js"
_PROBE_MS = 500


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


class JavaScriptKind:
    """What the core knows of this guest kind. Another kind has the same members."""

    def __init__(self, engine: WasmEngine, arena: ImageArena) -> None:
        self._stripper = TypeScriptStripper(engine.engine, engine.load_module)
        self._engine = JavaScriptEngine(engine, arena)

    @property
    def build(self) -> str:
        """Names the guest build: a compiled handler of another build does not fit."""
        return self._engine.build

    def compile(
        self, entry: str, files: Mapping[str, str], policy: CallPolicy, least_size: int = 0
    ) -> Generator[None, None, HeapImage]:
        """Load a handler and picture it. Raises `CompilationError` that points into the author's source.

        `least_size`: at least so many bytes of memory, for a handler that outgrew its image.
        """
        modules = HandlerModules(entry, files, self._stripper)
        try:
            return (yield from JavaScriptLoader(self._engine, entry, modules, policy).run(least_size))
        except LoadFailed as failure:
            message, name = _words(failure.thrown)
            site = error_site(message, failure.thrown.stack, modules.sources(), probe=self._parse)
            raise CompilationError(
                message, name=name, location=site.location, snippet=site.snippet, stack=site.stack
            ) from None

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

    def decode(self, data: bytes) -> HeapImage:
        """A compiled handler from a cache; raises ValueError when it does not fit."""
        return self._engine.decode(data)

    def new_instance(self) -> JavaScriptInstance:
        """A fresh instance, to which any compiled handler can be attached."""
        return JavaScriptInstance(self._engine)

    def explain(self, thrown: Thrown, entry: str, files: Mapping[str, str]) -> GuestError:
        """A handler's own error, with its place in the author's source."""
        message, name = _words(thrown)
        site = error_site(message, thrown.stack, HandlerModules(entry, files, self._stripper).sources())
        return GuestError(message, name=name, stack=site.stack, location=site.location, snippet=site.snippet)


def _words(thrown: Thrown) -> tuple[str, str]:
    return thrown.message or "", (thrown.name or "Error")[:200]
