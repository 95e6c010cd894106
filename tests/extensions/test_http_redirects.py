"""HttpClient: what it follows, and what goes along."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from nexus_core.extensions.http_client import MAX_REDIRECTS
from tests.extensions.loopback import DATA, Received, Serve, plain
from tests.extensions.sender import PRIVATE, Sender, failure_of, redirect


async def test_redirects_are_followed_and_the_last_address_is_told(sender: Sender, serve: Serve) -> None:
    """Relative and absolute locations work, each with a fresh check."""
    server = await serve(redirect("/end#part"))
    answer = await sender.get(f"http://api.test:{server.port}/start")
    assert (answer.body, answer.url) == (b"end", f"http://api.test:{server.port}/end")


@pytest.mark.parametrize("host", ["inside.test", "mixed.test", PRIVATE])
async def test_a_redirect_to_a_forbidden_address_is_refused(sender: Sender, serve: Serve, host: str) -> None:
    """A public server cannot send a handler to a private one."""
    server = await serve(redirect(lambda: f"http://{host}:{server.port}/end"))
    private = await serve(plain(b"secret"), host=PRIVATE, port=server.port)
    error = await failure_of(sender.get(f"http://api.test:{server.port}/"))
    assert (error.name, private.connections) == ("EgressDenied", 0)


@pytest.mark.parametrize(
    "location", ["http://unlisted.test/", "http://api.test/", "https://api.test/", "file:///etc/passwd"]
)
async def test_a_redirect_off_the_allow_list_is_refused(sender: Sender, serve: Serve, location: str) -> None:
    """Another host, port or scheme needs its own entry."""
    server = await serve(redirect(location))
    error = await failure_of(sender.get(f"http://api.test:{server.port}/"))
    assert error.name in {"EgressDenied", "TypeError"}
    assert "unlisted.test" not in sender.names.asked


@pytest.mark.parametrize("hops", [MAX_REDIRECTS, MAX_REDIRECTS + 1])
async def test_redirects_end(sender: Sender, serve: Serve, hops: int) -> None:
    """Five are followed, a sixth is an error."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        left = int(request.path[1:])
        if left:
            await redirect(f"/{left - 1}")(request, writer)
        else:
            await plain(b"end")(request, writer)

    server = await serve(answer)
    if hops <= MAX_REDIRECTS:
        assert (await sender.get(f"http://api.test:{server.port}/{hops}")).body == b"end"
    else:
        error = await failure_of(sender.get(f"http://api.test:{server.port}/{hops}"))
        assert (error.name, len(server.received)) == ("HttpError", MAX_REDIRECTS + 1)


async def test_secrets_stay_with_the_origin_they_were_meant_for(sender: Sender, serve: Serve) -> None:
    """To another origin only harmless headers go along, and none come back on the way home."""
    server = await serve(redirect(lambda: f"http://other.test:{server.port}/end"))
    secrets = {"authorization": "Bearer x", "cookie": "a=1", "x-api-key": "k", "traceparent": "t"}
    await sender.get(f"http://api.test:{server.port}/", headers={**secrets, "accept": "text/html"})
    first, second = server.received
    assert first.headers.items() >= secrets.items()
    assert second.headers == {"host": f"other.test:{server.port}", "accept": "text/html"}


async def test_secrets_follow_within_one_origin(sender: Sender, serve: Serve) -> None:
    """A redirect on the same host and port keeps every header."""
    server = await serve(redirect("/end"))
    await sender.get(f"http://api.test:{server.port}/", headers={"authorization": "Bearer x"})
    assert server.received[1].headers["authorization"] == "Bearer x"


async def test_https_does_not_fall_back_to_http(serve: Serve) -> None:
    """A redirect from https to http is refused even when the allow-list has both."""
    open_server = await serve(plain(b"in clear"))
    server = await serve(redirect(f"http://api.test:{open_server.port}/"), secure=True)
    sender = Sender(ssl.create_default_context(cafile=str(DATA / "api.test.pem")))
    ports = [str(open_server.port)]
    error = await failure_of(sender.get(f"https://api.test:{server.port}/", ports=ports))
    assert (error.name, open_server.connections) == ("EgressDenied", 0)
    await sender.client.close()


@pytest.mark.parametrize(
    ("method", "status", "then", "body"),
    [
        ("POST", "301 Moved", "GET", b""),
        ("POST", "302 Found", "GET", b""),
        ("POST", "303 See Other", "GET", b""),
        ("PUT", "303 See Other", "GET", b""),
        ("PUT", "302 Found", "PUT", b"data"),
        ("POST", "307 Temporary", "POST", b"data"),
        ("POST", "308 Permanent", "POST", b"data"),
        ("HEAD", "303 See Other", "HEAD", b""),
    ],
)
async def test_redirects_keep_or_change_the_method_as_browsers_do(
    sender: Sender, serve: Serve, method: str, status: str, then: str, body: bytes
) -> None:
    """301, 302 and 303 turn a POST into a GET without its body; 307 and 308 repeat it."""
    server = await serve(redirect("/end", status))
    content = None if method == "HEAD" else b"data"
    headers = {"content-type": "text/plain"}
    url = f"http://api.test:{server.port}/"
    await sender.get(url, method=method, body=content, headers=headers)
    last = server.received[-1]
    assert (last.path, last.method, last.body) == ("/end", then, body)
    assert ("content-type" in last.headers) == (then == method)


async def test_a_redirect_without_a_location_is_an_answer(sender: Sender, serve: Serve) -> None:
    """The guest sees the status as it is."""
    server = await serve(plain(status="302 Found"))
    assert (await sender.get(f"http://api.test:{server.port}/")).status == 302


async def test_a_broken_location_is_an_error(sender: Sender, serve: Serve) -> None:
    """What the server made up is not the guest's wrong argument."""
    server = await serve(redirect("http://[::1"))
    assert (await failure_of(sender.get(f"http://api.test:{server.port}/"))).name == "HttpError"
