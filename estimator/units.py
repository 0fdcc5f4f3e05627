"""Numbers and times as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def short_number(value: float) -> str:
    """Three significant digits and a magnitude: ``12.3M``, ``950``, ``-4.10k``."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "n/a"
    power = min(4, max(0, math.floor(math.log10(abs(value)) / 3 + 1e-9)))
    scaled = value / 1000**power
    if abs(float(f"{scaled:.3g}")) >= 1000 and power < 4:
        power, scaled = power + 1, scaled / 1000
    digits = max(0, 2 - math.floor(math.log10(abs(scaled)) + 1e-9)) if abs(scaled) >= 0.01 else 2
    return f"{scaled:.{min(digits, 2)}f}{('', 'k', 'M', 'B', 'T')[power]}"


def short_usd(value: float) -> str:
    """`short_number` with the dollar sign: ``$12.3M``, ``-$4.10k``."""
    text = short_number(abs(value))
    return f"-${text}" if value < 0 else f"${text}"


def price_text(price: float) -> str:
    """Write a price with five significant digits at least, thousands grouped."""
    if price <= 0 or not math.isfinite(price):
        return "n/a"
    return f"{price:,.{max(0, 4 - math.floor(math.log10(price)))}f}"


def venue_name(exchange: str) -> str:
    """Write a venue as it writes itself: ``OKX``, ``Binance``."""
    return "OKX" if exchange == "okx" else exchange.capitalize()


def utc_text(time_ms: float, *, seconds: bool = False) -> str:
    """Write a time as Plotly and people read it: ``2026-11-21 14:05``."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def span_text(seconds: float) -> str:
    """Write a length of time: ``90 s``, ``15 min``, ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
