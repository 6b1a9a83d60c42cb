"""Test hold and maintenance of the site polls on this host, with a small application behind its socket.

Run on the host. Prints the duration of each case, or exits with the first problem. With --https by HTTPS and HTTP/2.
"""

import argparse
import asyncio
import hashlib
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
RUN = Path("/srv/hostwright/web/polls/run")
HOST = b"Host: localhost\r\n"
CLIENT_HEADERS = (
    b"X-Real-IP",
    b"X-Forwarded-For",
    b"X-Forwarded-Proto",
    b"X-Forwarded-Host",
    b"X-Forwarded-Port",
    b"Forwarded",
    b"Proxy",
)
DATA, HEADERS, RESET, SETTINGS, GO_AWAY = 0, 1, 3, 4, 7  # kinds of HTTP/2's frames
END, ACKNOWLEDGED, END_HEADERS = 1, 1, 4  # and their flags
seen: list[str] = []  # arguments of the requests that reached an application


class Answer(NamedTuple):
    """An answer to a visitor."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def request(self) -> dict[str, Any]:
        """The request as the application received it."""
        request: dict[str, Any] = json.loads(self.body)
        return request


async def head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """Read the first line and the headers of a request or an answer."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    return first, {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines if line)}


@asynccontextmanager
async def application(release: str) -> AsyncIterator[None]:
    """Serve a release's socket with an application that answers with the request it received."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            first, headers = await head(reader)
            method, uri, _ = first.split()
            seen.append(uri)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            request: dict[str, object] = {"release": release, "method": method, "uri": uri, "headers": headers}
            request["body"] = hashlib.sha256(body).hexdigest()
            text = json.dumps(request).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(text))
            if method != "HEAD":
                writer.write(text)
            await writer.drain()
        writer.close()

    socket = RUN / "releases" / release / "app.sock"
    socket.parent.mkdir(exist_ok=True)
    socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, socket, backlog=4096)
    socket.chmod(0o666)
    try:
        yield
    finally:
        server.close()
        socket.unlink(missing_ok=True)


def put(name: str, seconds: float) -> None:
    """Make the file `hold` or `maintenance`, with a deadline in so many seconds."""
    path = RUN / f".{name}"
    path.touch()
    os.utime(path, (time.time() + seconds,) * 2)
    path.rename(RUN / name)


def away(*names: str) -> None:
    """Remove the named files, or both."""
    for name in names or ("hold", "maintenance"):
        (RUN / name).unlink(missing_ok=True)


def switch(release: str) -> None:
    """Make another release the live one."""
    (RUN / ".current").symlink_to(f"releases/{release}")
    (RUN / ".current").rename(RUN / "current")


async def connect(*protocols: str, name: str = "localhost") -> Connection:
    """Open a connection to Nginx, by TLS with --https."""
    if not options.https:
        return await asyncio.open_connection("127.0.0.1", options.port)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # other tests check the certificate
    context.set_alpn_protocols(protocols or ("http/1.1",))
    return await asyncio.open_connection("127.0.0.1", options.port, ssl=context, server_hostname=name)


class Visitor:
    """A connection that is kept alive from one request to the next."""

    async def __aenter__(self) -> "Visitor":
        self.reader, self.writer = await connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()  # with TLS, close() would wait for the peer

    def send(self, data: bytes) -> None:
        """Send a part of a request."""
        self.writer.write(data)

    async def answer(self, since: float | None = None, *, bodiless: bool = False) -> Answer:
        """Read an answer; the seconds count from now unless a start is given."""
        start = since or time.monotonic()
        first, headers = await head(self.reader)
        body = b"" if bodiless else await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body, time.monotonic() - start)

    async def ask(self, path: str = "/", method: str = "GET", body: bytes | None = None) -> Answer:
        """Send a whole request and read the answer."""
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        start = time.monotonic()
        self.send(f"{method} {path} HTTP/1.1\r\n".encode() + HOST + length + b"\r\n" + (body or b""))
        return await self.answer(start, bodiless=method == "HEAD")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Multiplexed:
    """An HTTP/2 connection, with the part of the protocol that small requests need."""

    async def __aenter__(self) -> "Multiplexed":
        self.reader, self.writer = await connect("h2")
        self.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS))
        self.answers: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self.reading = asyncio.create_task(self.read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.reading.cancel()
        self.writer.transport.abort()

    async def read(self) -> None:
        """Assemble answers from frames."""
        statuses: dict[int, int] = {}
        bodies: dict[int, bytes] = {}
        while True:
            start = await self.reader.readexactly(9)
            kind, flags, stream = start[3], start[4], int.from_bytes(start[5:], "big")
            payload = await self.reader.readexactly(int.from_bytes(start[:3], "big"))
            if kind == SETTINGS and not flags & ACKNOWLEDGED:
                self.writer.write(frame(SETTINGS, ACKNOWLEDGED))
            elif kind == HEADERS:
                # The status comes first: 200 is in HPACK's table, others are not.
                statuses[stream] = 200 if payload[0] == 0x88 else int(payload[2:5])
            elif kind == DATA:
                bodies[stream] = bodies.get(stream, b"") + payload
            check(kind not in (RESET, GO_AWAY), f"frame {kind}: {payload!r}")
            if kind in (DATA, HEADERS) and flags & END:
                self.answers[stream].set_result((statuses[stream], bodies.get(stream, b"")))

    async def ask(
        self, path: str = "/", method: str = "GET", body: bytes = b"", pause: asyncio.Event | None = None
    ) -> Answer:
        """Send a request, optionally with a pause in its body, and wait for the answer."""
        start = time.monotonic()
        stream = 2 * len(self.answers) + 1
        self.answers[stream] = asyncio.get_running_loop().create_future()
        fields = {":method": method, ":scheme": "https", ":path": path, ":authority": "localhost"}
        block = b"".join(
            b"\0" + b"".join(bytes([len(part)]) + part.encode() for part in field) for field in fields.items()
        )
        self.writer.write(frame(HEADERS, END_HEADERS | (0 if body else END), stream, block))
        if pause:
            self.writer.write(frame(DATA, 0, stream, body[:1]))
            body = body[1:]
            await pause.wait()
        if body:
            self.writer.write(frame(DATA, END, stream, body))
        status, text = await self.answers[stream]
        return Answer(status, {}, text, time.monotonic() - start)


async def ask(path: str = "/", method: str = "GET", body: bytes | None = None) -> Answer:
    """Send a request over a new connection."""
    async with Visitor() as visitor:
        return await visitor.ask(path, method, body)


def check(holds: bool, what: object) -> None:
    """Exit with a message if a condition is false."""
    if not holds:
        raise SystemExit(f"{what}")


async def held(*requests: Coroutine[None, None, Answer], then: Callable[[], None]) -> list[Answer]:
    """Send requests during a hold, check that none is answered, call ``then`` and end the hold."""
    put("hold", 30)
    tasks = [asyncio.create_task(request) for request in requests]
    done, _ = await asyncio.wait(tasks, timeout=0.4)
    check(not done, f"answered during the hold: {[task.result() for task in done]}")
    static = await ask(f"{options.static}old.0123456789ab.css")
    check(static.status == 200 and static.seconds < 0.2, f"a static file waited: {static}")
    then()
    away()
    start = time.monotonic()
    answers = await asyncio.gather(*tasks)
    check(time.monotonic() - start < 1, "the answers came late after the hold")
    return answers


async def waits_and_continues() -> None:
    """No part of a waiting request is lost, and its connection stays open."""
    body = os.urandom(options.body)
    digest = hashlib.sha256(body).hexdigest()
    async with Visitor() as one, Visitor() as two, Visitor() as three:
        put("hold", 30)
        chunked = b"POST /c%20d?e=%2F HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        three.send(chunked + b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        got, put_, posted = await held(
            one.ask("/a%20b?c=%2F&d"), two.ask("/put?", "PUT", body), three.answer(), then=lambda: None
        )
        check(got.request["uri"] == "/a%20b?c=%2F&d" and got.request["method"] == "GET", got)
        check(
            put_.request["method"] == "PUT" and put_.request["body"] == digest and put_.request["uri"] == "/put?", put_
        )
        check(posted.request["uri"] == "/c%20d?e=%2F", posted)
        check(posted.request["body"] == hashlib.sha256(b"abc").hexdigest(), posted)
        for visitor in (one, two, three):
            check((await visitor.ask()).seconds < 0.2, "waited after the hold")
        one.send(b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        check("100" in (await head(one.reader))[0], "no 100 Continue")
        put("hold", 30)
        one.send(b"abc")
        expected = (await held(one.answer(), then=lambda: None))[0]
        check(expected.request["body"] == posted.request["body"], expected)
        check((await one.ask(method="HEAD")).status == 200, "HEAD")


async def slow_upload() -> None:
    """An upload that began before the hold must not reach the old release."""
    async with Visitor() as visitor:
        visitor.send(b"POST /slow HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\n\r\nabc")
        await asyncio.sleep(0.1)
        put("hold", 30)
        visitor.send(b"def")
        answer = (await held(visitor.answer(), then=lambda: switch("8")))[0]
        check(answer.request["release"] == "8", answer)
        check(answer.request["body"] == hashlib.sha256(b"abcdef").hexdigest(), answer)


async def new_release_answers() -> None:
    """Requests that waited are answered by the new live release."""
    before = await ask()
    check(before.request["release"] == "7", before)
    for answer in await held(ask(), ask(method="POST", body=b"x"), ask(method="DELETE"), then=lambda: switch("8")):
        check(answer.request["release"] == "8", answer)


async def deadline() -> None:
    """A hold that is not ended expires by itself and has no effect afterwards."""
    async with Visitor() as one, Visitor() as two:
        put("hold", 0.6)
        for answer in await asyncio.gather(one.ask(), two.ask(method="POST", body=b"x")):
            check(answer.status == 200 and 0.5 < answer.seconds < 1, f"not on time: {answer}")
    for answer in await asyncio.gather(ask(), ask(method="POST", body=b"x")):
        check(answer.status == 200 and answer.seconds < 0.2, f"held by an expired file: {answer}")
    away()


async def maintenance() -> None:
    """Maintenance refuses new requests and those that already wait in a hold."""
    put("hold", 30)
    waiting = [asyncio.create_task(request) for request in (ask("/w"), ask("/w", "POST", b"x"))]
    await asyncio.sleep(0.2)
    put("maintenance", 20.5)
    answers = await asyncio.gather(*waiting, ask("/w"), ask("/w", "POST", b"x"), ask("/w", "HEAD"), ask("/w", "PUT"))
    away("hold")
    answers += [await ask("/w"), await ask("/w", "POST", b"x")]
    for answer in answers:
        check(answer.status == 503 and answer.headers.get("retry-after") in ("20", "21"), answer)
        check(answer.headers.get("cache-control") == "no-store", answer)
    check(b"Back in a moment" in answers[-1].body and b"Back in a moment" in answers[0].body, answers)
    check("/w" not in seen, "a refused request reached the application")
    check((await ask(f"{options.static}old.0123456789ab.css")).status == 200, "a static file was refused")
    put("maintenance", -1)
    check((await ask()).status == 200 and (await ask(method="POST")).status == 200, "refused after the deadline")
    away()


async def disconnected() -> None:
    """A request whose client disconnects during the hold is not passed on."""
    put("hold", 30)
    async with Visitor() as visitor, Visitor() as other:
        visitor.send(b"POST /gone HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx")
        other.send(b"GET /gone HTTP/1.1\r\n" + HOST + b"\r\n")
        await asyncio.sleep(0.2)
    if options.https:
        async with Multiplexed() as many:
            asking = [asyncio.create_task(many.ask("/gone", method)) for method in ("GET", "POST")]
            await asyncio.sleep(0.2)
            for task in asking:
                task.cancel()
    await asyncio.sleep(0.2)
    away()
    await asyncio.sleep(0.3)
    check("/gone" not in seen, "passed on after the client disconnected")


async def burst() -> None:
    """300 requests wait two seconds at the same time, and all are answered."""
    put("hold", 30)
    requests = [ask(f"/burst?{n}", "POST" if n % 2 else "GET", b"x" * (n % 2)) for n in range(300)]
    tasks = [asyncio.create_task(request) for request in requests]
    await asyncio.sleep(2)
    check(not any(task.done() for task in tasks), "answered during the hold")
    away()
    answers = await asyncio.gather(*tasks)
    check({answer.status for answer in answers} == {200}, sorted({answer.status for answer in answers}))
    check(sum(uri.startswith("/burst") for uri in seen) == 300, "a request was not passed on exactly once")


async def broken() -> None:
    """Without an application Nginx answers with the plain page, after a hold too."""
    switch("9")
    answers = [await ask(), await ask(method="POST", body=b"x")]
    answers += await held(ask(), ask(method="POST", body=b"x"), then=lambda: None)
    for answer in answers:
        check(answer.status == 503 and answer.headers["retry-after"] == "5", answer)
        check(b"Back in a moment" in answer.body, answer)


async def client_headers() -> None:
    """Nginx sets the headers about the client; values sent by the client are dropped."""
    forged = b"".join(b"%s: forged\r\n" % name for name in (*CLIENT_HEADERS, b"X_Forwarded_Proto"))
    async with Visitor() as visitor:
        visitor.send(b"GET http://localhost:81/ HTTP/1.1\r\nHost: other.example:81\r\n" + forged + b"\r\n")
        headers = (await visitor.answer()).request["headers"]
    check(headers["host"] == "localhost:81", headers)
    check(headers["x-forwarded-proto"] == ("https" if options.https else "http"), headers)
    check(headers["x-forwarded-for"] == headers["x-real-ip"], headers)
    check("forged" not in headers.values(), headers)


async def multiplexed() -> None:
    """The same by HTTP/2 on one connection, where static files do not wait behind held requests."""
    async with Multiplexed() as visitor:
        before = await visitor.ask("/a%20b?c=%2F")
        check((before.request["release"], before.request["uri"]) == ("7", "/a%20b?c=%2F"), before)
        check(before.request["headers"]["host"] == "localhost", before)
        pause = asyncio.Event()
        slow = asyncio.create_task(visitor.ask("/slow", "POST", b"abc", pause))
        await asyncio.sleep(0.1)
        put("hold", 30)
        pause.set()
        requests = [visitor.ask(), visitor.ask(method="DELETE"), visitor.ask("/p", "PUT", b"x" * options.body)]
        tasks = [slow, *map(asyncio.create_task, requests)]
        done, _ = await asyncio.wait(tasks, timeout=0.4)
        check(not done, f"answered during the hold: {[task.result() for task in done]}")
        static = await visitor.ask(f"{options.static}old.0123456789ab.css")
        check(static.status == 200 and static.seconds < 0.2, f"a static file waited: {static}")
        switch("8")
        away()
        answers = await asyncio.gather(*tasks)
        check([answer.request["method"] for answer in answers] == ["POST", "GET", "DELETE", "PUT"], answers)
        check({answer.request["release"] for answer in answers} == {"8"}, answers)
        check(answers[0].request["body"] == hashlib.sha256(b"abc").hexdigest(), answers)
        check(answers[3].request["body"] == hashlib.sha256(b"x" * options.body).hexdigest(), answers)
        put("maintenance", 20)
        for answer in (await visitor.ask(), await visitor.ask(method="POST", body=b"x")):
            check(answer.status == 503 and b"Back in a moment" in answer.body, answer)


async def login_attempts() -> None:
    """Login attempts wait in a hold as other requests do, and their rate is limited."""
    for answer in await held(*(ask("/login/?next=/", "POST", b"x") for _ in range(6)), then=lambda: None):
        check(answer.status == 200, answer)
    refused = [await ask("/login/", "POST", b"x"), await ask("/%6cogin/", "POST", b"x")]
    check([answer.status for answer in refused] == [429, 429], refused)
    others = [await ask("/login/"), await ask("/", "POST", b"x"), *await held(ask("/login/"), then=lambda: None)]
    check({answer.status for answer in others} == {200}, others)


async def unknown_names() -> None:
    """An unknown name gets no certificate, and 421 on a connection for another name."""
    for name in ("other.example", "127.0.0.1"):  # an address is never sent
        try:
            await connect(name=name)
        except ssl.SSLError as error:
            check("UNRECOGNIZED_NAME" in str(error), error)
        else:
            check(False, f"a certificate for '{name}'")
    async with Visitor() as visitor:
        visitor.send(b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")
        check((await visitor.answer()).status == 421, "an answer for another name")


async def main() -> None:
    """Run all checks."""
    cases = [waits_and_continues, slow_upload, new_release_answers, deadline, maintenance, disconnected, client_headers]
    cases += [multiplexed, login_attempts, unknown_names] if options.https else [burst]
    away()
    async with application("7"), application("8"):
        for each in (*cases, broken):
            start = time.monotonic()
            try:
                await asyncio.wait_for(each(), 15)
            except SystemExit as error:
                raise SystemExit(f"{each.__name__}: {error}") from None
            finally:
                away()
                switch("7")
            print(f"{each.__name__} {time.monotonic() - start:.1f} s")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--https", action="store_true")
parser.add_argument("--port", type=int, default=80)
parser.add_argument("--static", default="/static/", help="URL of the site's static files")
parser.add_argument("--body", type=int, default=3_000_000, help="bytes of a large body")
options = parser.parse_args()
asyncio.run(main())
