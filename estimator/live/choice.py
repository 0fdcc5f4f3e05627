"""Which venues and which of their markets are followed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

from estimator.domain import Market
from estimator.errors import SettingsError
from estimator.exchanges.venue import Exchange, MarketListing

VENUES: Final = ("binance", "bybit", "okx", "gate", "bitget", "hyperliquid")


class Wanted:
    """Which markets are chosen of those a venue lists."""

    def __init__(self, text: str) -> None:
        words = text.lower().split()
        self._top = int(words[1]) if len(words) == 2 and words[0] == "top" and words[1].isdigit() else 0
        self._names = [] if self._top else [name.strip().upper() for name in text.split(",") if name.strip()]
        if not (self._top or self._names):
            raise SettingsError(f"LIQHEAT_MARKETS: got {text!r}, expected coins such as 'BTC,ETH' or 'top 100'")

    def choose(self, listings: Sequence[MarketListing]) -> list[Market]:
        """Choose from the listings of one venue, which come largest first as far as known."""
        by_size = sorted(listings, key=lambda one: -(one.open_interest_usd or 0.0))
        if self._top:
            return [one.market for one in by_size[: self._top]]
        found: dict[str, Market] = {}
        for one in by_size:
            market = one.market
            if market.symbol.upper() in self._names:
                found.setdefault(market.symbol, market)
            if market.base.upper() in self._names and market.contract == "linear":
                found.setdefault(market.base, market)
        return sorted(dict.fromkeys(found.values()), key=self.rank)

    def rank(self, market: Market) -> int:
        """Order on the page; the largest of a venue keep their order."""
        names = [n for n in self._names if n in (market.symbol.upper(), market.base.upper())]
        return self._names.index(names[0]) if names else 0


def make_venues(names: str, exchange_base: str | None = None) -> list[Exchange]:
    """Make the venues of a comma-separated list.

    Raises
    ------
    SettingsError
        Naming one that is not known.
    """
    venues: list[Exchange] = []
    for name in (n.strip().lower() for n in names.split(",")):
        if name not in VENUES:
            raise SettingsError(f"LIQHEAT_VENUES: {name!r} is not one of {', '.join(VENUES)}")
        module = importlib.import_module(f"estimator.exchanges.{name}")
        made = getattr(module, name.capitalize())
        venues.append(made(exchange_base=exchange_base, throttle=exchange_base is None))
    return venues
