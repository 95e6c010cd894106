"""The rooms of the project, and which way imports may point between them."""

import graphlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.project.sources import Source, imports, source, sources, without_type_imports

VALUE_TYPES = (
    "nexus_core.capabilities",
    "nexus_core.context",
    "nexus_core.errors",
    "nexus_core.limits",
    "nexus_core.result",
    "nexus_core.statistics",
)
# Each costs tens of milliseconds, which a command that does not use it must not pay.
HEAVY = {
    "boto3",
    "cloudevents",
    "httpcore",
    "httpx",
    "jwt",
    "mangum",
    "prometheus_client",
    "redis",
    "starlette",
    "uvicorn",
    "watchfiles",
}
OURS = ("nexus_core", "functions", "bench", "tests")


class Room(NamedTuple):
    """What the modules below one dotted name may import of ours, and which libraries."""

    name: str
    ours: tuple[str, ...]
    libraries: tuple[str, ...]


# The first room that holds a module speaks for it. A library that is not named is not allowed.
CORE_ROOMS = (
    Room(
        "nexus_core.engine",
        (*VALUE_TYPES, "nexus_core.source_text", "nexus_core.engine"),
        ("msgspec", "quickjs_rs", "wasmtime"),
    ),
    Room("nexus_core.stores.dynamodb", ("nexus_core",), ("boto3", "botocore", "msgspec")),
    Room("nexus_core.stores.redis", ("nexus_core",), ("msgspec", "redis")),
    Room(
        "nexus_core.stores.cloudevent_sink",
        ("nexus_core",),
        ("cloudevents", "httpx", "msgspec"),
    ),
    Room("nexus_core.stores", (*VALUE_TYPES, "nexus_core.config", "nexus_core.stores"), ("msgspec",)),
    Room("nexus_core.extensions.http_client", ("nexus_core",), ("anyio", "httpcore", "httpx", "msgspec")),
    Room("nexus_core.extensions", ("nexus_core",), ("msgspec",)),
    Room("nexus_core", ("nexus_core",), ("msgspec", "prometheus_client")),
)
WRAPPER_ROOMS = (
    Room(
        "functions.http",
        ("nexus_core", "functions.http"),
        ("anyio", "cloudevents", "h2", "jwt", "msgspec", "starlette", "uvicorn"),
    ),
    Room(
        "functions.aws_lambda",
        ("nexus_core", "functions.http", "functions.aws_lambda"),
        # Starlette for the types of ASGI.
        (
            "aws_lambda_powertools",
            "awslambdaric",
            "aws_xray_sdk",
            "mangum",
            "msgspec",
            "snapshot_restore_py",
            "starlette",
        ),
    ),
    Room("functions.knative", ("nexus_core", "functions.http", "functions.knative"), ("msgspec",)),
    Room(
        "functions.cli",
        ("nexus_core", "functions"),
        ("click", "httpx", "jwt", "msgspec", "prometheus_client", "watchfiles"),
    ),
    Room("functions", (), ()),
)


def within(name: str, room: str) -> bool:
    """Whether a dotted name is the room or lies in it."""
    return name == room or name.startswith(room + ".")


def breaches(of: Source) -> Iterator[str]:
    """Each import that points the wrong way, as `module -> imported`."""
    room = next(room for room in (*CORE_ROOMS, *WRAPPER_ROOMS) if within(of.module, room.name))
    for name in imports(of):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        allowed = room.ours if top in OURS else room.libraries
        if not any(within(name, one) for one in allowed):
            yield f"{of.module} -> {name}"


def test_every_import_points_down() -> None:
    """No module imports a room above its own, or a library that belongs to another room."""
    assert [breach for of in sources("nexus_core", "functions") for breach in breaches(of)] == []


@pytest.mark.parametrize(
    ("path", "text", "imported"),
    [
        ("nexus_core/pool.py", "from functions.http import app", "functions.http.app"),
        ("nexus_core/pool.py", "def f():\n    import wasmtime", "wasmtime"),
        ("nexus_core/pool.py", "import boto3", "boto3"),
        ("nexus_core/pool.py", "from starlette.requests import Request", "starlette.requests.Request"),
        (
            "nexus_core/engine/fiber.py",
            "from nexus_core.pool import InstancePool",
            "nexus_core.pool.InstancePool",
        ),
        ("nexus_core/engine/fiber.py", "from .. import pool", "nexus_core.pool"),
        ("nexus_core/engine/__init__.py", "from ..config import x", "nexus_core.config.x"),
        ("nexus_core/stores/sqlite.py", "import redis.asyncio", "redis.asyncio"),
        ("nexus_core/stores/sqlite.py", "from nexus_core import runtime", "nexus_core.runtime"),
        ("nexus_core/extensions/timer.py", "import httpx", "httpx"),
        ("functions/http/app.py", "from functions.cli.main import main", "functions.cli.main.main"),
        ("functions/knative/entry.py", "import uvicorn", "uvicorn"),
        ("functions/http/app.py", "import mangum", "mangum"),
        ("functions/aws_lambda/entry.py", "import functions.knative.server", "functions.knative.server"),
        ("functions/__init__.py", "import nexus_core", "nexus_core"),
        ("functions/cli/main.py", "from tests import conftest", "tests.conftest"),
    ],
)
def test_a_wrong_import_is_found(path: str, text: str, imported: str) -> None:
    """The walk finds each kind of wrong arrow, inside functions and relative ones as well."""
    of = source(path, text)
    assert list(breaches(of)) == [f"{of.module} -> {imported}"]


def test_no_import_turns_back() -> None:
    """Who follows a call through the modules never comes round in a circle."""
    modules = {of.module: without_type_imports(of) for of in sources("nexus_core", "functions")}
    graph = {
        module: {
            target
            for name in imports(of)
            for target in (name, name.rpartition(".")[0])
            if target in modules and target != module
        }
        for module, of in modules.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("imports in a circle: " + " -> ".join(reversed(error.args[1])))


@pytest.mark.parametrize("module", ["nexus_core.build", "functions.cli.main"])
def test_heavy_libraries_wait_for_their_first_use(module: str) -> None:
    """Importing all that a call needs, or the command, imports none of the heavy libraries."""
    program = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert HEAVY & set(run.stdout.split()) == set()
