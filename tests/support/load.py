"""Steady load on a site, to detect lost requests: raw connections, a fixed rate, no repetition of requests.

Half of the requests read (GET /), half write a unique id (POST /write), one in a hundred of these as an upload that
takes seconds (POST /upload?id=…): the site is tests/projects/ledger. A request *fails* if its connection does, if its
status is not 200, or if its answer takes more than 15 s after it was sent completely. Each request is due at a fixed
time, even if earlier ones are not answered; its latency counts from then. The load ends after its time, with the
command that it accompanies, or at SIGTERM or SIGINT, and then waits for outstanding answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

# Time limit of an answer, seconds.
TIME_LIMIT = 15.0
# Slow uploads: their share of the writing requests, their bytes, and the seconds for sending one.
UPLOADS = 0.01
UPLOAD_BYTES = 100_000
UPLOAD_SECONDS = (2.0, 5.0)
UPLOAD_PIECES = 40
# Share of the requests that use an open connection if there is one, and the number of connections kept open.
KEPT = 0.5
POOL = 100
# Greatest number of connections at a time, and of requests of a run.
CONNECTIONS = 6000
REQUESTS = 1_000_000
# Seconds of load after the end of the command that it accompanies.
AFTERWARDS = 2.0
# Number of failed requests that a summary describes.
EXAMPLES = 10


class LoadError(Exception):
    """The load cannot be sent."""


@dataclass
class Request:
    """One request: ``kind`` is read, write or upload; times are seconds since the epoch.

    ``sent`` is when it was sent completely; ``status`` is 0 without an answer; ``error`` is empty unless it failed.
    """

    kind: str
    id: str
    start: float
    sent: float = 0.0
    end: float = 0.0
    status: int = 0
    error: str = ""

    @property
    def latency(self) -> float:
        """Seconds that its client waited; the time for sending a slow upload does not count."""
        return self.end - (self.sent if self.kind == "upload" and self.sent else self.start)

    @property
    def acknowledged(self) -> bool:
        """Whether the site has acknowledged the id. A late answer counts too."""
        return self.kind != "read" and self.status == 200

    def judge(self) -> None:
        """Set the error of the answer, unless there is an error already."""
        if not self.error and self.status >= 500:
            self.error = f"status {self.status}"
        elif not self.error and self.status != 200:
            self.error = f"status {self.status}, which is unexpected"
        elif not self.error and self.latency > TIME_LIMIT:
            self.error = f"answered after {self.latency:.1f} s"


@dataclass(frozen=True)
class Connection:
    """An open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def usable(self) -> bool:
        """Whether it is not known to be closed by the other side."""
        return not self.reader.at_eof() and not self.writer.is_closing()


