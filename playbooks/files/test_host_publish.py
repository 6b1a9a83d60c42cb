"""Print Docker's --publish options for a test host, with a free port of 127.0.0.1 in place of 0.

If Docker chose free ports, they would change at every restart of the container, that is at every reboot of the host.
Usage: test_host_publish.py CONTAINER_PORT:PORT_OR_0 …
"""

import random
import socket
import sys

# Outside Linux's range for outgoing connections, so that no connection takes the port in the meantime.
CANDIDATES = range(20000, 30000)


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of 127.0.0.1 on which nothing listens."""
    found: list[int] = []
    for port in random.sample(CANDIDATES, len(CANDIDATES)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


if __name__ == "__main__":
    pairs = [argument.split(":") for argument in sys.argv[1:]]
    free = free_ports(len(pairs))
    for (container_port, port), fallback in zip(pairs, free, strict=True):
        print(f"--publish=127.0.0.1:{port if port != '0' else fallback}:{container_port}")
