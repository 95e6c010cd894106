"""Reading metrics: what is understood, and what a hostile server or Prometheus cannot do."""

import asyncio
import gzip
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import promql_parser
import pytest

from functions.cli import scrape
from functions.cli.observed import observe, quantile
from functions.cli.scrape import MOST_BYTES, MOST_LINES, ScrapeError, parse_text, queries
from nexus_core.metric_names import METRICS
from tests.cli.answering import Answering, replies, reply

URL = "http://user:password@127.0.0.1:1/metrics?key=secret"
SHOWN = "http://127.0.0.1:1/metrics"


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Starts servers that answer as told; gives their addresses."""
    started: list[Answering] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        started.append(Answering(answer))
        return started[-1].url

    yield start
    for one in started:
        one.close()


def failure(url: str, token: str | None = None) -> str:
    """Why this address cannot be read."""
    with pytest.raises(ScrapeError) as error:
        asyncio.run(scrape.scrape(url, token))
    return error.value.message


def test_only_our_metrics_are_kept() -> None:
    """Samples of other names, and values that are no count, size or time, are left out."""
    lines = (
        'nexus_errors_total{code="TIMEOUT"} 3',
        'other_total{code="TIMEOUT"} 4',
        "servers 5",
        "nexus_pool_waiting NaN",
        "nexus_pool_memory_bytes +Inf",
        "nexus_peak_memory_bytes -1",
        "nexus_instances_created_total 1e300",
        f'nexus_errors_total{{code="{"x" * 201}"}} 6',
    )
    samples = parse_text("\n".join(lines).encode() + b"\n", URL)
    assert samples == {("nexus_errors_total", (("code", "TIMEOUT"),)): 3.0}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "no metric of Nexus"),
        (b"up 1\n", "no metric of Nexus"),
        (b"<html>", "no Prometheus text"),
        (b"nexus_a{", "no Prometheus text"),
        (b"nexus_a \xff", "no Prometheus text"),
        (b"nexus_a 1\n" * (MOST_LINES + 1), "are not read"),
        (b"nexus_a{" + b'l="",' * 2000 + b"} 1\n", "are not read"),
    ],
)
def test_strange_texts_are_refused(body: bytes, word: str) -> None:
    """What is no text of ours is refused, and the message shows no user, password or query."""
    with pytest.raises(ScrapeError) as error:
        parse_text(body, URL)
    assert error.value.message.startswith(f"{SHOWN}: ")
    assert word in error.value.message


def test_an_answer_without_end(answering: Callable[..., str]) -> None:
    """No more than the bound is read of an answer, however much there is."""
    url = answering(reply(200, b"# x\n" * (MOST_BYTES // 2)))
    assert "more than 4 MiB are not read" in failure(url)


def test_a_slow_answer(answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that trickles is given up when its time is over, not when it pauses."""
    monkeypatch.setattr(scrape, "ANSWER_SECONDS", 0.3)
    over = threading.Event()

    def trickle(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.end_headers()
        while not over.wait(0.02):
            to.wfile.write(b"#\n")

    try:
        assert "no whole answer within 0 s" in failure(answering(trickle))
    finally:
        over.set()


def test_compression_is_not_undone(answering: Callable[..., str]) -> None:
    """A compressed answer, which nobody asked for, is not blown up."""
    url = answering(reply(200, gzip.compress(b"#" * MOST_BYTES), content_encoding="gzip"))
    assert "no Prometheus text" in failure(url)


def test_a_redirect_gets_no_token(answering: Callable[..., str]) -> None:
    """Redirects are refused, so that a token goes to the address that was given and nowhere else."""
    asked: list[str] = []
    other = answering(lambda to: asked.append(to.path))
    message = failure(answering(reply(302, b"", location=other)), "token")
    assert "answered with status 302; redirects are not followed" in message
    assert asked == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:80", "http://", "http://[", "http://a:b/"])
def test_no_address(url: str) -> None:
    """What is no address of HTTP is refused as such."""
    assert failure(url) == "an address is http://HOST:PORT/... or https://HOST:PORT/..."


def test_what_is_counted_between_two_readings(answering: Callable[..., str]) -> None:
    """Counters give their difference, gauges the larger value, and what was given up stays given up."""
    given_up = b'nexus_cache_degraded_total{reason="full"} 1\n'
    before = b"nexus_pool_waiting 4\nnexus_cache_hit_rate 0.9\nnexus_instances_created_total 5\n"
    after = b"nexus_pool_waiting 1\nnexus_cache_hit_rate 0.5\nnexus_instances_created_total 7\n"
    url = answering(replies(before + given_up, after + given_up))
    samples = asyncio.run(scrape.scrape_twice(url, None, 0.01))
    assert samples["nexus_pool_waiting", ()] == 4
    assert samples["nexus_instances_created_total", ()] == 2
    assert observe(samples, 0.01).degraded == {"full": 1.0}


def test_a_server_that_was_started_anew(answering: Callable[..., str]) -> None:
    """A counter that went back means another process: nothing can be said of the span."""
    url = answering(replies(b"nexus_instances_created_total 5\n", b"nexus_instances_created_total 4\n"))
    with pytest.raises(ScrapeError, match="started anew"):
        asyncio.run(scrape.scrape_twice(url, None, 0.01))


@pytest.mark.parametrize("match", ["", 'namespace="prod"', '{namespace=~"a|b", pod!="x",job="nexus"}'])
def test_the_queries_are_promql(match: str) -> None:
    """Every query can be parsed, and each metric of ours in it exists."""
    names = {name for metric in METRICS for name in (metric, f"{metric}_sum", f"{metric}_bucket")}
    for name, query in queries(3600, match).items():
        promql_parser.parse(query)
        if name.startswith("nexus_"):
            assert name in names
            assert f"{name}{{" in query
            assert ('namespace="prod"' in query) == ("prod" in match)


def test_only_the_place_of_a_match_goes_for_the_platform() -> None:
    """Of --match the namespace narrows the platform's metrics too, a label such as job does not."""
    asked = queries(60, 'namespace="prod",job="nexus"')
    assert 'namespace="prod"' in asked["memory_limit"]
    assert "job" not in asked["memory_limit"]
    assert 'nexus_pool_instances{namespace="prod",job="nexus",state!="free"}' in asked["busy"]


@pytest.mark.parametrize("match", ["namespace", 'a="b"} or up{c="d"', 'a="\\"', "a=b", 'a="b"c="d"'])
def test_a_match_that_is_none(match: str) -> None:
    """What is no list of labels is refused before anything is asked."""
    with pytest.raises(ScrapeError, match="--match"):
        queries(60, match)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"data":{"result":[{"metric":{},"value":[1,"many"]}]}}',
        b'{"data":{"result":[{"metric":{},"value":[1]}]}}',
        b'{"status":"error","error":"no"}',
        b'{"data":' * 100_000,
    ],
)
def test_a_strange_prometheus(answering: Callable[..., str], body: bytes) -> None:
    """Answers of any other form are refused."""
    url = answering(reply(200, body))
    with pytest.raises(ScrapeError, match="no answer of Prometheus"):
        asyncio.run(scrape.query(url, None, 60, ""))


