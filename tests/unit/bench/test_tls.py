"""The benchmark of HTTPS counts only answers that are files."""

from __future__ import annotations

import pytest

from bench.lab import LabError
from bench.tls import answers

OUTPUT = """Running 1s test @ https://files.example:8443/static/1000.bin
  1 threads and 16 connections
  1437 requests in 1.10s, 1.86MB read
{more}Requests/sec:   1306.53
Transfer/sec:      1.69MB
"""


def test_answers_per_second_are_read() -> None:
    assert answers(OUTPUT.format(more="")) == 1306.53


@pytest.mark.parametrize(
    "output",
    [
        OUTPUT.format(more="  Non-2xx or 3xx responses: 7\n"),
        OUTPUT.format(more="  Socket errors: connect 0, read 16, write 0, timeout 0\n"),
        OUTPUT.format(more="").replace("1306.53", "0.00"),
        "unable to connect to files.example:8443 Connection refused\n",
    ],
)
def test_output_with_errors_is_refused(output: str) -> None:
    with pytest.raises(LabError, match="did not get its files"):
        answers(output)
