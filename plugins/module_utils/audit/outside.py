"""Scan of TCP ports from the machine that runs this.

The scan only tries to connect, so it needs neither a scanner nor root.
UDP is not scanned: most UDP services answer to their own protocol only, so silence would prove nothing.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# Default ports of services that should not be public; the ports below 1024 are always tried.
KNOWN = (
    1080, 1433, 1521, 1883, 2049, 2181, 2222, 2375, 2376, 2377, 2379, 2380, 3000, 3001, 3128, 3306, 3389, 4000, 4222,
    4369, 4444, 4646, 5000, 5001, 5050, 5173, 5432, 5433, 5555, 5601, 5672, 5900, 5901, 5984, 6000, 6379, 6380, 6432,
    6443, 7000, 7001, 7077, 7474, 7687, 7700, 8000, 8001, 8002, 8008, 8025, 8065, 8069, 8080, 8081, 8082, 8083, 8086,
    8088, 8090, 8096, 8108, 8123, 8161, 8200, 8222, 8300, 8333, 8384, 8443, 8500, 8529, 8834, 8883, 8888, 8983, 9000,
    9001, 9002, 9042, 9080, 9090, 9091, 9092, 9093, 9100, 9115, 9187, 9200, 9300, 9411, 9418, 9443, 9999, 10000, 10250,
    11211, 15672, 16379, 18080, 19999, 26257, 27017, 27018, 27019, 28015, 33060, 50000, 50070, 61616,
)  # fmt: skip
USUAL = (*range(1, 1024), *KNOWN)
EVERY = range(1, 65536)
AT_ONCE = 2000
SPARE_DESCRIPTORS = 100

OPEN, REFUSED, SILENT = "open", "refused", "silent"


@dataclass(frozen=True)
class Outcome:
    """Result of the scan of one address.

    ``refused`` counts the ports that refused the connection; the rest of the ``tried`` ones did not answer.
    ``skipped`` says why the address was not scanned; it is empty if it was.
    """

    address: str
    open: tuple[int, ...] = ()
    refused: int = 0
    tried: int = 0
    skipped: str = ""

    @property
    def reached(self) -> bool:
        """Whether any port answered or refused."""
        return bool(self.open or self.refused)


def resolve(names: Iterable[str]) -> tuple[list[str], list[Outcome]]:
    """Return the addresses of names, each once, and an outcome for each name without an address."""
    found: dict[str, None] = {}
    unknown = []
    for name in names:
        try:
            answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError as error:
            unknown.append(Outcome(name, skipped=f"this name has no address here ({error.strerror})"))
            continue
        found.update(dict.fromkeys(_text(answer[4]) for answer in answers))
    return list(found), unknown


def is_own(address: str) -> bool:
    """Whether an address belongs to this machine: only such an address can be bound."""
    family, place = _place(address, 0)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True


def scan(addresses: Sequence[str], ports: Iterable[int], further: Iterable[int], timeout: float) -> list[Outcome]:
    """Scan ports of several addresses at the same time.

    Args:
        addresses: IPv4 and IPv6.
        ports: tried first, on every address.
        further: tried after them, only on addresses where one of the first ports answered or refused: on an address
            that cannot be reached they would only take time.
        timeout: seconds after which a port counts as silent.
    """
    first = sorted(set(ports))
    rest = sorted(set(further) - set(first))
    at_once = max(_at_once() // max(len(addresses), 1), 1)

    async def all_of_them() -> list[Outcome]:
        return await asyncio.gather(*(_scan(address, first, rest, at_once, timeout) for address in addresses))

    return asyncio.run(all_of_them())


async def _scan(address: str, first: Sequence[int], rest: Sequence[int], at_once: int, timeout: float) -> Outcome:
    answers = await _try(address, first, at_once, timeout)
    if set(answers.values()) - {SILENT}:
        answers |= await _try(address, rest, at_once, timeout)
    return Outcome(
        address,
        tuple(port for port, answer in sorted(answers.items()) if answer == OPEN),
        sum(answer == REFUSED for answer in answers.values()),
        len(answers),
    )


async def _try(address: str, ports: Sequence[int], at_once: int, timeout: float) -> dict[int, str]:
    answers: dict[int, str] = {}
    waiting = iter(ports)
    await asyncio.gather(*(_work(address, waiting, answers, timeout) for _ in range(min(at_once, len(ports)))))
    return answers


async def _work(address: str, waiting: Iterator[int], answers: dict[int, str], timeout: float) -> None:
    for port in waiting:
        answers[port] = await _connect(address, port, timeout)


async def _connect(address: str, port: int, timeout: float) -> str:
    family, place = _place(address, port)
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(connection, place), timeout)
        except ConnectionRefusedError:
            return REFUSED
        except OSError:  # a timeout is an OSError too
            return SILENT
    return OPEN


def _place(address: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    """Return the socket's family and address; getaddrinfo also resolves the scope of a link-local address."""
    answers = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, _, _, _, place = answers[0]
    return family, place  # type: ignore[return-value]  # one of the two for every IPv4 and IPv6 address


def _text(place: tuple[object, ...]) -> str:
    """Return an address as text, with its scope if it needs one."""
    address = str(place[0])
    scoped = len(place) == 4 and place[3] and "%" not in address
    return f"{address}%{socket.if_indextoname(int(str(place[3])))}" if scoped else address


def _at_once() -> int:
    """Return the number of simultaneous connections; raises the limit of file descriptors, which each of them takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = AT_ONCE + SPARE_DESCRIPTORS
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return max(min(AT_ONCE, (soft if soft != resource.RLIM_INFINITY else wanted) - SPARE_DESCRIPTORS), 1)
