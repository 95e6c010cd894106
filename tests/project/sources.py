"""Our own source files, read by the tests of this folder."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
ROOMS = ("nexus_core", "functions", "bench", "tests")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """One Python file: its path from the top of the repository, dotted module name and syntax tree."""

    path: str
    module: str
    tree: ast.Module


def source(path: str, text: str) -> Source:
    """A source from its path and text, which need not be on disk."""
    parts = Path(path).with_suffix("").parts
    return Source(path, ".".join(parts).removesuffix(".__init__"), ast.parse(text))


@cache
def sources(*rooms: str) -> tuple[Source, ...]:
    """Every Python file of these top folders."""
    found = sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))
    return tuple(
        source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in found
    )


def without_type_imports(of: Source) -> Source:
    """The same source as it runs: `if TYPE_CHECKING:` blocks left out."""

    class Cut(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.If | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else node

    return of._replace(tree=Cut().visit(ast.parse(ast.unparse(of.tree))))


def imports(of: Source) -> Iterator[str]:
    """Dotted names a source imports, anywhere in it; `from a import b` gives `a.b`."""
    package = of.module.split(".")
    if not of.path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(of.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def definitions(tree: ast.AST) -> Iterator[Function | ast.ClassDef]:
    """Classes and functions that others can name: not those inside a function or a private class."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node
        if not isinstance(node, Function) and not getattr(node, "name", "").startswith("_"):
            yield from definitions(node)
