"""`nexus tune` against a real server, and against the HTTP API of a Prometheus."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cli.answering import Answering, reply
from tests.cli.command import Command
from tests.http.serving import SECRET, Server, read_response, request_bytes, serving, token

MIB = 1024 * 1024
CALLS = 1000
BATCHES = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A server that demands tokens and was called so often that advice is given."""
    folder = tmp_path_factory.mktemp("server")
    handlers = folder / "handlers"
    handlers.mkdir()
    (handlers / "one.js").write_text("export default () => 1;")
    (handlers / "big.js").write_text("export default () => 'x'.repeat(1e9);")
    settings = {"handlers_dir": handlers, "cache_dir": cache, "jwt_secret": SECRET, "log_level": "error"}
    with serving(folder, **settings) as running:
        headers = f"Authorization: Bearer {token()}\r\n"
        requests = [request_bytes(f"/invoke/{name}", headers=headers) for name in ("one", "big")]
        with running.connect() as connection, connection.makefile("rb") as answers:
            # Many at once, which takes a fraction of the time.
            for _ in range(BATCHES):
                connection.sendall(requests[0] * (CALLS // BATCHES - 1) + requests[1])
                for _ in range(CALLS // BATCHES):
                    read_response(answers)
        yield running


class Api(Answering):
    """The API of a Prometheus that knows these values, by the beginning of the query."""

    def __init__(self, known: dict[str, list[tuple[dict[str, str], float]]]) -> None:
        self.asked: list[tuple[str, str | None]] = []

        def answer(to: BaseHTTPRequestHandler) -> None:
            url = urlsplit(to.path)
            (query,) = parse_qs(url.query)["query"]
            self.asked.append((query, to.headers["authorization"]))
            assert url.path == "/prom/api/v1/query"
            found = next((values for part, values in known.items() if part in query), [])
            result = [{"metric": labels, "value": [1.5, str(value)]} for labels, value in found]
            body = {"status": "success", "data": {"resultType": "vector", "result": result}}
            reply(200, json.dumps(body).encode())(to)

        super().__init__(answer)
        self.base = self.url.replace("/metrics", "/prom/")


@pytest.fixture
def prometheus() -> Iterator[Api]:
    """A Prometheus with two pods of a crowded Nexus, and metrics of the platform."""
    api = Api(
        {
            "nexus_handler_executions_total": [({"status": "success"}, 9900.0), ({"status": "error"}, 100.0)],
            "nexus_handler_execution_seconds_sum": [({}, 1000.0)],
            "nexus_handler_cpu_seconds_sum": [({}, 100.0)],
            "nexus_errors_total": [({"code": "POOL_EXHAUSTED"}, 100.0)],
            "nexus_cache_requests_total": [({"tier": "memory", "result": "hit"}, 10_000.0)],
            "nexus_pool_wait_seconds_bucket": [
                ({"le": "+Inf"}, 10_000.0), ({"le": "0.5"}, 10_000.0), ({"le": "0.001"}, 5000.0)
            ],
            "without (state)": [({}, 10.0)],
            "count(nexus_pool_waiting": [({}, 2.0)],
            "container_memory_working_set_bytes": [({}, 950.0 * MIB)],
            'resource_limits{container="nexus",resource="memory"': [({}, 1024.0 * MIB)],
        }
    )  # fmt: skip
    yield api
    api.close()


def test_a_server_since_its_start(nexus: Command, server: Server) -> None:
    """What a real server counted is read with a token, and judged by the settings of this shell."""
    done = nexus("tune", server.url, "--json", NEXUS_TOKEN=token("read"))
    tuned = json.loads(done.out)
    assert (done.code, tuned["source"], tuned["seconds"]) == (0, f"{server.url}/metrics", None)
    assert (tuned["calls"], tuned["servers"], tuned["assumed"]["max_instances"]) == (CALLS, 1, 10)
    change = {one["setting"]: one for one in tuned["tuning"]["change"]}
    assert set(change) == {"memory_limit_bytes"}
    assert (change["memory_limit_bytes"]["now"], change["memory_limit_bytes"]["to"]) == ("32 MiB", "64 MiB")
    assert 'code="MEMORY_LIMIT"} = 5 of 1,000 calls' in change["memory_limit_bytes"]["rests_on"][0]
    assert {one["setting"] for one in tuned["tuning"]["unknown"]} == {
        "workers",
        "requests, limits and HPA targets",
    }


def test_it_is_told_to_people(nexus: Command, server: Server) -> None:
    """Advice is words: from what to what, because of what, and the metrics it rests on."""
    done = nexus("tune", f"{server.url}/metrics", "--token", token("read"), "--pod", "cpu_limit=500m")
    lines = done.out.splitlines()
    assert lines[0] == f"{server.url}/metrics: 1,000 calls since its start, 1 server"
    assert "change  memory_limit_bytes: 32 MiB -> 64 MiB" in lines
    assert "change  cpu limit: 500m -> 1000m" in lines
    assert [line.split(":")[0] for line in lines[-2:]] == [
        "unknown workers",
        "unknown requests, limits and HPA targets",
    ]
    assert done.err == "2 to change, 2 unknown\n"


def test_a_span_without_calls(nexus: Command, server: Server) -> None:
    """With a window only what is counted in it counts, and of too few calls nothing is said."""
    done = nexus("tune", server.url, "--window", "1s", "--token", token("read"))
    assert done.out.splitlines()[0] == f"{server.url}/metrics: 0 calls in 1 s, 1 server"
    assert "nothing to change" in done.out
    assert "0 calls so far; 1,000 are needed" in done.out


@pytest.mark.parametrize(
    ("given", "status"), [({}, 401), ({"NEXUS_TOKEN": "nonsense"}, 401), ({"NEXUS_TOKEN": "scope"}, 403)]
)
def test_a_server_that_demands_another_token(
    nexus: Command, server: Server, given: dict[str, str], status: int
) -> None:
    """A server that does not let us read exits with 2 and names what it wants."""
    if given.get("NEXUS_TOKEN") == "scope":
        given = {"NEXUS_TOKEN": token("invoke:*")}
    done = nexus("tune", server.url, stdin=b"", **given)
    assert (done.code, done.out) == (2, "")
    assert f"answered with status {status}; give a token with the scope `read`" in done.err


def test_a_prometheus(nexus: Command, prometheus: Api) -> None:
    """All servers of a Prometheus are judged over the window, with what the platform knows of the pods."""
    done = nexus(
        "tune", "--prometheus", prometheus.base, "--window", "2h", "--match", 'namespace="prod"',
        "--token", "abc", "--json",
    )  # fmt: skip
    tuned = json.loads(done.out)
    assert (tuned["calls"], tuned["servers"], tuned["seconds"]) == (10_000, 2, 7200.0)
    assert tuned["source"] == prometheus.base
    change = {one["setting"]: (one["now"], one["to"]) for one in tuned["tuning"]["change"]}
    assert change == {"max_instances": ("10", "20"), "memory limit": ("1 GiB", "1.438 GiB")}
    assert {header for _, header in prometheus.asked} == {"Bearer abc"}
    assert all('namespace="prod"' in query for query, _ in prometheus.asked)
    assert any("[7200s]" in query for query, _ in prometheus.asked)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("http://127.0.0.1:1", "--prometheus", "http://127.0.0.1:1"), "not both"),
        (("http://127.0.0.1:1", "--match", 'a="b"'), "--match is for --prometheus"),
        (("http://127.0.0.1:1", "--window", "11m"), "at most 10m"),
        (("http://127.0.0.1:1", "--window", "0s"), "'0s' is not allowed"),
        (("http://127.0.0.1:1", "--window", "1 hour"), "'1 hour' is not allowed"),
        (("http://127.0.0.1:1", "--pod", "memory=1"), "'memory=1' is not allowed"),
        (("http://127.0.0.1:1", "--pod", "memory_used=1Ti"), "is not allowed"),
        (("http://127.0.0.1:1", "--token", "a\nb"), "printable ASCII"),
        (("http://127.0.0.1:1",), "it cannot be read"),
        (("http://[",), "URL is http://HOST:PORT"),
    ],
)
def test_what_does_not_fit_together(nexus: Command, arguments: tuple[str, ...], word: str) -> None:
    """Options that contradict each other, and an address where nobody listens, exit with 2 and say why."""
    done = nexus("tune", *arguments)
    assert (done.code, done.out) == (2, "")
    assert word in " ".join(done.err.split())
