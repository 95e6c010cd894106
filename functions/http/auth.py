"""Who may do what: bearer tokens (JWT, HS256) and their scopes, the same on HTTP and WebSocket.

A token says `invoke:<pattern>` (a `*` may end the pattern), `read` and `admin`; none of them
includes another. Without a secret, on a loopback address, everyone who reaches the port may do
everything but a web page of a foreign origin, which reaches it through its visitor's browser.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from functions.http.answers import Header
from functions.http.envelope import Headers
from nexus_core.config import ConfigError, RuntimeConfig
from nexus_core.errors import PermissionDenied, Unauthenticated

MAX_TOKEN_BYTES: Final = 8192
MAX_CACHED_TOKENS: Final = 1024
SUBPROTOCOL: Final = "bearer"
"""A browser's WebSocket cannot set headers: it offers the subprotocols `bearer` and the token itself."""

_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_FOREIGN_SITES: Final = frozenset({b"cross-site", b"same-site"})


class Grant:
    """What a caller may do, and until when (`expires_at`, seconds since the epoch; None = no end)."""

    __slots__ = ("_admin", "_invoke", "_invoke_prefixes", "_read", "expires_at")

    def __init__(self, scopes: frozenset[str], expires_at: float | None) -> None:
        patterns = [scope.removeprefix("invoke:") for scope in scopes if scope.startswith("invoke:")]
        self._invoke = frozenset(pattern for pattern in patterns if "*" not in pattern)
        self._invoke_prefixes = tuple(
            pattern[:-1] for pattern in patterns if pattern.find("*") == len(pattern) - 1 and pattern
        )
        self._read = "read" in scopes
        self._admin = "admin" in scopes
        self.expires_at = expires_at

    def require_invoke(self, handler: str) -> None:
        """Raise `PermissionDenied` unless the caller may invoke `handler`."""
        if handler not in self._invoke and not handler.startswith(self._invoke_prefixes):
            raise _denied(f"invoke:{handler[:63]}")

    def require_read(self) -> None:
        """Raise `PermissionDenied` unless the caller may read handlers, sessions and metrics."""
        if not self._read:
            raise _denied("read")

    def require_admin(self) -> None:
        """Raise `PermissionDenied` unless the caller may change what is deployed."""
        if not self._admin:
            raise _denied("admin")


def _denied(scope: str) -> PermissionDenied:
    return PermissionDenied(f"the token has no scope {scope!r}", token=scope)


EVERYTHING: Final = frozenset({"invoke:*", "read", "admin"})


class Gate:
    """Decides about every request. `local_only` is for a server without tokens on a loopback address."""

    def __init__(self, config: RuntimeConfig, *, local_only: bool = False) -> None:
        self._tokens = TokenVerifier(config.jwt_secret) if requires_token(config) else None
        self._everything = Grant(EVERYTHING, None)
        self._local_only = local_only and self._tokens is None
        self._own_names = _LOCAL_NAMES | {config.host}
        # What callers usually send, to be spared the parsing.
        self._own_hosts = frozenset(f"{name}:{config.port}".encode() for name in self._own_names)

    @property
    def demands_token(self) -> bool:
        """Whether callers must show a token."""
        return self._tokens is not None

    def admit(self, headers: Headers) -> Grant:
        """The grant of an HTTP request's sender; raises `Unauthenticated` or `PermissionDenied`."""
        if self._tokens is not None:
            return self._tokens.verify(_bearer(headers.get(b"authorization")))
        if self._local_only:
            self._refuse_foreign_page(headers)
        return self._everything

    def admit_socket(self, headers: Headers, subprotocols: list[str]) -> Grant:
        """The grant of a WebSocket's opener; the token may be offered as a subprotocol."""
        if self._tokens is not None and b"authorization" not in headers and SUBPROTOCOL in subprotocols:
            offered = [name for name in subprotocols if name != SUBPROTOCOL]
            if len(offered) != 1:
                raise Unauthenticated("with the subprotocol 'bearer' exactly one more, the token, is needed")
            return self._tokens.verify(offered[0].encode("latin-1", "replace"))
        return self.admit(headers)

    def _refuse_foreign_page(self, headers: Headers) -> None:
        """A web page must not use its visitor's browser to reach this machine (CSRF, DNS rebinding)."""
        host = headers.get(b"host")
        if host is not None and host not in self._own_hosts and _hostname(host) not in self._own_names:
            raise PermissionDenied(
                "this server answers only to its own address; the Host header names another"
            )
        origin = headers.get(b"origin")
        foreign = origin is not None and (host is None or origin.partition(b"://")[2] != host)
        if foreign or headers.get(b"sec-fetch-site") in _FOREIGN_SITES:
            raise PermissionDenied("a page of another origin may not use this server; set NEXUS_JWT_SECRET")