def test_a_prometheus_without_nexus(answering: Callable[..., str]) -> None:
    """A Prometheus that has none of our metrics is told from one where nothing happened."""
    url = answering(reply(200, b'{"status":"success","data":{"resultType":"vector","result":[]}}'))
    with pytest.raises(ScrapeError, match='no metric of Nexus with namespace="x"'):
        asyncio.run(scrape.query(url, None, 60, 'namespace="x"'))


def test_a_slow_prometheus(answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All questions together have a bound too."""
    monkeypatch.setattr(scrape, "ALL_SECONDS", 0.2)
    over = threading.Event()
    url = answering(lambda _to: (over.wait(20), None)[1])
    try:
        with pytest.raises(ScrapeError, match="all questions"):
            asyncio.run(scrape.query(url, None, 60, ""))
    finally:
        over.set()


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 1 + 2 * 25 / 37.5), (0.875, 3.0), (1.0, 3.0)],
)
def test_quantiles(share: float, expected: float) -> None:
    """Within a bucket values are spread evenly, as Prometheus has it; above the last bound is that bound."""
    buckets = ((1.0, 50.0), (3.0, 87.5), (math.inf, 100.0))
    found = quantile(buckets, share)
    assert found is not None
    assert abs(found - expected) < 1e-9


def test_no_quantile_of_nothing() -> None:
    """Without values there is no quantile, whatever the buckets."""
    assert quantile((), 0.5) is None
    assert quantile(((1.0, 0.0), (math.inf, 0.0)), 0.5) is None
