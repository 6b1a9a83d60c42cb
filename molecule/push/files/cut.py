"""Run a playbook whose connections to a host pass this proxy; close all of them after BYTES sent to the host.

Usage: cut.py PORT_OF_THE_HOST BYTES ansible-playbook …
"""

import contextlib
import json
import socket
import subprocess
import sys
import threading

port, limit, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
listener = socket.create_server(("127.0.0.1", 0))
opened: list[socket.socket] = []
passed = 0


def cut() -> None:
    """Close every connection and the listener."""
    for connection in [listener, *opened]:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def forward(source: socket.socket, target: socket.socket, counted: bool) -> None:
    """Forward data, up to the limit."""
    global passed
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if counted:
                data = data[: limit - passed]
                passed += len(data)
            target.sendall(data)
            if passed >= limit:
                cut()
        target.shutdown(socket.SHUT_WR)


def serve() -> None:
    """Connect each client to the host."""
    with contextlib.suppress(OSError):
        while True:
            client = listener.accept()[0]
            host = socket.create_connection(("127.0.0.1", port))
            opened.extend([client, host])
            for pair in ((client, host, True), (host, client, False)):
                threading.Thread(target=forward, args=pair, daemon=True).start()


# known_hosts has the host's key for the host's port, not for the port of this proxy.
here = {
    "ansible_port": listener.getsockname()[1],
    "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
}
threading.Thread(target=serve, daemon=True).start()
status = subprocess.run([*command, "--extra-vars", json.dumps(here)], check=False).returncode
print(f"{passed} of {limit} bytes sent, {'cut' if passed >= limit else 'not cut'}", file=sys.stderr)
sys.exit(status)
