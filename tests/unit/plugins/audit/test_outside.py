"""The port scan from outside, on real sockets of this machine, IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.audit import outside
from ansible_collections.hostwright.django.plugins.module_utils.audit.outside import Outcome, is_own, resolve

PLACES = pytest.mark.parametrize("address", ["127.0.0.1", "::1"])


@contextmanager
def listener(address: str) -> Iterator[int]:
    """Listen on a free port and yield it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        yield server.getsockname()[1]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Ports that a firewall drops: a connect to them never ends."""
    dropped: set[int] = set()
    connect = asyncio.SelectorEventLoop.sock_connect

    async def sock_connect(loop: asyncio.SelectorEventLoop, sock: socket.socket, address: tuple[str, int]) -> None:
        if address[1] in dropped:
            await asyncio.sleep(60)
        await connect(loop, sock, address)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", sock_connect)
    return dropped


@PLACES
def test_open_and_refused_ports_are_distinguished(address: str) -> None:
    with listener(address) as one, listener(address) as other:
        with listener(address) as gone:
            pass
        (outcome,) = outside.scan([address], [one, other, gone, one], (), 5)
    assert outcome == Outcome(address, tuple(sorted((one, other))), 1, 3)
    assert outcome.reached


def test_silent_port_takes_the_timeout_only(silent: set[int]) -> None:
    with listener("127.0.0.1") as port:
        silent |= {1, 2}
        assert outside.scan(["127.0.0.1"], [1, 2, port], (), 0.2) == [Outcome("127.0.0.1", (port,), 0, 3)]


def test_further_ports_are_tried_only_where_a_port_answered(silent: set[int]) -> None:
    with listener("127.0.0.1") as first, listener("127.0.0.1") as second:
        assert outside.scan(["127.0.0.1"], [first], [first, second], 5)[0].open == tuple(sorted((first, second)))
        silent.add(first)
        (outcome,) = outside.scan(["127.0.0.1"], [first], [second], 0.1)
    assert outcome == Outcome("127.0.0.1", (), 0, 1)
    assert not outcome.reached


def test_more_ports_than_connections_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "AT_ONCE", 3)
    with listener("127.0.0.1") as port:
        (outcome,) = outside.scan(["127.0.0.1"], range(port - 20, port + 20), (), 5)
    assert port in outcome.open
    assert len(outcome.open) + outcome.refused == outcome.tried == 40


def test_addresses_are_scanned_at_the_same_time(silent: set[int]) -> None:
    silent.add(1)
    with listener("127.0.0.1") as port:
        began = time.monotonic()
        outcomes = outside.scan(["127.0.0.1", "127.0.0.2", "127.0.0.3"], [1, port], (), 1)
        assert time.monotonic() - began < 2
    assert [(outcome.address, outcome.open) for outcome in outcomes] == [
        ("127.0.0.1", (port,)),
        ("127.0.0.2", ()),
        ("127.0.0.3", ()),
    ]
    assert outside.scan([], [1], (), 1) == []


def test_every_port_is_tried_once() -> None:
    assert (min(outside.EVERY), max(outside.EVERY), len(outside.EVERY)) == (1, 65535, 65535)
    assert len(set(outside.USUAL)) == len(outside.USUAL)
    assert {22, 80, 5432, 6379, 2375, 27017, 9200} <= set(outside.USUAL)


@PLACES
def test_own_address(address: str) -> None:
    assert is_own(address)


@pytest.mark.parametrize("address", ["203.0.113.5", "2001:db8::5"])
def test_address_of_another_machine(address: str) -> None:
    assert not is_own(address)


def test_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::5", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.5", 0)),
    ]

    def getaddrinfo(name: str, *_: object, **__: object) -> list[object]:
        if name == "alias":
            raise socket.gaierror(-2, "Name or service not known")
        return list(answers)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    addresses, unknown = resolve(["www.example.org", "203.0.113.5", "alias"])
    assert addresses == ["2001:db8::5", "203.0.113.5"]
    assert unknown == [Outcome("alias", skipped="this name has no address here (Name or service not known)")]


def test_link_local_address_keeps_its_interface() -> None:
    name = socket.if_indextoname(1)
    assert resolve([f"fe80::5%{name}"]) == ([f"fe80::5%{name}"], [])


def test_few_descriptors_mean_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (64, 600)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.update(now=wanted))
    assert outside._at_once() == 500
    assert limits["now"] == (600, 600)
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert outside._at_once() == outside.AT_ONCE
