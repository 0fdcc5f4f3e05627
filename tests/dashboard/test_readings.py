"""What the page says about its data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.frame import ChartFrame
from dashboard.readings import banner
from estimator.domain import Origin


@pytest.mark.parametrize(
    ("origin", "source", "said"),
    [
        (Origin.LIVE, "live from binance", ""),
        (Origin.LIVE, "live from binance; http://127.0.0.1:9 stands in for them", "NOT THE VENUES: http://127.0.0.1:9"),
        (Origin.SIMULATED, "agent-based market; no venue answers", "Shown because no venue answers."),
        (Origin.RECORDED, "SOL of OKX; tiers by a rule", "RECORDED data"),
    ],
)
def test_the_banner_says_what_nobody_may_miss(frame: ChartFrame, origin: Origin, source: str, said: str) -> None:
    told = banner(replace(frame, statuses=tuple(replace(s, origin=origin, source=source) for s in frame.statuses)))
    assert said in told
    assert bool(told) == bool(said)
    assert ("Shown because" in told) == (origin is Origin.SIMULATED)


def test_the_banner_names_venues_that_are_not_in_the_sums(frame: ChartFrame) -> None:
    told = banner(replace(frame, loading=("okx",)))
    assert "Still being loaded and not in the sums: okx." in told
