"""Which venues and which of their markets are followed."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from estimator.domain import Market
from estimator.errors import SettingsError
from estimator.exchanges.venue import Exchange, MarketListing
from estimator.settings import VENUES


class Wanted:
    """Which markets are chosen of those the venues list.

    Parameters
    ----------
    text : str
        Coins and symbols, comma separated, or ``"top N"``: the N coins with the largest open interest of all venues
        together.

    Attributes
    ----------
    found : set of str
        Coins and symbols that a venue has listed so far.

    Raises
    ------
    SettingsError
        If it is neither.
    """

    def __init__(self, text: str) -> None:
        words = text.lower().split()
        is_top = words[:1] == ["top"] and len(words) == 2
        self._top = int(words[1]) if is_top and words[1].isdigit() else 0
        self._names = [] if is_top else [name.strip().upper() for name in text.split(",") if name.strip()]
        self.found: set[str] = set()
        if not (self._top or self._names):
            raise SettingsError(f"LIQHEAT_MARKETS: got {text!r}, expected coins such as 'BTC,ETH' or 'top 100'")

    def settle(self, listings: Iterable[MarketListing]) -> None:
        """Find the largest coins, once: a venue that answers later joins with those that were found."""
        if self._top and not self._names:
            self._names = _largest(listings)[: self._top]

    def choose(self, listings: Sequence[MarketListing]) -> list[Market]:
        """Choose from the listings of one venue: of a coin its largest linear market, and symbols as they are."""
        found: dict[str, Market] = {}
        for one in sorted(listings, key=_size, reverse=True):
            market = one.market
            if market.symbol.upper() in self._names:
                found.setdefault(market.symbol, market)
            if market.base.upper() in self._names and market.contract == "linear":
                found.setdefault(market.base, market)
        self.found |= {name.upper() for name in found}
        return sorted(dict.fromkeys(found.values()), key=self.rank)

    @property
    def unfound(self) -> list[str]:
        """Names that nothing chosen so far answers to."""
        return [name for name in self._names if name not in self.found]

    def rank(self, market: Market) -> int:
        """Order on the page."""
        names = [n for n in self._names if n in (market.symbol.upper(), market.base.upper())]
        return self._names.index(names[0]) if names else 0


def _size(listing: MarketListing) -> tuple[float, float]:
    """Return what markets are compared by: open interest, and where no venue tells it, what was traded. [USD]"""
    return listing.open_interest_usd or 0.0, listing.volume_usd or 0.0


def _largest(listings: Iterable[MarketListing]) -> list[str]:
    """Coins that have a linear market, by their size on all venues together, the largest first."""
    sizes: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    linear: set[str] = set()
    for one in listings:
        coin = one.market.base.upper()
        if one.market.contract == "linear":
            linear.add(coin)
        (interest, volume), (more_interest, more_volume) = sizes[coin], _size(one)
        sizes[coin] = interest + more_interest, volume + more_volume
    return sorted(linear, key=lambda coin: (sizes[coin], coin), reverse=True)


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
