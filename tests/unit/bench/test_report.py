"""The report of the measurements agrees with the figures."""

from __future__ import annotations

import pytest

from bench.report import Figure, Section, Table, Target, merged

NAMES = ["push", "release"]


def section(name: str, *targets: Target) -> Section:
    return Section(name, f"The {name}", {"date": "today"}, [Table(("way", "time"), [["ours", 1]])], targets)


@pytest.mark.parametrize(
    ("values", "unit", "says"),
    [
        ((1.234,), "s", "1.23 s"),
        ((3.0, 1.0, 2.0), "s", "2.00 [1.00–3.00] s"),
        ((1500.0, 1500.0), "kB", "1.5 kB"),
        ((64e6,), "MB", "64.00 MB"),
        ((1,), "", "1"),
    ],
)
def test_a_figure_shows_its_median_and_its_range(values: tuple[float, ...], unit: str, says: str) -> None:
    assert str(Figure(values, unit)) == says


def test_the_median_decides_whether_a_target_is_met() -> None:
    figure = Figure((1.0, 1.5, 9.0), "s")
    assert Target("seconds", figure, 1.5).met
    missed = Target("seconds", figure, 1.49, "the peer's")
    assert missed.cells == ["seconds", "1.50 [1.00–9.00] s", "≤ 1.49 s (the peer's)", "**not met**"]


def test_the_verdict_names_the_missed_targets() -> None:
    met, missed = Target("bytes", Figure((1,), ""), 1), Target("seconds", Figure((2,), ""), 1)
    assert section("push", met).verdict == "1 of 1 targets are met."
    assert section("push", met, met).verdict == "2 of 2 targets are met."
    assert section("push", met, missed).verdict == "1 of 2 targets are met; not met: seconds."


def test_a_measurement_replaces_its_section_and_no_other() -> None:
    document = merged("", [section("release"), section("push")], NAMES)
    assert document.index("## The push") < document.index("## The release")
    again = merged(document, [section("push", Target("bytes", Figure((1,), ""), 0))], NAMES)
    assert again.count("# Benchmarks") == 1
    assert "not met: bytes" in again
    assert again[again.index("<!-- release -->") :] == document[document.index("<!-- release -->") :]
    assert merged(again, [section("push")], NAMES) == document
