"""`$ext.http`: what a guest may ask for, and what an answer looks like to it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.config import RuntimeConfig
from nexus_core.errors import InvalidHandler
from nexus_core.extensions.base import ExtensionCall, ExtensionError
from nexus_core.extensions.http import HttpExtension
from nexus_core.extensions.http_request import (
    DEFAULT_TIMEOUT_SECONDS,
    MAX_HEADERS,
    MAX_REQUEST_BYTES,
    MAX_URL_CHARS,
    HttpRequest,
    read_request,
)
from tests.extensions.loopback import Received, Serve, plain
from tests.extensions.names import call_of


@pytest.fixture
async def http() -> AsyncIterator[HttpExtension]:
    """The extension of a developer's machine, where loopback may be reached."""
    extension = HttpExtension(RuntimeConfig(egress_allow_private=True, http_max_response_bytes=10_000))
    yield extension
    await extension.close()


async def send(extension: HttpExtension, method: str, url: str, *options: Any, **changes: Any) -> Any:
    """Call a method for a handler that may reach any port this test uses on loopback."""
    port = url.split("/")[2].rpartition(":")[2]
    given_call = {"settings": {"allow": [f"127.0.0.1:{port}"]}} | changes
    return await extension.methods[method](call_of(method, url, *options, **given_call))


async def test_get_gives_status_headers_and_parsed_json(http: HttpExtension, serve: Serve) -> None:
    """A JSON answer arrives parsed; the server meets an ordinary request."""
    server = await serve(plain(b'{"name":"bob"}', headers=[("Content-Type", "application/json")]))
    url = f"http://127.0.0.1:{server.port}/users/1?full=1#part"
    answer = await send(http, "get", url, {"headers": {"X-Trace": "7", "X-Number": 3}})
    assert answer == {
        "status": 200,
        "url": url.removesuffix("#part"),
        "headers": {"content-type": "application/json", "content-length": "14"},
        "body": {"name": "bob"},
        "bodyEncoding": "json",
    }
    [request] = server.received
    assert (request.method, request.path, request.body) == ("GET", "/users/1?full=1", b"")
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "*/*",
        "accept-encoding": "gzip",
        "user-agent": "nexus",
        "x-trace": "7",
        "x-number": "3",
    }


@pytest.mark.parametrize("method", ["get", "head", "post", "put", "patch", "delete"])
async def test_each_method_sends_itself(http: HttpExtension, serve: Serve, method: str) -> None:
    """Every name under `$ext.http` is the method it sends; a status such as 404 is an answer."""
    server = await serve(plain(status="404 Not Found"))
    answer = await send(http, method, f"http://127.0.0.1:{server.port}/")
    assert (answer["status"], answer["body"], answer["bodyEncoding"]) == (404, "", "text")
    [request] = server.received
    assert request.method == method.upper()
    assert ("content-length" in request.headers) == (method in {"post", "put", "patch"})


async def test_request_takes_the_method_as_an_option(http: HttpExtension, serve: Serve) -> None:
    """`request` sends OPTIONS and the like; without the option it is a GET."""
    server = await serve(plain())
    url = f"http://127.0.0.1:{server.port}/"
    await send(http, "request", url, {"method": "OPTIONS"})
    await send(http, "request", url)
    assert [request.method for request in server.received] == ["OPTIONS", "GET"]


@pytest.mark.parametrize(
    ("options", "content_type", "body"),
    [
        ({"json": {"a": [1, None]}}, "application/json", b'{"a":[1,null]}'),
        ({"json": None}, "application/json", b"null"),
        ({"body": "gr\u00fc\u00df"}, "text/plain;charset=UTF-8", "gr\u00fc\u00df".encode()),
        ({"body": "/wA=", "bodyEncoding": "base64"}, "application/octet-stream", b"\xff\x00"),
        ({"body": "<a/>", "headers": {"Content-Type": "text/xml"}}, "text/xml", b"<a/>"),
    ],
)
async def test_bodies_are_sent_with_their_type(
    http: HttpExtension, serve: Serve, options: dict[str, Any], content_type: str, body: bytes
) -> None:
    """JSON, text and bytes each get a fitting type, which the guest may replace."""
    server = await serve(plain())
    await send(http, "post", f"http://127.0.0.1:{server.port}/", options)
    [request] = server.received
    assert (request.headers["content-type"], request.body) == (content_type, body)


