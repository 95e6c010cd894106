"""What docs/tuning.md and docs/troubleshooting.md tell operators: commands are run, names are looked up."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from functions.cli.doctor import command as doctor
from functions.cli.tune import command as tune
from nexus_core.config import settings
from nexus_core.errors import ERROR_TABLE
from nexus_core.limits import ResourceLimits
from nexus_core.metric_names import METRICS
from tests.cli.answering import Answering, reply
from tests.cli.command import Command
from tests.project.sources import ROOT

TUNING = ROOT / "docs" / "tuning.md"
TROUBLE = ROOT / "docs" / "troubleshooting.md"
PAGES = pytest.mark.parametrize("page", [TUNING, TROUBLE], ids=lambda page: page.stem)
METRICS_TEXT = b'nexus_handler_executions_total{handler="hello",status="success"} 5000\n'
VECTOR = b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"5000"]}]}}'


def commands() -> list[str]:
    """Every command of both pages."""
    pages = "\n".join(page.read_text() for page in (TUNING, TROUBLE))
    return [text.strip() for text in re.findall(r"^```sh\n(.*?)^```$", pages, re.DOTALL | re.MULTILINE)]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """A server with metrics, and a Prometheus, at one address."""
    one = Answering(lambda to: reply(200, VECTOR if "/api/" in to.path else METRICS_TEXT)(to))
    yield one
    one.close()


@pytest.mark.parametrize("command", commands())
def test_every_command_works(nexus: Command, answering: Answering, command: str) -> None:
    """Each command does what it is shown for, with the server or Prometheus it asks put at another port."""
    shutil.copytree(ROOT / "handlers", nexus.folder / "handlers")
    port = answering.server.server_port
    for place in ("127.0.0.1:8080", "prometheus:9090"):
        command = command.replace(place, f"127.0.0.1:{port}")
    # Nobody wants to wait for what a window is.
    words = shlex.split(command.replace("--window 30s", "--window 1s"))
    assert words[0] == "nexus"
    done = nexus(*words[1:], NEXUS_PORT=str(port), NEXUS_AUTH="off")
    assert done.code == 0, done
    assert done.err.splitlines()[-1:] or done.out.startswith("{")


@PAGES
def test_every_name_is_one_of_the_codes(page: Path) -> None:
    """Variables, metrics, error codes and statuses on the pages exist."""
    text = page.read_text()
    variables = set(re.findall(r"NEXUS_[A-Z_]+\b", text)) - {"NEXUS_TOKEN"}
    assert variables
    assert variables <= {one.variable for one in settings()}
    metrics = {name.removesuffix("_sum") for name in re.findall(r"`(nexus_[a-z_]+)`", text)}
    assert metrics
    assert metrics <= set(METRICS)
    answers = {code.value: answer.http_status for code, answer in ERROR_TABLE.items()}
    for status, code in re.findall(r"(\d{3}), `([A-Z_]+)`", text):
        assert answers[code] == int(status)
    assert set(re.findall(r"`(?!nexus_)(\w+_bytes|\w+_ms)`", text)) <= set(ResourceLimits.__struct_fields__)


@PAGES
def test_every_option_is_one(page: Path) -> None:
    """Options of doctor and tune on the pages are options of theirs, or of the command named before them."""
    known = {name for one in (doctor, tune) for option in one.params for name in option.opts}
    others = {"--portable", "--strict"}
    assert set(re.findall(r"(?<![\w-])--[a-z]+", page.read_text())) <= known | others


def test_the_checks_are_those_of_the_doctor(nexus: Command) -> None:
    """The page names every check that the command makes."""
    (sentence,) = re.findall(r"It checks (.*?), and says", re.sub(r"\s+", " ", TROUBLE.read_text()))
    named = re.split(r", | and ", sentence)
    shown = [line[8:18].strip() for line in nexus("doctor").out.splitlines() if line[0] != " "]
    words = {"cache": "caches", "seed": "caches", "open files": "files"}
    assert list(dict.fromkeys(words.get(one, one) for one in shown)) == named
