"""The package: what `sam build` makes, and that it runs from its folder alone."""

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from functions.aws_lambda.emulator import Emulator, FunctionPlan
from tests.aws_lambda.emulated import ROOT
from tests.aws_lambda.once import made_once
from tests.aws_lambda.sample_events import ANSWERS, event_of
from tests.aws_lambda.stack import Stack, run_sam_tool

RECIPE = ROOT / "infra" / "lambda" / "package.py"
LAMBDA_PYTHON = (3, 13)
# What Lambda's image has beside the package.
RUNTIME_PARTS = ("awslambdaric", "runtime_client*.so", "simplejson", "snapshot_restore_py.py")
LAMBDAS_OWN = {"botocore", "python-dateutil", "six", "urllib3"}
OF_A_SERVER = {"click", "h2", "hpack", "httptools", "hyperframe", "uvicorn", "uvloop"}
OF_A_SERVER |= {"watchfiles", "websockets"}


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    """The recipe as a module."""
    spec = importlib.util.spec_from_file_location("lambda_package", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `sam build` leaves: a folder with the package, and `log` with what it said."""
    if sys.version_info[:2] != LAMBDA_PYTHON:
        pytest.skip("the package is for Python 3.13, and the tests run by another one")
    return made_once(tmp_path_factory, "sam", build)


def build(folder: Path) -> None:
    """Run `sam build` as `make sam-build` does."""
    arguments = ("--build-dir", str(folder), "--parameter-overrides", "Architecture=x86_64")
    done = run_sam_tool("sam", "build", *arguments, BUILD_PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    (folder / "log").write_text(done.stdout + done.stderr)


@pytest.fixture(scope="session")
def package(built: Path) -> Path:
    """The folder that becomes /var/task."""
    return built / "NexusFunction"


@pytest.fixture(scope="module")
def function(
    package: Path, program: Path, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulator]:
    """The function with the template's variables, in a Python that has only Lambda's runtime client."""
    folder = tmp_path_factory.mktemp("lambda")
    (installed,) = (Path(path) for path in sys.path if path.endswith("site-packages"))
    for part in RUNTIME_PARTS:
        for found in installed.glob(part):
            copy = shutil.copytree if found.is_dir() else shutil.copy
            copy(found, folder / found.name)
    environ = {name: value.replace("/var/task", str(package)) for name, value in stack.environ().items()}
    environ |= {"NEXUS_AUTH": "off", "NEXUS_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(folder)}
    plan = FunctionPlan(package, environ=environ, python=f"{sys.base_prefix}/bin/python3.13")
    with Emulator(program, plan) as emulator:
        yield emulator
    assert not (folder / "cache").exists(), "something was compiled though the seed was there"


def test_the_build_tells_its_size_and_keeps_below_150_mb(built: Path, package: Path) -> None:
    """The unzipped size is printed, is right, and is below the limit."""
    said = re.search(r"NexusFunction: ([\d.]+) MB unzipped, at most 150", (built / "log").read_text())
    assert said
    size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    assert size / 1e6 == pytest.approx(float(said[1]), abs=0.1)
    assert size < 150e6


def test_the_package_holds_what_the_function_needs_and_no_more(package: Path) -> None:
    """Our rooms for Lambda, samples, licences, bytecode and a seed; no server, no tests, no notes of pip."""
    names = {path.name for path in package.iterdir()}
    assert {"nexus_core", "functions", "handlers", "seed", "wasmtime", "mangum"} <= names
    assert not names & {*LAMBDAS_OWN, *OF_A_SERVER, "bin", "tests"}
    assert not any((package / "functions" / room).exists() for room in ("cli", "knative"))
    infos = list(package.glob("*.dist-info"))
    assert not [info for info in infos if (info / "RECORD").exists()]
    assert [info for info in infos if not (info / "METADATA").exists()] == []
    (engine,) = (package / "seed").glob("quickjs-*")
    used = set(re.findall(rb"has_\w+\x02(.)", engine.read_bytes()))
    assert used == {b"\0"}, "the machine code is not for every processor of the architecture"
    assert (package / "nexus_core" / "__pycache__" / "runtime.cpython-313.pyc").exists()


def test_the_package_answers_every_source(function: Emulator) -> None:
    """From its folder alone it starts, compiles nothing, and answers each sample event as it should."""
    for name, is_right in ANSWERS.items():
        reply = function.invoke(event_of(name))
        assert is_right(reply.value), (name, reply.body, function.log)


def test_the_list_of_libraries_is_what_our_packages_ask_for(recipe: ModuleType) -> None:
    """The recipe installs all that the function needs, less what it says it leaves out."""
    lines = (RECIPE.parent / "requirements.txt").read_text().splitlines()
    listed = {normal(line) for line in lines if line and not line.startswith("#")}
    assert listed == needed("nexus", "lambda") - {"nexus"} - LAMBDAS_OWN - OF_A_SERVER
    locked = {normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert listed <= locked


def needed(name: str, *extras: str) -> set[str]:
    """A package and all that it needs on Lambda."""
    found, waiting = set[str](), [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        found.add(normal(name))
        for text in requires(name) or ():
            requirement = Requirement(text)
            if applies(requirement, extras) and normal(requirement.name) not in found:
                waiting.append((requirement.name, tuple(requirement.extras)))
    return found


def applies(requirement: Requirement, extras: tuple[str, ...]) -> bool:
    """Whether a requirement counts on Python 3.13 with these extras."""
    lambdas = {"python_version": "3.13", "python_full_version": "3.13.0"}
    return requirement.marker is None or any(
        requirement.marker.evaluate({**lambdas, "extra": extra}) for extra in ("", *extras)
    )


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def test_a_package_that_is_too_large_is_refused(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit the build fails and says both sizes; one byte below it passes."""
    (tmp_path / "file").write_bytes(bytes(10))
    monkeypatch.setattr(recipe, "MAX_BYTES", 11)
    recipe.report_size(tmp_path)
    monkeypatch.setattr(recipe, "MAX_BYTES", 10)
    with pytest.raises(recipe.RecipeFailed, match="10 bytes are too many; 10"):
        recipe.report_size(tmp_path)


def test_a_folder_in_use_is_left_alone(recipe: ModuleType, tmp_path: Path) -> None:
    """The recipe builds into an empty folder only, and says so; a failed step names itself."""
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="is not empty"):
        recipe.main(["--out", str(tmp_path)])
    with pytest.raises(recipe.RecipeFailed, match="standing still ended with code 3"):
        recipe.run("standing still", [sys.executable, "-c", "raise SystemExit(3)"])


def test_sam_runs_the_recipe_the_makefile_names() -> None:
    """`make sam-build` and the makefile that SAM runs agree on the names of their variables."""
    top, inner = (ROOT / "Makefile").read_text(), (RECIPE.parent / "Makefile").read_text()
    for variable in ("LAMBDA_ARCH", "BUILD_PYTHON"):
        assert f"{variable}=$(" in top
        assert re.search(rf"^{variable} \?= ", inner, re.MULTILINE)