@pytest.mark.parametrize(
    ("content_type", "content", "body", "encoding"),
    [
        ("application/json; charset=utf-8", b"[1]", [1], "json"),
        ("application/problem+json", b'"x"', "x", "json"),
        ("application/json", b"{broken", "{broken", "text"),
        ("application/json", b"[" * 9000, "[" * 9000, "text"),
        ("application/json", b"", "", "text"),
        ("application/jsonlines", b"[1]", "[1]", "text"),
        ("text/plain", "gr\u00fc\u00df".encode(), "gr\u00fc\u00df", "text"),
        ("text/plain; charset=latin-1", b"gr\xfc", base64.b64encode(b"gr\xfc").decode(), "base64"),
        ("image/png", b"\x89PNG\xff", base64.b64encode(b"\x89PNG\xff").decode(), "base64"),
    ],
)
async def test_bodies_arrive_as_json_text_or_base64(
    http: HttpExtension, serve: Serve, content_type: str, content: bytes, body: Any, encoding: str
) -> None:
    """The type and the bytes decide, and a type that lies falls back to text."""
    server = await serve(plain(content, headers=[("Content-Type", content_type)]))
    answer = await send(http, "get", f"http://127.0.0.1:{server.port}/")
    assert (answer["body"], answer["bodyEncoding"]) == (body, encoding)


async def test_repeated_headers_are_joined_but_cookies_stay_apart(http: HttpExtension, serve: Serve) -> None:
    """Cookies hold commas, so each keeps its own place."""
    repeated = [("Vary", "a"), ("vary", "b"), ("Set-Cookie", "a=1, 2"), ("set-cookie", "b=2")]
    server = await serve(plain(headers=repeated))
    answer = await send(http, "get", f"http://127.0.0.1:{server.port}/")
    assert answer["headers"]["vary"] == "a, b"
    assert answer["headers"]["set-cookie"] == ["a=1, 2", "b=2"]


async def test_cookies_are_not_kept_between_calls(http: HttpExtension, serve: Serve) -> None:
    """What one call was given to keep, the next does not send."""
    server = await serve(plain(headers=[("Set-Cookie", "session=secret; Path=/")]))
    for _ in range(2):
        await send(http, "get", f"http://127.0.0.1:{server.port}/")
    assert "cookie" not in server.received[1].headers


