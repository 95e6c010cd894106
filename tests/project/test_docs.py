"""The documents say what the code does."""

import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nexus_core.config import Setting, load_config, settings
from tests.project.sources import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CONFIGURATION = ROOT / "docs" / "configuration.md"
FACTORS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def snippets(document: Path, language: str) -> Iterator[str]:
    """The fenced blocks of one language."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE):
        if found[1] == language:
            yield found[2]


def rows(document: Path) -> Iterator[list[str]]:
    """The cells of each table row, header and rule left out, code marks kept."""
    lines = document.read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("|") and before.startswith("|") and not line.startswith("|--"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def value_of(text: str) -> object:
    """What a cell of the column "default" stands for."""
    if number := re.fullmatch(r"(\d+)(?: (KiB|MiB|GiB))?", text):
        return int(number[1]) * FACTORS.get(number[2], 1)
    return {"unset": None, "`true`": True, "`false`": False}.get(text, text.strip("`"))


def relative(document: Path) -> str:
    """A document's path from the top of the repository, for test names."""
    return document.relative_to(ROOT).as_posix()


def test_every_variable_is_in_the_configuration_page_once() -> None:
    """The tables of docs/configuration.md name exactly the variables that are read."""
    documented = [cells[0].strip("`") for cells in rows(CONFIGURATION)]
    assert sorted(documented) == sorted(setting.variable for setting in settings())


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.variable)
def test_the_configuration_page_tells_the_truth(setting: Setting) -> None:
    """Default, allowed values and meaning of a variable are those of the code."""
    found = next(cells for cells in rows(CONFIGURATION) if cells[0] == f"`{setting.variable}`")
    default = str(setting.default) if isinstance(setting.default, Path) else setting.default
    assert (value_of(found[1]), found[2], found[3]) == (default, setting.allowed, setting.meaning)


def test_the_example_file_is_accepted(tmp_path: Path) -> None:
    """The configuration file shown in docs/configuration.md is one Nexus starts with."""
    (text,) = snippets(CONFIGURATION, "toml")
    file = tmp_path / "nexus.toml"
    file.write_text(text)
    assert load_config({}, file) != load_config({})


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_snippets_are_well_formed(document: Path) -> None:
    """Every TOML, JSON and Python block of a document can be read as what it claims to be."""
    for text in snippets(document, "toml"):
        tomllib.loads(text)
    for text in snippets(document, "json"):
        msgspec.json.decode(text)
    for text in snippets(document, "python"):
        compile(text, relative(document), "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document leads to a file of this repository."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_make_targets_exist(document: Path) -> None:
    """Every `make` command a document shows is a target of the Makefile."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ((?:[a-z-]+ ?)+)", document.read_text(), re.MULTILINE)
    assert {target for command in commands for target in command.split()} <= targets


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_folder_map_is_complete(name: str) -> None:
    """The maps name every folder of ours and no folder that is not there."""
    mapped = {cells[0].strip("`").rstrip("/") for cells in rows(ROOT / name) if cells[0].endswith("/`")}
    ours = {of.parent for room in ("nexus_core", "functions") for of in (ROOT / room).glob("*/__init__.py")}
    tops = {path for path in ROOT.iterdir() if path.is_dir() and is_ours(path)}
    there = {path.relative_to(ROOT).as_posix() for path in ours | tops}
    assert there - {"functions"} <= mapped
    assert [folder for folder in mapped if not (ROOT / folder).is_dir()] == []


def is_ours(folder: Path) -> bool:
    """Whether a top folder is part of the project: not hidden, and not made by a tool."""
    return not folder.name.startswith((".", "_")) and folder.name not in (
        "build",
        "dist",
        "htmlcov",
        "nexus.egg-info",
    )


def test_the_changelog_begins_with_this_version() -> None:
    """The newest entry of CHANGELOG.md is the version that pyproject.toml builds."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == version
