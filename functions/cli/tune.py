"""`nexus tune`: which settings to change, from what to what and why, by what a server counted."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import msgspec

from functions.cli.checks.finding import counted
from functions.cli.terminal import faint, harmless, say, strong
from nexus_core.config import RuntimeConfig, load_config

if TYPE_CHECKING:
    from functions.cli.advice_terms import Tuning
    from functions.cli.observed import Observed

TOKEN_VARIABLE = "NEXUS_TOKEN"  # noqa: S105 - the variable's name
_HOUR_SECONDS = 3600.0
_MOST_WATCH_SECONDS = 600.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZES = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SHOWN = ("workers", "max_instances", "min_instances", "max_cache_size_bytes", "max_total_memory_bytes")


class Tuned(msgspec.Struct, frozen=True):
    """The JSON of `nexus tune --json`: what was read, over how many calls, and what follows from it.

    `seconds` is the span looked at, null for all the time since the server's start; `assumed` are the
    settings it is taken to run with.
    """

    source: str
    seconds: float | None
    calls: int
    servers: int
    assumed: Mapping[str, int]
    tuning: Tuning


@click.command()
@click.argument("url", required=False)
@click.option(
    "--token", envvar=TOKEN_VARIABLE, help=f"Bearer token with the scope `read`; default: {TOKEN_VARIABLE}."
)
@click.option("--prometheus", metavar="URL", help="Ask this Prometheus instead of a server.")
@click.option("--window", metavar="SPAN", help="Span to look at, as 30s, 5m, 1h or 7d; of a Prometheus: 1h.")
@click.option("--match", metavar="LABELS", help="Series of the Prometheus, as 'namespace=\"prod\"'.")
@click.option(
    "--pod", "pod", multiple=True, metavar="NAME=VALUE", help="What is set for a pod, as memory_limit=1Gi."
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the advice as JSON.")
def command(
    url: str | None, pod: Sequence[str], config: Path | None, as_json: bool, **asked: str | None
) -> None:
    """Read the metrics of the server at URL (default: this machine's) and say which settings to change.

    A server tells what it counted since its start; with --window it is read twice, so far apart. With
    --prometheus all servers of the last hour count. Settings are taken to be those of this shell
    (NEXUS_* and --config). Names for --pod: memory_used, memory_request, memory_limit, cpu_used,
    cpu_request, cpu_limit, cpu_target, memory_target.

    Exit code: 0 whatever the advice, 2 the metrics could not be read.
    """
    settings = _settings(config)
    given = dict(_pod_value(one) for one in pod)
    source, seen = _observed(url, settings, **asked)
    from functions.cli.advice import judge

    tuned = Tuned(
        source=source,
        seconds=seen.seconds,
        calls=round(seen.calls),
        servers=round(seen.servers),
        assumed={name: getattr(settings, name) for name in _SHOWN},
        tuning=judge(msgspec.structs.replace(seen, platform={**seen.platform, **given}), settings),
    )
    if as_json:
        click.echo(msgspec.json.encode(tuned))
    else:
        _print(tuned)


def _settings(file: Path | None) -> RuntimeConfig:
    """The settings of this shell; the token's variable is ours alone."""
    return load_config({name: text for name, text in os.environ.items() if name != TOKEN_VARIABLE}, file)


def _observed(
    url: str | None,
    settings: RuntimeConfig,
    *,
    token: str | None,
    prometheus: str | None,
    window: str | None,
    match: str | None,
) -> tuple[str, Observed]:
    """Where it was read, and what; raises `ScrapeError`, or `click.UsageError` for options at odds."""
    from functions.cli import observed, scrape

    seconds = _seconds(window)
    if token is not None and not (token.isascii() and token.isprintable()):
        raise click.UsageError("a token is printable ASCII without line ends")
    if prometheus is not None:
        if url is not None:
            raise click.UsageError("give the URL of a server, or --prometheus, not both")
        seconds = seconds or _HOUR_SECONDS
        samples = asyncio.run(scrape.query(prometheus, token, seconds, match or ""))
        return scrape.place(prometheus), observed.observe(samples, seconds)
    if match:
        raise click.UsageError("--match is for --prometheus: a server tells only of itself")
    if seconds is not None and seconds > _MOST_WATCH_SECONDS:
        raise click.UsageError("--window of a server is at most 10m: it is waited for; ask a --prometheus")
    source = _metrics_url(url, settings)
    if seconds is None:
        samples = asyncio.run(scrape.scrape(source, token))
    else:
        samples = asyncio.run(scrape.scrape_twice(source, token, seconds))
    return scrape.place(source), observed.observe(samples, seconds)


def _metrics_url(url: str | None, config: RuntimeConfig) -> str:
    """The address of the metrics; a server's alone is enough."""
    url = url or f"http://127.0.0.1:{config.port}"
    try:
        path = urlsplit(url).path
    except ValueError:
        raise click.UsageError("URL is http://HOST:PORT or http://HOST:PORT/metrics") from None
    return url.rstrip("/") + "/metrics" if path in {"", "/"} else url


def _seconds(window: str | None) -> float | None:
    if window is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", window)
    if found is None:
        raise click.UsageError(f"--window: {window!r} is not allowed; allowed: 30s, 5m, 1h, 7d and the like")
    return float(int(found[1]) * _UNITS[found[2]])


def _pod_value(given: str) -> tuple[str, float]:
    """A value for the platform: bytes, processors (100m is a tenth), or percents."""
    from functions.cli.observed import PLATFORM

    name, _, text = given.partition("=")
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(m|[KMG]iB?|)%?", text.strip())
    if name not in PLATFORM or found is None:
        raise click.UsageError(
            f"--pod: {given!r} is not allowed; allowed: NAME=VALUE as memory_limit=1Gi, cpu_request=100m or "
            f"cpu_target=70, with one of {', '.join(PLATFORM)}"
        )
    return name, float(found[1]) * _SIZES[found[2]]


def _print(tuned: Tuned) -> None:
    span = "since its start" if tuned.seconds is None else f"in {tuned.seconds:.0f} s"
    assumed = ", ".join(f"{name} {value}" for name, value in tuned.assumed.items())
    calls, servers = counted(tuned.calls, "call"), counted(tuned.servers, "server")
    click.echo(f"{strong(harmless(tuned.source))}: {calls} {span}, {servers}")
    click.echo(faint(f"taken to run with {assumed}"))
    for one in tuned.tuning.change:
        change = f"{one.setting}: {one.now} -> {one.to}"
        click.echo(f"{strong('change ', 'yellow')} {strong(harmless(change))}")
        click.echo(f"        because {harmless(one.why)}")
        for line in one.rests_on:
            click.echo(f"        {faint(harmless(line))}")
    if not tuned.tuning.change:
        click.echo(strong("nothing to change", "green"))
    for missing in tuned.tuning.unknown:
        click.echo(f"{strong('unknown', 'blue')} {missing.setting}: {harmless(missing.why)}")
    say(f"{len(tuned.tuning.change)} to change, {len(tuned.tuning.unknown)} unknown")
