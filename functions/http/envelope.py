"""What a request says beside its path and body: ids, session, preferences, narrowed capabilities.

Trust changes hands here: every value is the caller's, and leaves this module checked or refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qs

from starlette.types import Scope

from nexus_core.capabilities import CapabilitySet
from nexus_core.errors import InvalidHandler, InvalidRequest
from nexus_core.limits import ResourceLimits
from nexus_core.stores.bounds import check_session

Headers = Mapping[bytes, bytes]
"""Request headers by lower-case name; of a repeated one, the last."""

TIMEOUT_EXTENSION: Final = "nexus.timeout"
"""The ASGI extension by which a host tells how many milliseconds (1 or more) it has left for a request."""

_PROXY_TIMEOUT: Final = b"x-envoy-expected-rq-timeout-ms"
_MILLISECONDS: Final = re.compile(rb"[0-9]{1,8}")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_QUERY_FIELDS: Final = 1000


def request_id_of(headers: Headers) -> str:
    """The caller's `X-Request-Id` when it is a sound one, else a new id."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return new_request_id()


def new_request_id() -> str:
    """An id nobody has used."""
    return os.urandom(16).hex()


def session_of(query: bytes, headers: Headers) -> str | None:
    """The session that `?session=` or `Nexus-Session` names, if any; raises `InvalidRequest`."""
    header = headers.get(b"nexus-session")
    named = [header.decode("latin-1")] if header is not None else []
    if query:
        named += query_fields(query).get("session", [])
    if not named:
        return None
    if any(name != named[0] for name in named):
        raise InvalidRequest("the request names two different sessions; give one, by header or by query")
    check_session(named[0])
    return named[0]


def query_fields(query: bytes) -> dict[str, list[str]]:
    """The fields of a query string; raises `InvalidRequest` when they are too many."""
    try:
        return parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        raise InvalidRequest(f"the query has more than {_MAX_QUERY_FIELDS} fields") from None


def traceparent_of(headers: Headers) -> str | None:
    """A sound `traceparent`; a malformed one is dropped, as W3C Trace Context asks."""
    value = headers.get(b"traceparent")
    if value is None:
        return None
    return sound_traceparent(value.decode("latin-1"))


def sound_traceparent(text: str) -> str | None:
    """`text` when it is a `traceparent` of W3C Trace Context, else None."""
    return text if _TRACEPARENT.fullmatch(text) else None


def capabilities_of(headers: Headers) -> CapabilitySet | None:
    """What `Nexus-Capabilities` narrows this call to; None without the header. Raises `InvalidRequest`.

    The header is a comma-separated list of tokens; an empty one leaves the handler nothing. The
    core intersects it with the handler's own capabilities, so it can only ever narrow.
    """
    value = headers.get(b"nexus-capabilities")
    if value is None:
        return None
    tokens = [token.strip() for token in value.decode("latin-1").split(",")]
    return asked_capabilities((token for token in tokens if token), "Nexus-Capabilities")


def asked_capabilities(tokens: Iterable[str], place: str) -> CapabilitySet:
    """What a caller's tokens allow; raises `InvalidRequest` that names the `place` they stood in."""
    try:
        return CapabilitySet.parse(tokens)
    except InvalidHandler as error:
        raise InvalidRequest(f"{place}: {error.message}") from None


def host_limits(
    limits: ResourceLimits, headers: Headers, scope: Scope | None = None
) -> ResourceLimits | None:
    """The handler's `limits` within the time the host has left for this request; None when none is set.

    A host tells the milliseconds as the ASGI extension `nexus.timeout`; a proxy before it by
    `X-Envoy-Expected-Rq-Timeout-Ms`, which is what is left when it sends the request. They only ever narrow.
    """
    left = (scope.get("extensions") or {}).get(TIMEOUT_EXTENSION) if scope else None
    within = None if left is None else limits.within(left)
    expected = headers.get(_PROXY_TIMEOUT)
    # 0 is the proxy's word for none.
    if expected is not None and _MILLISECONDS.fullmatch(expected) and int(expected):
        within = (within or limits).within(int(expected))
    return within


def wants_minimal(headers: Headers) -> bool:
    """Whether `Prefer: return=minimal` asks for the bare return value (RFC 7240)."""
    value = headers.get(b"prefer")
    if value is None:
        return False
    if value == b"return=minimal":
        # As nearly everyone writes it who wants it: no need to take it apart.
        return True
    preferences = (part.partition(b";")[0].strip().lower() for part in value.split(b","))
    return b"return=minimal" in preferences
