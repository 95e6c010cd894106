"""HttpClient: where it connects, and how its connections are shared."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nexus_core.config import RuntimeConfig
from nexus_core.extensions.egress import EgressRules
from nexus_core.extensions.http import HttpExtension
from nexus_core.extensions.http_client import MAX_HANDLER_REQUESTS, MAX_LANES
from tests.extensions.loopback import DATA, Received, Serve, plain
from tests.extensions.names import call_of
from tests.extensions.sender import PRIVATE, Sender, failure_of, request_of

# Where it connects


async def test_a_name_is_looked_up_by_us_and_dialled_at_its_checked_address(
    sender: Sender, serve: Serve
) -> None:
    """The server is reached under the name's address and told the name."""
    server = await serve(plain(b"hi"))
    answer = await sender.get(f"http://API.test:{server.port}/x")
    assert (answer.body, answer.url) == (b"hi", f"http://api.test:{server.port}/x")
    assert server.received[0].headers["host"] == f"api.test:{server.port}"
    assert sender.names.asked == ["api.test"]


@pytest.mark.parametrize("host", ["inside.test", "mixed.test", PRIVATE])
async def test_a_name_with_a_forbidden_address_is_never_dialled(
    sender: Sender, serve: Serve, host: str
) -> None:
    """Neither a private address nor a public one beside it sees a connection."""
    public = await serve(plain())
    private = await serve(plain(), host=PRIVATE, port=public.port)
    error = await failure_of(sender.get(f"http://{host}:{public.port}/"))
    assert error.name == "EgressDenied"
    assert host == PRIVATE or PRIVATE not in error.message
    assert (public.connections, private.connections) == (0, 0)


async def test_a_name_that_changes_after_the_check_leads_nowhere_else(serve: Serve) -> None:
    """One look-up decides: rebinding the name between check and connection changes nothing."""
    public = await serve(plain(b"public"))
    private = await serve(plain(b"private"), host=PRIVATE, port=public.port)
    sender = Sender(rebind_test=[["127.0.0.1"], [PRIVATE]])
    answer = await sender.get(f"http://rebind.test:{public.port}/")
    assert (answer.body, private.connections) == (b"public", 0)
    error = await failure_of(sender.get(f"http://rebind.test:{public.port}/", handler="another"))
    assert error.name == "EgressDenied"
    await sender.client.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]", "169.254.169.254", "[fd00:ec2::254]", "10.0.0.1"])
async def test_the_real_policy_refuses_what_is_not_public(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the operator's will, an allow-list cannot open loopback, metadata or private networks."""
    extension = HttpExtension(RuntimeConfig())
    call = call_of("get", f"http://{address}/", settings={"allow": [address]}, request_id="r9")
    error = await failure_of(extension.methods["get"](call))
    assert error.name == "EgressDenied"
    assert "egress refused" in caplog.text
    assert "r9" in caplog.text
    await extension.close()


async def test_localhost_is_refused_by_its_address() -> None:
    """The system's own names are checked like all others."""
    extension = HttpExtension(RuntimeConfig())
    call = call_of("get", "http://localhost/", settings={"allow": ["localhost"]})
    assert (await failure_of(extension.methods["get"](call))).name == "EgressDenied"
    await extension.close()


async def test_a_host_that_is_not_on_the_list_is_not_even_looked_up(sender: Sender) -> None:
    """A refused name does not reach the name service, which could carry a message out."""
    rules = EgressRules.parse(["api.test"])
    error = await failure_of(sender.client.send(request_of("http://secret.evil.test/"), rules, "hello"))
    assert (error.name, sender.names.asked) == ("EgressDenied", [])
    assert "secret.evil.test" in error.message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.test/x",
        "//api.test/x",
        "ftp://api.test/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://user:secret@api.test/",
        "http://api.test@evil.test/",
        "http://api.test\\@evil.test/",
        "http://api.test:99999/",
        "http://api.test:x/",
        "http://api.test\r\nHost: evil/",
        "http://api.test/\x00",
        "http://a b/",
        "http://[::1/",
        "http://\ud800.test/",
        "unix:///var/run/docker.sock",
        "http://" + "a" * 300 + "/",
    ],
)
async def test_an_address_that_is_none_is_refused(sender: Sender, url: str) -> None:
    """Other schemes, hidden users and broken URLs are wrong arguments; nothing is looked up."""
    rules = EgressRules.parse(["api.test", "evil.test"])
    error = await failure_of(sender.client.send(request_of(url), rules, "hello"))
    assert error.name in {"TypeError", "EgressDenied"}
    assert sender.names.asked == []


async def test_the_second_address_is_tried_when_the_first_does_not_answer(serve: Serve) -> None:
    """A name with several addresses is reached as long as one of them works."""
    server = await serve(plain(b"hi"))
    sender = Sender(two_test=[["127.0.0.3", "127.0.0.1"]])
    assert (await sender.get(f"http://two.test:{server.port}/")).body == b"hi"
    await sender.client.close()


