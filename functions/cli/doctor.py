"""`nexus doctor`: would a server run well here? Each check says what it found and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click
import msgspec

from functions.cli.checks.finding import Finding, Verdict, counted
from functions.cli.settings import common_settings, setting
from functions.cli.terminal import EXIT_FAILED, faint, harmless, say, strong
from nexus_core.config import FILE_VARIABLE, PREFIX, ConfigError, RuntimeConfig, load_config, settings
from nexus_core.errors import NexusError

if TYPE_CHECKING:
    from nexus_core.handlers import HandlerRegistry

_MARKS: Mapping[Verdict, tuple[str, str]] = MappingProxyType(
    {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "problem": ("problem", "red")}
)
_WIDTH = 10


class Diagnosis(msgspec.Struct, frozen=True):
    """The JSON of `nexus doctor --json`; `ok` is false when a check found a problem."""

    ok: bool
    findings: tuple[Finding, ...]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--container",
    is_flag=True,
    help="Read the settings as the container does: PORT, K_SINK and its host too.",
)
@common_settings
@setting("store_url", "Where session state is kept.", "URL")
@setting("cache_dir", "Folder of the disk cache.", "DIR")
@click.pass_context
def command(context: click.Context, /, as_json: bool, container: bool, **options: Any) -> None:
    """Check what a server would find here: settings, folders, memory, clock, store, engine, sink, address.

    Run it as the user, and with the settings, of the server. It writes nothing but one session of the store,
    which it empties again. Exit code: 0 no problem, 1 a problem, 2 it could not be run.
    """
    findings = tuple(_examine(options, container=container))
    diagnosis = Diagnosis(all(found.verdict != "problem" for found in findings), findings)
    if as_json:
        click.echo(msgspec.json.encode(diagnosis))
    else:
        _print(findings)
    if not diagnosis.ok:
        context.exit(EXIT_FAILED)


def _examine(options: Mapping[str, Any], *, container: bool) -> Iterator[Finding]:
    """All checks, or only the first when the settings cannot be read: all others need them."""
    try:
        environ = _environ(options, container=container)
        file = options.get("config_file")
        config = load_config(environ, Path(file) if file else None)
    except ConfigError as error:
        advice = "correct it; docs/configuration.md lists every setting. Nothing else was checked"
        yield Finding(check="settings", verdict="problem", found=error.message, advice=advice)
        return
    yield _settings_finding(config)
    for name, check in _checks(config).items():
        yield _guarded(name, check)


def _checks(config: RuntimeConfig) -> Mapping[str, Callable[[], Finding]]:
    """The checks by name, in the order in which they are told."""
    from functions.cli.checks import capacity, folders, host, running
    from nexus_core.logs import configure_logging

    # What the parts would log, the findings say.
    configure_logging("error", "text")
    registry = _registry(config)
    limits = [one.manifest.limits for one in folders.accepted(registry)]
    largest = max(limit.memory_limit_bytes for limit in (config.limits, *limits))
    here = host.read_host()
    in_memory = folders.cache_in_memory(config)

    return {
        "handlers": lambda: folders.check_handlers(config, registry),
        "cache": lambda: folders.check_cache(config),
        "seed": lambda: folders.check_seed(config, registry),
        "memory": lambda: capacity.check_memory(config, here, largest, cache_in_memory=in_memory),
        "processors": lambda: capacity.check_processors(config, here),
        "open files": lambda: capacity.check_files(config, here),
        "mappings": lambda: capacity.check_mappings(config, here),
        "clock": lambda: running.check_clock(config, running.read_clock()),
        "store": lambda: running.check_store(config),
        "engine": lambda: running.check_engine(config),
        "event sink": lambda: running.check_sink(config),
        "address": lambda: running.check_address(config),
    }


def _registry(config: RuntimeConfig) -> HandlerRegistry | None:
    """The handlers, None when their folder cannot be read, which is what the check of it tells."""
    from nexus_core.handlers import HandlerRegistry

    try:
        return HandlerRegistry(config.handlers_dir, config.limits)
    except NexusError:
        return None


def _environ(options: Mapping[str, Any], *, container: bool) -> Mapping[str, str]:
    """This process's variables with the options that were given laid over them."""
    from functions.knative.platform import platform_settings

    given = {
        f"{PREFIX}{name.upper()}": str(value)
        for name, value in options.items()
        if value is not None and name != "config_file"
    }
    return {**(platform_settings(os.environ) if container else os.environ), **given}


def _settings_finding(config: RuntimeConfig) -> Finding:
    known = {one.variable: one for one in settings()}
    # Names alone: a value may be a secret.
    named = sorted(name for name in os.environ if name in known)
    file = os.environ.get(FILE_VARIABLE)
    lines = [f"from variables: {', '.join(named)}"] if named else []
    lines += [f"from the file {file}"] if file else []
    detail = tuple(lines)
    found = "all are allowed" if detail else "all are defaults"
    if not config.limits.timeout_ms and not config.limits.cpu_ms:
        advice = "nothing ends a handler that loops: set NEXUS_TIMEOUT_MS or NEXUS_CPU_MS"
        return Finding(check="settings", verdict="warning", found=found, detail=detail, advice=advice)
    return Finding(check="settings", verdict="ok", found=found, detail=detail)


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """The check's finding; one that breaks is a finding too, and hinders no other."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - what is broken here is what is looked for
        found = f"the check itself failed: {type(error).__name__}: {error}"
        return Finding(check=name, verdict="problem", found=found, advice="please report it, with this line")


def _print(findings: Sequence[Finding]) -> None:
    for found in findings:
        word, colour = _MARKS[found.verdict]
        click.echo(f"{strong(word, colour)} {strong(found.check.ljust(_WIDTH))} {harmless(found.found)}")
        indent = " " * (len(word) + _WIDTH + 2)
        for line in found.detail:
            click.echo(f"{indent}{faint(harmless(line))}")
        if found.advice is not None:
            click.echo(f"{indent}{harmless(found.advice)}")
    problems = sum(found.verdict == "problem" for found in findings)
    warnings = sum(found.verdict == "warning" for found in findings)
    counts = ((len(findings), "check"), (problems, "problem"), (warnings, "warning"))
    say(", ".join(counted(number, what) for number, what in counts))
