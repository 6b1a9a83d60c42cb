"""The relay passes everything on, in order, with the requested delay."""

from __future__ import annotations

import socket
import threading
import time

from bench.delay import delayed

ROUND_TRIP = 0.1


def echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while chunk := connection.recv(65536):
            connection.sendall(chunk)


def test_the_relay_delays_and_loses_nothing() -> None:
    sent = bytes(range(256)) * 4000
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        with delayed(server.getsockname()[1], ROUND_TRIP) as port:
            started = time.monotonic()
            with socket.create_connection(("127.0.0.1", port)) as client:
                threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
                received = client.recv(1)
                waited = time.monotonic() - started
                while len(received) < len(sent):
                    received += client.recv(65536)
    assert received == sent
    assert 2 * ROUND_TRIP <= waited < 2 * ROUND_TRIP + 1  # to open the connection, and to send and receive
