"""The benchmark of HTTPS counts files only."""

from __future__ import annotations

import pytest

from bench.lab import LabError
from bench.tls import answers

SAID = """Running 1s test @ https://files.example:8443/static/1000.bin
  1 threads and 16 connections
  1437 requests in 1.10s, 1.86MB read
{more}Requests/sec:   1306.53
Transfer/sec:      1.69MB
"""


def test_what_is_counted() -> None:
    assert answers(SAID.format(more="")) == 1306.53


@pytest.mark.parametrize(
    "said",
    [
        SAID.format(more="  Non-2xx or 3xx responses: 7\n"),
        SAID.format(more="  Socket errors: connect 0, read 16, write 0, timeout 0\n"),
        SAID.format(more="").replace("1306.53", "0.00"),
        "unable to connect to files.example:8443 Connection refused\n",
    ],
)
def test_what_is_no_measurement(said: str) -> None:
    with pytest.raises(LabError, match="did not get its files"):
        answers(said)