async def test_proxies_of_the_environment_are_ignored(
    http: HttpExtension, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect past our checks."""
    proxy = await serve(plain(b"proxy"))
    server = await serve(plain(b"server"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert (await send(http, "get", f"http://127.0.0.1:{server.port}/"))["body"] == "server"
    assert proxy.connections == 0


async def test_gzip_is_decoded(http: HttpExtension, serve: Serve) -> None:
    """A compressed answer arrives decoded, several members included."""
    content = gzip.compress(b"hello ") + gzip.compress(b"world")
    server = await serve(plain(content, headers=[("Content-Encoding", "GZIP")]))
    assert (await send(http, "get", f"http://127.0.0.1:{server.port}/"))["body"] == "hello world"


async def test_an_unknown_encoding_arrives_as_it_came(http: HttpExtension, serve: Serve) -> None:
    """What we did not ask for and cannot decode is the guest's to handle."""
    server = await serve(plain(b"\x8b\x02\x80", headers=[("Content-Encoding", "br")]))
    answer = await send(http, "get", f"http://127.0.0.1:{server.port}/")
    assert answer["bodyEncoding"] == "base64"


async def test_an_answer_until_the_connection_ends_is_whole(http: HttpExtension, serve: Serve) -> None:
    """A body without a length ends with its connection."""

    async def answer(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        writer.close()

    server = await serve(answer)
    assert (await send(http, "get", f"http://127.0.0.1:{server.port}/"))["body"] == "all of it"


async def test_the_trace_context_is_passed_on(http: HttpExtension, serve: Serve) -> None:
    """A well-formed traceparent goes along; a forged one, which the caller chose, does not."""
    server = await serve(plain())
    url = f"http://127.0.0.1:{server.port}/"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await send(http, "get", url, traceparent=trace)
    await send(http, "get", url, traceparent=f"{trace}\r\nX-Evil: 1")
    assert [request.headers.get("traceparent") for request in server.received] == [trace, None]


def test_the_extension_is_light_until_it_is_used() -> None:
    """Neither importing nor making it loads the HTTP client."""
    program = (
        "import sys\n"
        "from nexus_core.config import RuntimeConfig\n"
        "from nexus_core.extensions.registry import ExtensionRegistry\n"
        "ExtensionRegistry(RuntimeConfig()).check_settings({'http': {'allow': ['a.example.com']}})\n"
        "assert not {'httpx', 'httpcore', 'importlib.metadata'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# Arguments: any JSON may come


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "one or two arguments"),
        (("http://a.test", {}, {}), "one or two arguments"),
        ((1,), "url must be a string"),
        (("x" * (MAX_URL_CHARS + 1),), "url must be a string of at most"),
        (("http://a.test", "get"), "options must be an object"),
        (("http://a.test", {"heders": {}}), "unknown option 'heders'"),
        (("http://a.test", {"method": "PUT"}), "unknown option 'method'"),
        (("http://a.test", {"headers": []}), "headers must be an object"),
        (("http://a.test", {"headers": {f"x{i}": "" for i in range(MAX_HEADERS + 1)}}), "at most"),
        (("http://a.test", {"headers": {"a": "x" * 40_000}}), "characters together"),
        (("http://a.test", {"headers": {"a b": "1"}}), "header name 'a b'"),
        (("http://a.test", {"headers": {"": "1"}}), "header name ''"),
        (("http://a.test", {"headers": {"a\r\nb": "1"}}), "header name"),
        (("http://a.test", {"headers": {"A": "1", "a": "2"}}), "given twice"),
        (("http://a.test", {"headers": {"a": None}}), "must be a string or a whole number"),
        (("http://a.test", {"headers": {"a": True}}), "must be a string or a whole number"),
        (("http://a.test", {"headers": {"a": 10**5000}}), "must be a string or a whole number"),
        (("http://a.test", {"headers": {"a": "1\r\nX-Evil: 1"}}), "may not hold"),
        (("http://a.test", {"headers": {"a": "1\n"}}), "may not hold"),
        (("http://a.test", {"headers": {"a": "1\x00"}}), "may not hold"),
        (("http://a.test", {"headers": {"a": "\u20ac"}}), "may not hold"),
        (("http://a.test", {"body": "x", "json": 1}), "either body or json"),
        (("http://a.test", {"body": 1}), "body must be a string"),
        (("http://a.test", {"body": "x", "bodyEncoding": "hex"}), "bodyEncoding"),
        (("http://a.test", {"body": "x", "bodyEncoding": []}), "bodyEncoding"),
        (("http://a.test", {"body": "%", "bodyEncoding": "base64"}), "cannot be encoded"),
        (("http://a.test", {"body": "\ud800"}), "cannot be encoded"),
        (("http://a.test", {"json": "\ud800"}), "cannot be encoded"),
        (("http://a.test", {"body": "x" * (MAX_REQUEST_BYTES + 1)}), "at most"),
        (("http://a.test", {"timeoutMs": 0}), "timeoutMs"),
        (("http://a.test", {"timeoutMs": "1"}), "timeoutMs"),
        (("http://a.test", {"timeoutMs": True}), "timeoutMs"),
        (("http://a.test", {"timeoutMs": float("nan")}), "timeoutMs"),
    ],
)
def test_wrong_arguments_are_a_type_error(args: tuple[Any, ...], message: str) -> None:
    """Each is refused with a message that names what is wrong."""
    with pytest.raises(ExtensionError, match=message) as caught:
        read_request("POST", call_of("post", *args))
    assert caught.value.name == "TypeError"


