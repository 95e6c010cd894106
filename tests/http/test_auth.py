"""Tokens and scopes on HTTP, and who is let in without any."""

import base64
import json
import time

import httpx
import jwt
import pytest

from functions.http.auth import MAX_CACHED_TOKENS, Gate, Grant, TokenVerifier
from nexus_core.config import ConfigError, RuntimeConfig
from nexus_core.errors import PermissionDenied, Unauthenticated
from tests.http.conftest import ClientFactory
from tests.http.serving import SECRET, bearer, token


def part(value: object) -> str:
    """One part of a handmade token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


# A fixed time, since the test ids show it: they must be the same in every process that runs the tests.
GOOD_CLAIMS = {"exp": 9_999_999_999, "scope": "invoke:*"}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer not-a-token",
        "Bearer a.b.c",
        "Bearer " + "x" * 9000,
        f"Bearer {part({'alg': 'none', 'typ': 'JWT'})}.{part(GOOD_CLAIMS)}.",
        f"Bearer {part({'alg': 'NONE', 'typ': 'JWT'})}.{part(GOOD_CLAIMS)}.",
        f"Bearer {part([])}.{part(GOOD_CLAIMS)}.AAAA",
        f"Bearer {jwt.encode(GOOD_CLAIMS, SECRET, algorithm='HS512')}",
        f"Bearer {token(key='another-secret-of-32-bytes-or-more')}",
        f"Bearer {token(seconds=-5)}",
        f"Bearer {jwt.encode({'scope': 'invoke:*'}, SECRET, algorithm='HS256')}",
        f"Bearer {jwt.encode({'exp': 'soon', 'scope': 'invoke:*'}, SECRET, algorithm='HS256')}",
        f"Bearer {jwt.encode({'exp': 2**80, 'scope': 'invoke:*', 'nbf': 2**70}, SECRET, algorithm='HS256')}",
        f"Bearer {token(nbf=int(time.time()) + 500)}",
        f"Bearer {token(aud='somebody else')}",
        f"Bearer {token(scope={'invoke': '*'})}",
        f"Bearer {token(scope=['invoke:*', 1])}",
        f"Bearer {token()[:-2]}",
        f"Bearer {token()}x",
    ],
)
async def test_no_good_token_no_entry(guarded: httpx.AsyncClient, header: str | None) -> None:
    """Every bad token is a 401 that asks for a better one and explains nothing of the secret."""
    headers = {"authorization": header} if header is not None else {}
    answer = await guarded.post("/invoke/hello", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "scope", ["invoke:hello", "invoke:*", "invoke:hel*", "read invoke:hello", ["x", "invoke:hello"]]
)
async def test_a_scope_lets_in(guarded: httpx.AsyncClient, scope: object) -> None:
    """A scope, as text or as list, with or without a pattern, allows the call, again and again."""
    headers = bearer(scope)
    for _ in range(2):
        answer = await guarded.post("/invoke/hello", json={"who": "bob"}, headers=headers)
        assert answer.json()["returnValue"] == {"greeting": "hello bob"}


@pytest.mark.parametrize(
    "scope", ["", "read admin", "invoke:", "invoke:hell", "invoke:h*o", "invoke:*x", "INVOKE:*", "invoke"]
)
async def test_another_scope_does_not(guarded: httpx.AsyncClient, scope: str) -> None:
    """Without the handler's scope a good token is a 403 that names the scope."""
    answer = await guarded.post("/invoke/hello", json={}, headers=bearer(scope))
    assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")
    assert 'scope="invoke:hello"' in answer.headers["www-authenticate"]


async def test_a_forbidden_name_cannot_shape_the_header(guarded: httpx.AsyncClient) -> None:
    """A handler's name, which the caller makes up, is cleaned before it stands in a header."""
    answer = await guarded.post("/invoke/a%22%0d%0aX:%20b", headers=bearer("read"))
    assert answer.status_code == 403
    assert "x" not in answer.headers
    assert answer.headers["www-authenticate"].count('"') == 6