def requires_token(config: RuntimeConfig) -> bool:
    """Whether these settings put tokens in force."""
    return config.auth == "jwt" or (config.auth is None and config.jwt_secret is not None)


def challenge(error: Exception) -> tuple[Header, ...]:
    """The `WWW-Authenticate` header that goes with a refusal (RFC 6750); nothing for other errors."""
    if isinstance(error, Unauthenticated):
        return ((b"www-authenticate", b'Bearer realm="nexus", error="invalid_token"'),)
    if isinstance(error, PermissionDenied) and error.token is not None and error.token.isascii():
        scope = "".join(char for char in error.token if char.isalnum() or char in ":._-")
        value = f'Bearer realm="nexus", error="insufficient_scope", scope="{scope}"'
        return ((b"www-authenticate", value.encode()),)
    return ()


def _hostname(host: bytes) -> str | None:
    try:
        return urlsplit("//" + host.decode("latin-1")).hostname
    except ValueError:
        return None


def _bearer(authorization: bytes | None) -> bytes:
    if authorization is None:
        raise Unauthenticated("a token is needed: Authorization: Bearer <JWT>")
    kind, _, token = authorization.partition(b" ")
    if kind.lower() != b"bearer":
        raise Unauthenticated("the Authorization header must be of the form 'Bearer <JWT>'")
    return token.strip()


class TokenVerifier:
    """Checks tokens against one secret, and remembers those it found good until they expire."""

    def __init__(self, secret: str | None) -> None:
        if not secret:
            raise ConfigError(
                "NEXUS_AUTH is 'jwt', but NEXUS_JWT_SECRET is not set; set it, or NEXUS_AUTH=off"
            )
        # Here, because a server without tokens need not load it.
        import jwt

        self._jwt = jwt
        self._secret = secret
        # Only good tokens get in, so callers without one cannot push others out.
        self._known: OrderedDict[bytes, Grant] = OrderedDict()

    def verify(self, token: bytes) -> Grant:
        """The grant of a good token; raises `Unauthenticated` for any other."""
        grant = self._known.get(token)
        if grant is not None and grant.expires_at is not None and time.time() < grant.expires_at:
            self._known.move_to_end(token)
            return grant
        self._known.pop(token, None)
        grant = self._check(token)
        self._known[token] = grant
        if len(self._known) > MAX_CACHED_TOKENS:
            self._known.popitem(last=False)
        return grant

    def _check(self, token: bytes) -> Grant:
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        try:
            claims: Mapping[str, Any] = self._jwt.decode(
                token, self._secret, algorithms=["HS256"], options={"require": ["exp"]}
            )
            return Grant(_scopes(claims.get("scope", "")), float(claims["exp"]))
        except self._jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except self._jwt.MissingRequiredClaimError:
            raise Unauthenticated("the token has no expiry (exp)") from None
        # The caller wrote every byte of it: whatever a hostile token upsets, it is a bad token.
        except (self._jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            raise Unauthenticated(
                "the token is not one of ours: its signature or its form is wrong"
            ) from None


def _scopes(claim: object) -> frozenset[str]:
    """The scopes of a claim: a string with spaces, or a list of strings; raises TypeError."""
    if isinstance(claim, str):
        return frozenset(claim.split())
    if isinstance(claim, list) and all(isinstance(scope, str) for scope in claim):
        return frozenset(claim)
    raise TypeError("scope must be a string or a list of strings")
