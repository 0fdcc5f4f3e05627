"""What the page says about its data."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from dashboard.frame import ChartFrame
from dashboard.lens import shade
from dashboard.readings import banner, scale_reading
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


def test_the_change_of_a_day_is_the_one_of_the_table_of_markets(client: httpx.Client) -> None:
    readings = client.get("/api/v1/chart?symbol=BTC&range=12h").json()["readings"]
    [row] = [m for m in client.get("/api/v1/markets").json()["markets"] if m["id"] == readings["venues"][0]["market"]]
    changed = readings["mark_price"] / readings["price_day_before"] - 1
    assert changed == pytest.approx(row["price_change_24h"])
    assert changed != 0


def test_the_banner_names_venues_that_are_not_in_the_sums(frame: ChartFrame) -> None:
    told = banner(replace(frame, loading=("okx",)))
    assert "Still being loaded and not in the sums: OKX." in told


def test_a_side_with_nothing_on_screen_has_no_scale(frame: ChartFrame) -> None:
    shading = shade(frame)
    told = scale_reading(replace(shading, long_full=0.0))
    assert told["long_usd"] is None
    assert told["short_usd"] == shading.short_full > 0
