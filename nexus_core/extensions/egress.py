"""Where handlers may connect to: the manifest's allow-list of names, and the addresses nobody may reach.

Two questions, both asked for every connection and every redirect. Is this name allowed for this
handler (`EgressRules`)? And is every address the name has now a public one (`checked_addresses`)?
The caller then connects to one of exactly those addresses: a name looked up twice could answer
differently the second time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from nexus_core.errors import InvalidHandler
from nexus_core.extensions.base import ExtensionError

MAX_RULES = 256
DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
_LOOKUP_THREADS = 16

_FORMS = "api.example.com, *.example.com, api.example.com:8443 or [2001:db8::1]:8443"

# A list of our own: what `ipaddress.is_global` says changed between patch releases.
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier NAT; Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, public by number only
        "169.254.0.0/16",  # link-local; metadata services of AWS, Google and Azure
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Everything outside is loopback, link-local, unique local, multicast or a form that wraps IPv4.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4 wraps an IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
# The interface part of an ISATAP address wraps an IPv4 address: ::[02]00:5efe:a.b.c.d
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


class EgressDenied(ExtensionError):
    """The handler may not connect there. The message holds no address that the guest did not give."""

    def __init__(self, message: str) -> None:
        super().__init__(message, name="EgressDenied")


class EgressRule(NamedTuple):
    """One entry of an allow-list: a name, or the end of names; no port means the scheme's own."""

    host: str
    is_suffix: bool
    port: int | None


class EgressRules:
    """A handler's allow-list. An empty one allows nothing."""

    def __init__(self, rules: Sequence[EgressRule]) -> None:
        self._rules = tuple(rules)

    @classmethod
    def parse(cls, entries: Any) -> EgressRules:
        """Read `allow` of a manifest's `[http]` table; raises `InvalidHandler` naming the wrong entry."""
        # Trust changes hands here: the entries are an author's.
        if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, str) for entry in entries):
            raise InvalidHandler(f"[http] allow must be a list of strings such as {_FORMS}")
        if len(entries) > MAX_RULES:
            raise InvalidHandler(f"[http] allow has {len(entries)} entries; at most {MAX_RULES} are allowed")
        return cls([_parse_rule(entry) for entry in entries])

    def allows(self, scheme: str, host: str, port: int) -> bool:
        """Whether a connection is on the list; `host` as `normal_host` gives it."""
        for rule in self._rules:
            if port != (DEFAULT_PORTS[scheme] if rule.port is None else rule.port):
                continue
            if host == rule.host if not rule.is_suffix else host.endswith(rule.host):
                return True
        return False


class Resolver(Protocol):
    """Looks names up. Tests and operators with their own name service bring another one."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name, the preferred first. Raises OSError when there are none."""


class SystemResolver:
    """The operating system's resolver, in threads of its own: a slow name blocks no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="nexus-dns")

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """See `Resolver`."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def close(self) -> None:
        """Start no look-up any more. Those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


AddressCheck = Callable[[str], bool]
"""Whether handlers may connect to an address: `is_public`, or `any_address` by the operator's will."""


async def checked_addresses(
    host: str, port: int, resolver: Resolver, is_allowed: AddressCheck
) -> Sequence[str]:
    """The addresses of `host` now, all of which may be connected to.

    Raises `EgressDenied` when a single one may not: a name with a private address beside public
    ones is an attack or a mistake. Raises OSError when the name has none.
    """
    literal = _literal(host)
    addresses = await resolver.resolve(host, port) if literal is None else [literal]
    if not addresses:
        raise OSError(f"no address for {host}")
    if not all(is_allowed(address) for address in addresses):
        raise EgressDenied(f"host {host!r} has an address that handlers may not connect to")
    return addresses


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet and wraps no other address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _REFUSED_V4)
    if parsed.scope_id is not None or parsed not in _GLOBAL_V6:
        return False
    if (int(parsed) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(parsed in network for network in _REFUSED_V6)


def any_address(_address: str) -> bool:
    """Every address may be reached, loopback and metadata services included."""
    return True


def normal_host(host: str) -> str | None:
    """A host in the one form that rules and connections use; None when it is no name and no address."""
    host = host.lower().removesuffix(".")
    literal = _literal(host)
    if literal is not None:
        return literal
    return host if len(host) <= 253 and _HOST.fullmatch(host) else None


def _literal(host: str) -> str | None:
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return None
    return str(parsed)


def _parse_rule(entry: str) -> EgressRule:
    wrong = InvalidHandler(f"[http] allow: {entry[:300]!r} must be written as {_FORMS}")
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(\d{1,5}))?", entry, re.ASCII)
    plain = re.fullmatch(r"([^:]*)(?::(\d{1,5}))?", entry, re.ASCII)
    matched = bracketed or plain
    if matched is None:
        raise wrong
    is_suffix = matched[1].startswith("*.")
    host = normal_host(matched[1].removeprefix("*."))
    port = None if matched[2] is None else int(matched[2])
    if host is None or (port is not None and not 0 < port < 65536):
        raise wrong
    if is_suffix and ("." not in host or _literal(host) is not None):
        raise InvalidHandler(f"[http] allow: {entry!r} is too wide; name at least two parts after '*.'")
    return EgressRule(f".{host}" if is_suffix else host, is_suffix, port)
