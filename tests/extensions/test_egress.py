"""The allow-list of names and the addresses nobody may reach."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.errors import InvalidHandler
from nexus_core.extensions.egress import (
    MAX_RULES,
    EgressDenied,
    EgressRules,
    SystemResolver,
    checked_addresses,
    is_public,
    normal_host,
)
from tests.extensions.names import Names


@pytest.mark.parametrize(
    ("entry", "scheme", "host", "port", "allowed"),
    [
        ("api.example.com", "https", "api.example.com", 443, True),
        ("api.example.com", "http", "api.example.com", 80, True),
        ("API.Example.com.", "https", "api.example.com", 443, True),
        ("api.example.com", "https", "api.example.com", 80, False),
        ("api.example.com", "https", "api.example.com", 8443, False),
        ("api.example.com", "https", "api.example.com.evil.com", 443, False),
        ("api.example.com", "https", "evil-api.example.com", 443, False),
        ("api.example.com", "https", "x.api.example.com", 443, False),
        ("*.example.com", "https", "a.example.com", 443, True),
        ("*.example.com", "https", "a.b.example.com", 443, True),
        ("*.example.com", "https", "example.com", 443, False),
        ("*.example.com", "https", "badexample.com", 443, False),
        ("api.example.com:8443", "https", "api.example.com", 8443, True),
        ("api.example.com:8443", "https", "api.example.com", 443, False),
        ("*.example.com:81", "http", "a.example.com", 81, True),
        ("192.0.2.7:80", "http", "192.0.2.7", 80, True),
        ("[2001:DB8::0:1]:8080", "http", "2001:db8::1", 8080, True),
        ("[2001:db8::1]", "https", "2001:db8::1", 443, True),
    ],
)
def test_a_rule_allows_its_own_names_and_ports_only(
    entry: str, scheme: str, host: str, port: int, allowed: bool
) -> None:
    """A name matches whole, `*.` names below it, and without a port only the scheme's own counts."""
    assert EgressRules.parse([entry]).allows(scheme, host, port) is allowed


def test_an_empty_list_allows_nothing() -> None:
    """A handler without an allow-list reaches no host."""
    assert not EgressRules.parse([]).allows("https", "example.com", 443)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.com",
        "*.1.2.3.4",
        "a.*.com",
        "http://example.com",
        "example.com/path",
        "user@example.com",
        "example.com:0",
        "example.com:65536",
        "example.com:",
        "exa mple.com",
        "b\u00fccher.example",
        "2001:db8::1",
        "[example.com]:x",
        "a" * 64 + ".com",
        "example.com\n",
    ],
)
def test_a_wrong_rule_is_named(entry: str) -> None:
    """What is no host, too wide or hides something more is refused, and the message shows the entry."""
    with pytest.raises(InvalidHandler) as caught:
        EgressRules.parse(["good.example.com", entry])
    assert repr(entry) in caught.value.message


@pytest.mark.parametrize("entries", ["example.com", [1], {"a": 1}, None, ["example.com"] * (MAX_RULES + 1)])
def test_a_list_of_another_shape_is_refused(entries: object) -> None:
    """Only a bounded list of strings is an allow-list."""
    with pytest.raises(InvalidHandler, match=r"\[http\] allow"):
        EgressRules.parse(entries)


REFUSED = (
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "5f00::1",
    "2600::5efe:7f00:1",
    "2600::200:5efe:a00:1",
    "localhost",
    "nonsense",
)


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    """Loopback, private, link-local, metadata, multicast, reserved and wrapping forms are all refused."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "169.253.0.1",
        "2600::1",
        "2606:4700:4700::1111",
        "2a00:1450::8a",
    ],
)
def test_public_addresses_pass(address: str) -> None:
    """Ordinary addresses, also those next to a refused range, may be reached."""
    assert is_public(address)


@given(st.ip_addresses())
def test_nothing_passes_that_python_calls_not_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Our list is never wider than the standard library's."""
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_helps_nobody(address: ipaddress.IPv4Address) -> None:
    """An IPv4 address inside an IPv6 one is refused, whatever it is."""
    number = int(address)
    for prefix in ("::ffff:0:0", "64:ff9b::", "::", "::ffff:0:0:0"):
        wrapped = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number)
        assert not is_public(str(wrapped))
    assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))))


@pytest.mark.parametrize(
    ("given_host", "normal"),
    [
        ("Example.COM.", "example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0:0::1", "::1"),
        ("a_b.example", "a_b.example"),
        ("-a.example", None),
        ("a..b", None),
        ("a/b", None),
        ("a\x00b", None),
        ("", None),
        (".", None),
        (".".join(["a" * 60] * 5), None),
    ],
)
def test_hosts_have_one_form(given_host: str, normal: str | None) -> None:
    """Case, a final dot and spellings of an address make no difference; what is no host is None."""
    assert normal_host(given_host) == normal


async def test_one_private_address_beside_public_ones_refuses_the_name() -> None:
    """Every address of a name is checked, not only the first."""
    names = Names(mixed_test=[["8.8.8.8", "10.0.0.1"]])
    with pytest.raises(EgressDenied) as caught:
        await checked_addresses("mixed.test", 80, names, is_public)
    assert "10.0.0.1" not in caught.value.message


async def test_public_addresses_are_handed_on_in_order() -> None:
    """What the name service prefers stays first."""
    names = Names(good_test=[["8.8.8.8", "2600::1"]])
    assert await checked_addresses("good.test", 80, names, is_public) == ["8.8.8.8", "2600::1"]


async def test_a_literal_address_is_not_looked_up() -> None:
    """An address is checked as it stands."""
    names = Names()
    assert await checked_addresses("8.8.8.8", 80, names, is_public) == ["8.8.8.8"]
    with pytest.raises(EgressDenied):
        await checked_addresses("169.254.169.254", 80, names, is_public)
    assert names.asked == []


async def test_a_name_without_addresses_cannot_be_reached() -> None:
    """An empty answer is a failed look-up, not a pass."""
    with pytest.raises(OSError, match="no address"):
        await checked_addresses("empty.test", 80, Names(empty_test=[[]]), is_public)


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "017700000001"])
async def test_spellings_of_loopback_that_the_system_understands_are_refused(host: str) -> None:
    """Whatever the system's resolver makes of a name, the address decides."""
    resolver = SystemResolver()
    try:
        with pytest.raises((EgressDenied, OSError)):
            await checked_addresses(host, 80, resolver, is_public)
    finally:
        resolver.close()
