"""Sizes, docstrings and habits of our own source files."""

import ast
from collections.abc import Iterator

import pytest

from tests.project.sources import ROOMS, ROOT, Function, Source, definitions, source, sources

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40


def long_functions(of: Source) -> Iterator[str]:
    """Functions with more lines than allowed, decorators not counted."""
    for node in ast.walk(of.tree):
        if isinstance(node, Function):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{of.path}:{node.lineno} {node.name} has {lines} lines"


def undocumented(of: Source) -> Iterator[str]:
    """Public names without a docstring. A module that holds nothing has nothing to say."""
    if of.tree.body and not ast.get_docstring(of.tree):
        yield f"{of.path} has no docstring"
    for node in definitions(of.tree):
        if not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"{of.path}:{node.lineno} {node.name} has no docstring"


def busy_packages(of: Source) -> Iterator[str]:
    """Packages whose `__init__.py` does more than import names."""
    if of.path.endswith("__init__.py"):
        for node in of.tree.body:
            names = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not (text or isinstance(node, ast.Import | ast.ImportFrom) or names == ["__all__"]):
                yield f"{of.path}:{node.lineno} is logic"


def shared_state(of: Source) -> Iterator[str]:
    """Module-level containers made to be filled later, and `global` statements."""
    for node in of.tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if value is not None and ast.unparse(value) in ("[]", "{}", "list()", "dict()", "set()"):
            yield f"{of.path}:{node.lineno} is mutable state of a module"
    for inner in ast.walk(of.tree):
        if isinstance(inner, ast.Global):
            yield f"{of.path}:{inner.lineno} changes a global"


def undescribed_tests(of: Source) -> Iterator[str]:
    """Tests that do not state, in a sentence, the behaviour they prove."""
    for node in definitions(of.tree):
        if node.name.startswith("test_") and not (ast.get_docstring(node) or "").endswith((".", ".)", ".`")):
            yield f"{of.path}:{node.lineno} {node.name} does not state a behaviour"


def test_modules_are_short() -> None:
    """No module, of Python or JavaScript, is longer than a reader can hold."""
    scripts = (ROOT / "nexus_core" / "engine").glob("*.js")
    paths = [*(ROOT / of.path for of in sources(*ROOMS)), *scripts]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in paths}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


def test_functions_are_short() -> None:
    """No function is longer than a screen."""
    assert [found for of in sources(*ROOMS) for found in long_functions(of)] == []


def test_public_names_are_documented() -> None:
    """Every module, class, function and method a caller can name says what the caller must know."""
    assert [found for of in sources(*ROOMS) for found in undocumented(of)] == []


def test_packages_hold_no_logic() -> None:
    """An `__init__.py` imports names and does nothing else."""
    assert [found for of in sources(*ROOMS) for found in busy_packages(of)] == []


def test_modules_hold_no_state() -> None:
    """Nothing is kept in a module: everything is built once and passed down."""
    assert [found for of in sources("nexus_core", "functions") for found in shared_state(of)] == []


def test_tests_state_a_behaviour() -> None:
    """Every test has a docstring that is a sentence."""
    assert [found for of in sources("tests") for found in undescribed_tests(of)] == []


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (long_functions, "a.py", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
        (
            long_functions,
            "a.py",
            "class C:\n    async def f(self):\n" + "        x = 1\n" * MAX_FUNCTION_LINES,
        ),
        (undocumented, "a.py", "x = 1"),
        (undocumented, "a.py", '"""M."""\nclass C:\n    """C."""\n    def f(self): ...'),
        (undocumented, "a.py", '"""M."""\nif True:\n    def f(): ...'),
        (busy_packages, "a/__init__.py", "x = 1"),
        (busy_packages, "a/__init__.py", "def f(): ..."),
        (shared_state, "a.py", "seen: dict[str, int] = {}"),
        (shared_state, "a.py", "def f():\n    global x\n    x = 1"),
        (undescribed_tests, "test_a.py", 'def test_a():\n    """works"""'),
        (undescribed_tests, "test_a.py", "async def test_a(): ..."),
    ],
)
def test_each_check_finds_its_breach(check: object, path: str, text: str) -> None:
    """Each of the checks above reports a file that breaks its rule."""
    assert callable(check)
    assert len(list(check(source(path, text)))) == 1


@pytest.mark.parametrize(
    "check", [long_functions, undocumented, busy_packages, shared_state, undescribed_tests]
)
def test_no_check_blames_a_good_file(check: object) -> None:
    """None of the checks above reports a file that keeps the rules, up to the last allowed line."""
    assert callable(check)
    body = "    x = 1\n" * (MAX_FUNCTION_LINES - 3)
    good = f'"""M."""\n_names = ("a",)\ndef test_f():\n    """It works."""\n{body}    def _g(): ...\n'
    assert list(check(source("a.py", good))) == []
