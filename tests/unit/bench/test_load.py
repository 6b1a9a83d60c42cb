"""The load detects every kind of failed request, and the count every lost or doubled id."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support import ledger, load

OK = "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"


async def sent_to(answer: str, seconds: float = 1.0, rate: float = 20.0) -> list[load.Request]:
    """Send load to a server that sends ``answer`` ({body} is the request's id); empty: it closes the connection."""
    served: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                break
            length = next((int(line[15:]) for line in head.splitlines() if line.startswith("Content-Length:")), 0)
            body = (await reader.readexactly(length)).decode()
            key = body.removeprefix("id=") if "POST /write" in head else head.split()[1].partition("=")[2]
            served[key] += 1
            if not answer:
                break
            writer.write(answer.format(length=len(key), body=key).encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    running = load.Load(f"http://127.0.0.1:{port}", rate)
    await running.run(seconds)
    server.close()
    assert [key for key, times in served.items() if key and times > 1] == []
    return running.requests


def test_connections_are_reused_but_some_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(load, "POOL", 3)
    plain = asyncio.open_connection

    async def counted(*arguments: object, **options: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # All arguments of the load are passed on.
        reader, writer = await plain(*arguments, **options)  # type: ignore[arg-type]
        opened.append(writer)
        return reader, writer

    async def run() -> int:
        task = asyncio.create_task(sent_to(OK, 2.0, 100.0))
        await asyncio.sleep(1.9)
        still = sum(not writer.is_closing() for writer in opened)
        await task
        return still

    monkeypatch.setattr(asyncio, "open_connection", counted)
    still = asyncio.run(run())
    assert 50 < len(opened) < 180  # of 200 requests
    assert still <= 3 + 5  # the pool, and requests under way


def test_answers_are_counted() -> None:
    requests = asyncio.run(sent_to(OK))
    assert len(requests) == 20
    assert {request.error for request in requests} == {""}
    assert sum(request.acknowledged for request in requests) == 10


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("", "IncompleteReadError"),
        ("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "status 503"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "no answer"),
        ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "status 404"),
        ("no HTTP\r\n\r\n", "ValueError"),
    ],
)
def test_failures_are_detected(answer: str, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TIME_LIMIT", 0.3)
    requests = asyncio.run(sent_to(answer))
    assert all(request.error.startswith(error) for request in requests), requests[0]
    assert not any(request.acknowledged for request in requests)
    assert load.summary(requests)["failed"] == 20


def test_an_answer_for_another_id_acknowledges_nothing() -> None:
    requests = asyncio.run(sent_to("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"))
    assert {bool(request.error) for request in requests if request.kind == "write"} == {True}


def test_a_closed_port_fails_every_request() -> None:
    running = load.Load("http://127.0.0.1:1", 20)
    asyncio.run(running.run(0.5))
    assert {request.error.partition(":")[0] for request in running.requests} == {"ConnectionRefusedError"}


def test_a_late_answer_fails_and_acknowledges() -> None:
    request = load.Request("write", "a", start=100.0, end=116.0, status=200)
    request.judge()
    assert (request.error, request.acknowledged) == ("answered after 16.0 s", True)


def test_the_time_of_a_slow_upload_is_not_counted() -> None:
    request = load.Request("upload", "a", start=100.0, sent=105.0, end=116.0, status=200)
    request.judge()
    assert request.error == ""


def test_lost_and_doubled_ids_are_detected() -> None:
    tally = ledger.compare(["a", "b", "c"], ["a", "c", "c", "d", "d"])
    assert (tally.missing, tally.doubled, tally.right) == (("b",), ("c", "d"), False)
    assert ledger.compare(["a"], ["a", "b"]).right


@pytest.mark.parametrize("status", [0, 3])
def test_load_runs_during_a_command(status: int, tmp_path: Path) -> None:
    started = time.monotonic()
    command = ["-m", "tests.support.load", "--url", "http://127.0.0.1:1", "--seconds", "60", "--rate", "10", "--output"]
    ended = [sys.executable, "-c", f"import sys; print('said'); sys.exit({status})"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "run.json"), "--", *ended],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status or 1, "said\n")  # 1: all requests have failed
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "run.json").read_text())["summary"]
    assert summary["requests"] == summary["failed"] > 0
    assert time.monotonic() - started < 30
