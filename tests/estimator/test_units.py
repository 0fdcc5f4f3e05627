"""Numbers as people read them."""

from __future__ import annotations

import pytest

from estimator.units import price_text, short_number, short_usd, utc_text, venue_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_345_678, "$12.3M"),
        (950, "$950"),
        (999_999, "$1.00M"),
        (0, "$0"),
        (-4_100, "-$4.10k"),
        (1.5e9, "$1.50B"),
        (0.5, "$0.50"),
    ],
)
def test_money_is_short(value: float, text: str) -> None:
    assert short_usd(value) == text


def test_what_is_not_a_number_is_not_shown_as_one() -> None:
    assert short_number(float("nan")) == "n/a"
    assert price_text(float("inf")) == "n/a"


def test_prices_keep_five_digits() -> None:
    assert price_text(64_231.5) == "64,232"
    assert price_text(0.0812345) == "0.081235"


def test_venues_are_written_as_they_write_themselves() -> None:
    assert [venue_name(v) for v in ("okx", "binance")] == ["OKX", "Binance"]


def test_times_are_utc() -> None:
    assert utc_text(1_768_487_400_000) == "2026-01-15 14:30"
    assert utc_text(1_768_487_461_000, seconds=True) == "2026-01-15 14:31:01"
