"""Reads the metrics of a running server: from its `/metrics`, or from a Prometheus that scrapes it.

Trust changes hands here: whoever answers at the address may send anything. Sizes, times and counts are
bounded, no redirect is followed, and only finite numbers under names of ours get out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from nexus_core.errors import NexusError
from nexus_core.limits import MIB
from nexus_core.metric_names import CACHE_HIT_RATE, METRICS

if TYPE_CHECKING:
    import httpx

MOST_BYTES: Final = 4 * MIB
"""Largest answer that is read."""
MOST_LINES: Final = 100_000
"""Most lines, or series, that are read of one answer."""
ANSWER_SECONDS: Final = 10.0
"""How long one answer may take, all of it."""

ALL_SECONDS: Final = 60.0
"""How long all questions to a Prometheus may take together."""

_MOST_LINE_BYTES = 8192
# So that sums of all lines are still numbers that JSON readers take.
_MOST_VALUE = 1e14
_MOST_LABEL_CHARS = 200
_MATCH = re.compile(r'\s*([a-zA-Z_]\w*)\s*(=|!=|=~|!~)\s*"([^"\\\n]*)"\s*')
_PLATFORM_LABELS = frozenset({"cluster", "namespace"})
_STEPS = 240

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]
"""Values by name and sorted labels. Counters are what was counted in the span that is looked at."""


class ScrapeError(NexusError):
    """The metrics cannot be read; the message says where and why."""


class _Series(msgspec.Struct, frozen=True):
    metric: dict[str, str]
    value: tuple[float, str]


class _Vector(msgspec.Struct, frozen=True):
    result: list[_Series]


class _Answer(msgspec.Struct, frozen=True):
    """A successful answer of Prometheus' HTTP API to an instant query."""

    data: _Vector


async def scrape(url: str, token: str | None) -> Samples:
    """The samples of a server's `/metrics`; raises `ScrapeError`."""
    async with _client() as client:
        body = await _get(client, url, {}, token)
    return parse_text(body, url)


async def scrape_twice(url: str, token: str | None, seconds: float) -> Samples:
    """What was counted within `seconds` from now, and the larger of the two readings of each gauge."""
    before = await scrape(url, token)
    await asyncio.sleep(seconds)
    after = await scrape(url, token)
    counted: Samples = {}
    for key, value in after.items():
        if _is_state(key[0]):
            counted[key] = max(value, before.get(key, 0.0))
        elif value < before.get(key, 0.0):
            raise ScrapeError(f"{place(url)}: the server was started anew while it was watched; try again")
        else:
            counted[key] = value - before.get(key, 0.0)
    return counted


def parse_text(body: bytes, url: str) -> Samples:
    """The samples of ours in a Prometheus text; raises `ScrapeError` for any other text."""
    from prometheus_client.parser import text_string_to_metric_families

    lines = body.split(b"\n")
    # The parser takes the square of a line's length.
    if len(lines) > MOST_LINES or any(len(line) > _MOST_LINE_BYTES for line in lines):
        raise ScrapeError(
            f"{place(url)}: lines past {MOST_LINES}, or past {_MOST_LINE_BYTES} bytes, are not read"
        )
    samples: Samples = {}
    try:
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if sample.name.startswith("nexus_"):
                    _add(samples, sample.name, sample.labels, sample.value)
    except Exception as error:  # noqa: BLE001 - the parser raises whatever a strange text makes of its lines
        raise ScrapeError(f"{place(url)}: this is no Prometheus text ({type(error).__name__})") from None
    if not samples:
        raise ScrapeError(
            f"{place(url)}: no metric of Nexus is there; give the address of a server's /metrics"
        )
    return samples


async def query(base: str, token: str | None, seconds: float, match: str) -> Samples:
    """The same from the HTTP API of the Prometheus at `base`, over the last `seconds`.

    `match` narrows the series, as in `namespace="prod"`. Beside ours there are, under names of this
    module's own, `servers`, `busy` (instances busy at a time, of the server with most) and, where cAdvisor
    and kube-state-metrics are scraped, `memory_used`, `cpu_used`, `memory_request`, `memory_limit`,
    `cpu_request`, `cpu_limit`, `cpu_target` and `memory_target`.
    """
    url = f"{base.rstrip('/')}/api/v1/query"
    samples: Samples = {}
    try:
        async with asyncio.timeout(ALL_SECONDS), _client() as client:
            for name, promql in queries(seconds, match).items():
                body = await _get(client, url, {"query": promql}, token)
                for labels, value in _decoded(body, url):
                    _add(samples, name, labels, value)
    except TimeoutError:
        raise ScrapeError(f"{place(url)}: no answers to all questions within {ALL_SECONDS:.0f} s") from None
    if not samples.get(("servers", ())):
        raise ScrapeError(f"{place(url)}: it has no metric of Nexus{f' with {match}' if match else ''}")
    return samples


def _decoded(body: bytes, url: str) -> list[tuple[dict[str, str], float]]:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        return [(one.metric, float(one.value[1])) for one in answer.data.result[:MOST_LINES]]
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise ScrapeError(f"{place(url)}: this is no answer of Prometheus' HTTP API") from None