@dataclass
class Load:
    """Requests at a fixed rate.

    Args:
        url: address of the site, ``http://ADDRESS:PORT``.
        host: value of the Host header.
        rate: requests per second.
    """

    url: str
    rate: float = 200.0
    host: str = "localhost"
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise LoadError(f"{self.url}: must be like http://127.0.0.1:8080")
        self._address = (parts.hostname, parts.port or 80)
        self._kept: list[Connection] = []
        self._stopped = asyncio.Event()
        self._run = uuid.uuid4().hex[:8]
        self._random = random.Random(4711)

    def stop(self) -> None:
        """Send no more requests."""
        self._stopped.set()

    async def run(self, seconds: float) -> None:
        """Send requests for some seconds, or until ``stop``, and wait for their answers."""
        tasks: set[asyncio.Task[None]] = set()
        begin = time.time()
        for number in range(min(int(seconds * self.rate), REQUESTS)):
            due = begin + number / self.rate
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), max(due - time.time(), 0.0001))
            if self._stopped.is_set():
                break
            request = self._next(number, due)
            self.requests.append(request)
            if len(tasks) >= CONNECTIONS:
                request.end, request.error = time.time(), f"more than {CONNECTIONS} requests wait for an answer"
                continue
            task = asyncio.create_task(self._send(request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)
        for connection in self._kept:
            connection.writer.close()

    def _next(self, number: int, due: float) -> Request:
        kind = "read" if number % 2 else "upload" if self._random.random() < UPLOADS else "write"
        return Request(kind, "" if kind == "read" else f"{self._run}-{number}", due)

    async def _send(self, request: Request) -> None:
        slow = self._random.uniform(*UPLOAD_SECONDS) if request.kind == "upload" else 0.0
        kept = request.kind != "upload" and self._random.random() < KEPT
        try:
            async with asyncio.timeout(2 * TIME_LIMIT + slow):
                connection = await self._connection(kept)
                try:
                    keep = await self._exchange(connection, request, slow)
                except BaseException:
                    connection.writer.close()
                    raise
            request.end = time.time()
            if keep and len(self._kept) < POOL:
                self._kept.append(connection)
            else:
                connection.writer.close()
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            # An incomplete answer acknowledges nothing, even if its status is 200.
            request.status = 0
            request.error = "no answer" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        request.end = request.end or time.time()
        request.judge()

    async def _connection(self, kept: bool) -> Connection:
        """Return a kept connection that the other side has not closed, or a new one."""
        while kept and self._kept:
            connection = self._kept.pop()
            if connection.usable:
                return connection
            connection.writer.close()
        return Connection(*await asyncio.open_connection(*self._address))

    async def _exchange(self, connection: Connection, request: Request, slow: float) -> bool:
        """Send a request and read its answer; return whether the connection can take another one."""
        body = f"id={request.id}".encode() if request.kind == "write" else b""
        path, form = "/", ""
        if request.kind == "write":
            path, form = "/write", "Content-Type: application/x-www-form-urlencoded\r\n"
        elif request.kind == "upload":
            path, form, body = f"/upload?id={request.id}", "Content-Type: text/plain\r\n", b"x" * UPLOAD_BYTES
        method = "GET" if request.kind == "read" else "POST"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{form}{length}\r\n".encode()
        if slow:
            connection.writer.write(head)
            for piece in _pieces(body):
                connection.writer.write(piece)
                await connection.writer.drain()
                await asyncio.sleep(slow / UPLOAD_PIECES)
        else:
            connection.writer.write(head + body)
            await connection.writer.drain()
        request.sent = time.time()
        return await _answer(connection.reader, request)


def _pieces(body: bytes) -> Iterable[bytes]:
    size = -(-len(body) // UPLOAD_PIECES)
    return (body[start : start + size] for start in range(0, len(body), size))


async def _answer(reader: asyncio.StreamReader, request: Request) -> bool:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    request.status = int(first.split(" ", 2)[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.read()
        return False
    if request.acknowledged and body.decode(errors="replace").strip() != request.id:
        raise ValueError(f"the answer acknowledges {body[:80]!r}")
    return headers.get("connection", "").lower() != "close"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share (0 to 1) of the values does not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def summary(requests: Sequence[Request]) -> dict[str, object]:
    """Return the summary of a run: counts, failures with examples, latencies in ms."""
    failed = [request for request in requests if request.error]
    latencies = [request.latency * 1000 for request in requests if not request.error]
    span = requests[-1].start - requests[0].start if len(requests) > 1 else 0.0
    return {
        "requests": len(requests),
        "seconds": round(span, 1),
        "rate": round((len(requests) - 1) / span, 1) if span else 0.0,
        "failed": len(failed),
        "acknowledged": sum(request.acknowledged for request in requests),
        "latency_ms": {
            "p50": round(percentile(latencies, 0.5), 1),
            "p99": round(percentile(latencies, 0.99), 1),
            "max": round(max(latencies, default=0.0), 1),
        },
        "examples": [f"{request.kind} at {request.start:.3f}: {request.error}" for request in failed[:EXAMPLES]],
    }


def write(path: Path, requests: Sequence[Request]) -> None:
    """Write the summary and every request of a run to a file."""
    path.write_text(json.dumps({"summary": summary(requests), "requests": [asdict(r) for r in requests]}))


def read(path: Path) -> list[Request]:
    """Read the requests from a file of ``write``."""
    return [Request(**request) for request in json.loads(path.read_text())["requests"]]


def allow_connections() -> None:
    """Raise this process's limit of open files to the needs of the load."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted if hard < 0 else min(wanted, hard)), hard))


async def _accompany(load: Load, command: Sequence[str]) -> int:
    """Run a command, and stop the load some seconds after its end; return its exit status."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr)
        status = await process.wait()
        await asyncio.sleep(AFTERWARDS)
    finally:
        load.stop()
    return status


async def _main(options: argparse.Namespace) -> int:
    load = Load(options.url, options.rate, options.host)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, load.stop)
    running = asyncio.create_task(load.run(options.seconds))
    status = await _accompany(load, options.command) if options.command else 0
    await running
    if options.output:
        write(options.output, load.requests)
    result = summary(load.requests)
    print(json.dumps(result, indent=1))
    return status or int(bool(result["failed"]))


def main() -> int:
    """Send the load that the command line asks for; return the command's exit status, or 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of the site, like http://127.0.0.1:8080")
    parser.add_argument("--host", default="localhost", help="name of the site (default: %(default)s)")
    parser.add_argument("--seconds", type=float, required=True, help="maximum duration")
    parser.add_argument("--rate", type=float, default=200, help="requests per second (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file for the summary and every request, as JSON")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="command to accompany, after --")
    options = parser.parse_args()
    allow_connections()
    return asyncio.run(_main(options))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LoadError as problem:
        sys.exit(f"Hostwright: {problem}")