async def test_failures_tell_nothing_of_addresses(sender: Sender, serve: Serve) -> None:
    """A name that does not exist and a port nobody listens on give plain messages."""
    server = await serve(plain())
    await server.stop()
    refused = await failure_of(sender.get(f"http://api.test:{server.port}/"))
    assert (refused.name, refused.message) == ("HttpError", f"could not connect to api.test:{server.port}")
    rules = EgressRules.parse(["nowhere.test"])
    unknown = await failure_of(sender.client.send(request_of("http://nowhere.test/"), rules, "hello"))
    assert (unknown.name, unknown.message) == ("HttpError", "host 'nowhere.test' could not be resolved")


# TLS


async def test_https_checks_the_certificate_against_the_name(serve: Serve) -> None:
    """The name is proven although the address was dialled, and a wrong name or authority is refused."""
    server = await serve(plain(b"secure"), secure=True)
    trusting = ssl.create_default_context(cafile=str(DATA / "api.test.pem"))
    sender = Sender(trusting)
    assert (await sender.get(f"https://api.test:{server.port}/")).body == b"secure"
    wrong_name = await failure_of(sender.get(f"https://other.test:{server.port}/"))
    await sender.client.close()
    stranger = Sender()
    wrong_authority = await failure_of(stranger.get(f"https://api.test:{server.port}/"))
    await stranger.client.close()
    assert wrong_name.name == wrong_authority.name == "HttpError"
    assert len(server.received) == 1


# Many


async def test_many_at_once_each_get_their_own_answer(sender: Sender, serve: Serve) -> None:
    """Requests beyond the connections of a handler wait and none is crossed."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0)
        await plain(request.path.encode())(request, writer)

    server = await serve(answer)
    paths = [f"/{number}" for number in range(300)]
    answers = await asyncio.gather(*(sender.get(f"http://api.test:{server.port}{path}") for path in paths))
    assert [answer.body.decode() for answer in answers] == paths
    assert server.connections <= MAX_HANDLER_REQUESTS


async def test_connections_are_kept_for_one_handler_and_shared_with_none(
    sender: Sender, serve: Serve
) -> None:
    """A second call reuses the connection; another handler opens its own."""
    server = await serve(plain())
    url = f"http://api.test:{server.port}/"
    await sender.get(url)
    await sender.get(url)
    assert server.connections == 1
    await sender.get(url, handler="another")
    assert server.connections == 2


async def test_connections_of_handlers_that_rest_are_closed(sender: Sender, serve: Serve) -> None:
    """However many handlers there are, only those used last keep connections."""
    server = await serve(plain())
    url = f"http://api.test:{server.port}/"
    for number in range(MAX_LANES + 1):
        await sender.get(url, handler=f"h{number}")
    await sender.get(url, handler="h1")
    assert server.connections == MAX_LANES + 1
    await sender.get(url, handler="h0")
    assert server.connections == MAX_LANES + 2


async def test_a_client_goes_on_after_it_let_go_of_its_connections(serve: Serve) -> None:
    """What is disconnected opens a new connection at the next request, in the extension as well."""
    server = await serve(plain(b"hi"))
    extension = HttpExtension(RuntimeConfig(egress_allow_private=True))
    await extension.disconnect()
    settings = {"allow": [f"127.0.0.1:{server.port}"]}
    for connections in (1, 2):
        for _ in range(2):
            call = call_of("get", f"http://127.0.0.1:{server.port}/", settings=settings)
            answer = await extension.methods["get"](call)
            assert (answer["body"], server.connections) == ("hi", connections)
        await extension.disconnect()
        await server.idle()
    await extension.close()


async def test_a_connection_that_the_server_closed_is_replaced(sender: Sender, serve: Serve) -> None:
    """A kept connection that has gone meanwhile is noticed before it is used."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        await plain(b"hi")(request, writer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await serve(answer)
    url = f"http://api.test:{server.port}/"
    for _ in range(20):
        assert (await sender.get(url)).body == b"hi"
        await server.idle()


class Greeter(BaseHTTPRequestHandler):
    """Answers "hi" and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Say nothing."""


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_client_outlives_its_event_loop() -> None:
    """A host that runs one loop per call can use one client for all: no dead connection is reused."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Greeter)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"127.0.0.1:{server.server_port}"
    extension = HttpExtension(RuntimeConfig(egress_allow_private=True))
    call = call_of("get", f"http://{address}/", settings={"allow": [address]})

    async def once(extension: HttpExtension) -> object:
        return (await extension.methods["get"](call))["body"]

    try:
        assert [asyncio.run(once(extension)) for _ in range(3)] == ["hi"] * 3
        asyncio.run(extension.close())
        # Connections of closed loops are dropped; let them go while their warning is expected.
        del extension
        gc.collect()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