def queries(seconds: float, match: str) -> Mapping[str, str]:
    """What is asked of a Prometheus, by the name its answer gets; raises `ScrapeError` for a bad `match`."""
    ours, theirs = _selectors(match)
    span = f"[{max(1, round(seconds))}s]"
    # So many points at most, whatever the span.
    steps = f"[{max(1, round(seconds))}s:{max(15, round(seconds / _STEPS))}s]"
    asked = {name: _increase(name, ours, span, labels) for name, labels in _COUNTED.items()}
    for name, labels in _GAUGES.items():
        asked[name] = f"max by ({', '.join(labels)}) (max_over_time({name}{ours}{span}))"
    not_free = ours[:-1] + ("," if len(ours) > 2 else "") + 'state!="free"}'
    asked["busy"] = f"max(max_over_time((sum without (state) (nexus_pool_instances{not_free})){steps}))"
    asked["servers"] = f"count(nexus_pool_waiting{ours})"
    return asked | _platform_queries(theirs, span)


def _platform_queries(theirs: str, span: str) -> dict[str, str]:
    """What cAdvisor and kube-state-metrics know of the container and the autoscaler called nexus."""
    asked = {}
    container = f'{{container="nexus"{theirs}}}'
    asked["memory_used"] = f"max(max_over_time(container_memory_working_set_bytes{container}{span}))"
    asked["cpu_used"] = f"max(rate(container_cpu_usage_seconds_total{container}{span}))"
    for kind in ("request", "limit"):
        for resource in ("cpu", "memory"):
            where = f'{{container="nexus",resource="{resource}"{theirs}}}'
            asked[f"{resource}_{kind}"] = f"max(kube_pod_container_resource_{kind}s{where})"
    for resource in ("cpu", "memory"):
        where = f'{{horizontalpodautoscaler="nexus",metric_name="{resource}"'
        where += f',metric_target_type="utilization"{theirs}}}'
        asked[f"{resource}_target"] = f"max(kube_horizontalpodautoscaler_spec_target_metric{where})"
    return asked


_COUNTED: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "nexus_handler_executions_total": ("status",),
        "nexus_handler_execution_seconds_sum": (),
        "nexus_handler_cpu_seconds_sum": (),
        "nexus_errors_total": ("code",),
        "nexus_cache_requests_total": ("tier", "result"),
        "nexus_pool_wait_seconds_bucket": ("le",),
        "nexus_instances_created_total": (),
        "nexus_instances_retired_total": ("reason",),
    }
)
_GAUGES: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "nexus_cache_bytes": ("tier",),
        # Told once in the life of a process: its increase is seldom seen.
        "nexus_cache_degraded_total": ("reason",),
        "nexus_pool_memory_bytes": (),
        "nexus_peak_memory_bytes": (),
    }
)


def _increase(name: str, selector: str, span: str, labels: Sequence[str]) -> str:
    return f"sum by ({', '.join(labels)}) (increase({name}{selector}{span}))"


def _selectors(match: str) -> tuple[str, str]:
    """The selector for our metrics, and what of it also goes for those of the platform."""
    if not match.strip():
        return "{}", ""
    found = []
    for part in match.strip().strip("{}").split(","):
        one = _MATCH.fullmatch(part)
        if one is None:
            raise ScrapeError(f'--match: {match!r} is not allowed; allowed: label="value", more after commas')
        found.append((one[1], f'{one[1]}{one[2]}"{one[3]}"'))
    ours = "{" + ",".join(text for _, text in found) + "}"
    return ours, "".join(f",{text}" for label, text in found if label in _PLATFORM_LABELS)


def _is_state(name: str) -> bool:
    """Whether the latest value counts, and not what was added to it. A cache is given up once, for good."""
    if name in {CACHE_HIT_RATE, "nexus_cache_degraded_total"}:
        return True
    return name in METRICS and METRICS[name].kind == "gauge"


def _add(samples: Samples, name: str, labels: Mapping[str, str], value: float) -> None:
    """Keep a sample whose value can be a count, a size or a time."""
    if any(len(text) > _MOST_LABEL_CHARS for pair in labels.items() for text in pair):
        return
    # NaN fails both comparisons.
    if 0 <= value <= _MOST_VALUE:
        samples[name, tuple(sorted(labels.items()))] = value


def _client() -> httpx.AsyncClient:
    import httpx

    # No proxy and no .netrc of the environment: what is asked, and with which token, is said aloud.
    return httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False, follow_redirects=False)


async def _get(
    client: httpx.AsyncClient, url: str, parameters: Mapping[str, str], token: str | None
) -> bytes:
    """The body of a successful answer, bounded in size and time."""
    import httpx

    where = place(url)
    # Not compressed: a few bytes could become any number of them.
    headers = {"accept-encoding": "identity", **({"authorization": f"Bearer {token}"} if token else {})}
    body = bytearray()
    try:
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            client.stream("GET", url, params=parameters or None, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise ScrapeError(f"{where}: answered with status {response.status_code}{_why(response)}")
            async for chunk in response.aiter_raw(65_536):
                body += chunk
                if len(body) > MOST_BYTES:
                    raise ScrapeError(f"{where}: more than {MOST_BYTES // MIB} MiB are not read")
    except TimeoutError:
        raise ScrapeError(f"{where}: no whole answer within {ANSWER_SECONDS:.0f} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ScrapeError(f"{where}: it cannot be read: {str(error) or type(error).__name__}") from None
    return bytes(body)


def _why(response: httpx.Response) -> str:
    if response.status_code in {401, 403}:
        return "; give a token with the scope `read` by --token or NEXUS_TOKEN"
    if response.is_redirect:
        return "; redirects are not followed: give the address itself"
    return ""


def place(url: str) -> str:
    """A URL as messages show it, without user and password; raises `ScrapeError` when it is none."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts = None
        port = ""
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ScrapeError("an address is http://HOST:PORT/... or https://HOST:PORT/...")
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