@pytest.mark.parametrize(
    "path", ["/handlers", "/handlers/hello", "/sessions/a/state", "/metrics", "/health", "/suspensions/x"]
)
async def test_looking_needs_read(guarded: httpx.AsyncClient, path: str) -> None:
    """What shows something of the server needs `read`."""
    assert (await guarded.get(path)).status_code == 401
    assert (await guarded.get(path, headers=bearer("invoke:* admin"))).status_code == 403
    assert (await guarded.get(path, headers=bearer("read"))).status_code in {200, 404}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/docs", "/openapi.json"])
async def test_some_doors_are_open(guarded: httpx.AsyncClient, path: str) -> None:
    """Probes and documents need no token."""
    assert (await guarded.get(path)).status_code == 200


async def test_deploying_needs_admin_before_anything(guarded: httpx.AsyncClient) -> None:
    """Who may not deploy is told so; who may is told that it is not offered."""
    assert (await guarded.put("/handlers/x", headers=bearer("read invoke:*"))).status_code == 403
    assert (await guarded.put("/handlers/x", headers=bearer("admin"))).status_code == 501


async def test_auth_off_lets_everyone_in(client_of: ClientFactory) -> None:
    """`NEXUS_AUTH=off` needs no token, even where a secret is set."""
    async with client_of(auth="off", jwt_secret=SECRET) as client:
        assert (await client.post("/invoke/hello", json={})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "evil.example"},
        {"host": "localhost.evil.example:80"},
        {"host": "[::1"},
    ],
)
async def test_a_foreign_page_is_refused(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """Without tokens, a web page of another origin cannot use its visitor's browser to call in."""
    answer = await client.post("/invoke/hello", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost", "sec-fetch-site": "same-origin"},
        {"host": "127.0.0.1:9000", "origin": "http://127.0.0.1:9000"},
        {"host": "[::1]:80"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_an_own_page_is_not(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """The server's own pages, and programs, may call."""
    assert (await client.post("/invoke/hello", json={}, headers=headers)).status_code == 200


async def test_pages_matter_only_without_tokens(client_of: ClientFactory) -> None:
    """With tokens, or behind somebody else's guard, the origin does not matter."""
    async with client_of(auth="off", local_only=False) as client:
        answer = await client.post(
            "/invoke/hello", json={}, headers={"host": "api.example", "origin": "http://x"}
        )
        assert answer.status_code == 200


def test_a_known_token_still_expires() -> None:
    """A remembered token is good until its expiry and not a moment longer."""
    verifier = TokenVerifier(SECRET)
    text = token("read", seconds=1).encode()
    grant = verifier.verify(text)
    assert verifier.verify(text) is grant
    assert grant.expires_at is not None
    while time.time() < grant.expires_at:
        time.sleep(0.01)
    with pytest.raises(Unauthenticated, match="expired"):
        verifier.verify(text)


def test_remembered_tokens_are_bounded() -> None:
    """The oldest token is forgotten when there are too many, and a bad one is never kept."""
    verifier = TokenVerifier(SECRET)
    for number in range(MAX_CACHED_TOKENS + 10):
        verifier.verify(token(jti=str(number)).encode())
    with pytest.raises(Unauthenticated):
        verifier.verify(b"x.y.z")
    assert len(verifier._known) == MAX_CACHED_TOKENS


def test_tokens_need_a_secret() -> None:
    """Demanding tokens without a secret to check them stops the start."""
    with pytest.raises(ConfigError, match="NEXUS_JWT_SECRET"):
        Gate(RuntimeConfig(auth="jwt"))


def test_no_scope_includes_another() -> None:
    """`admin` does not read, `read` does not invoke."""
    grant = Grant(frozenset({"admin"}), None)
    grant.require_admin()
    with pytest.raises(PermissionDenied):
        grant.require_read()
    with pytest.raises(PermissionDenied):
        grant.require_invoke("hello")
    with pytest.raises(PermissionDenied):
        Grant(frozenset({"read"}), None).require_admin()