@pytest.mark.parametrize(
    "name",
    ["Host", "connection", "Content-Length", "Transfer-Encoding", "upgrade", "TE", "Proxy-Authorization"],
)
def test_headers_that_frame_the_message_may_not_be_set(name: str) -> None:
    """A guest can neither smuggle a second request nor name another host."""
    with pytest.raises(ExtensionError, match="may not be set"):
        read_request("GET", call_of("get", "http://a.test", {"headers": {name: "x"}}))


@pytest.mark.parametrize("method", ["BREW", "get", "GET /x HTTP/1.1\r\n", None, 1, "CONNECT", "TRACE"])
def test_only_known_methods_are_sent(method: Any) -> None:
    """The method is one of a list, letter for letter."""
    with pytest.raises(ExtensionError, match="method must be one of"):
        read_request(None, call_of("request", "http://a.test", {"method": method}))


def test_a_get_has_no_body() -> None:
    """A body where none belongs is refused instead of dropped."""
    with pytest.raises(ExtensionError, match="has no body"):
        read_request("GET", call_of("get", "http://a.test", {"body": "x"}))


@pytest.mark.parametrize(
    ("options", "remaining", "seconds"),
    [
        ({}, None, DEFAULT_TIMEOUT_SECONDS),
        ({}, 3.0, 3.0),
        ({"timeoutMs": 500}, 3.0, 0.5),
        ({"timeoutMs": 5000}, 3.0, 3.0),
        ({"timeoutMs": 60_000}, None, 60.0),
    ],
)
def test_the_time_is_the_least_of_what_is_left_and_asked_for(
    options: dict[str, Any], remaining: float | None, seconds: float
) -> None:
    """A guest can shorten its time, never lengthen it."""
    request = read_request("GET", call_of("get", "http://a.test", options, remaining_seconds=remaining))
    assert request.timeout_seconds == seconds


def test_a_body_of_exactly_the_limit_is_sent() -> None:
    """The limit itself is allowed."""
    request = read_request("POST", call_of("post", "http://a.test", {"body": "x" * MAX_REQUEST_BYTES}))
    assert request.body is not None
    assert len(request.body) == MAX_REQUEST_BYTES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("headers", "body", "bodyEncoding", "json", "timeoutMs", "method"), JSON),
)


@given(st.lists(JSON | OPTIONS, max_size=3), st.sampled_from([None, "GET", "POST"]))
def test_any_json_is_a_request_or_a_type_error(args: list[Any], method: str | None) -> None:
    """Nothing a guest hands over raises anything else, and what passes has clean headers."""
    outcome = outcome_of(method, args)
    if isinstance(outcome, ExtensionError):
        assert outcome.name == "TypeError"
    else:
        for name, value in outcome.headers.items():
            line = f"{name}: {value}".encode("latin-1")
            assert not {0, 10, 13} & set(line)


def outcome_of(method: str | None, args: list[Any]) -> HttpRequest | ExtensionError:
    """What `read_request` returns or raises."""
    try:
        return read_request(method, call_of("request", *args))
    except ExtensionError as error:
        return error


# Settings


def test_settings_hold_an_allow_list_and_nothing_else() -> None:
    """A misspelt key would otherwise silently allow nothing."""
    extension = HttpExtension(RuntimeConfig())
    extension.check_settings({})
    with pytest.raises(InvalidHandler, match="no key 'allowed'"):
        extension.check_settings({"allowed": []})


@pytest.mark.parametrize("allow", ["a.test", [["a.test"]], {"a.test": 1}, 7, ["*"]])
async def test_a_wrong_table_refuses_every_call(allow: Any) -> None:
    """A manifest that was not checked before is no way around the check."""
    call = ExtensionCall(
        method="get",
        args=("http://a.test/",),
        handler="hello",
        request_id="r1",
        remaining_seconds=1.0,
        settings={"allow": allow},
    )
    with pytest.raises(ExtensionError, match="table is wrong"):
        await HttpExtension(RuntimeConfig()).methods["get"](call)
