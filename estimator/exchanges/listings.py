"""The markets of a venue as it lists them, asked for once and found by symbol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from estimator.domain import ContractType, LeverageBracket, Market
from estimator.errors import ParameterError, UnknownMarket
from estimator.exchanges.edge import Health
from estimator.exchanges.venue import MarketListing


class Listings:
    """What a venue lists, loaded when first needed.

    Parameters
    ----------
    venue : str
        For messages.
    load : callable
        Asks the venue.
    """

    def __init__(self, venue: str, load: Callable[[], Awaitable[Sequence[MarketListing]]]) -> None:
        self._venue, self._load = venue, load
        self._by_symbol: dict[str, MarketListing] = {}
        self._loading = asyncio.Lock()

    def keep(self, listings: Sequence[MarketListing]) -> None:
        """Replace what is known."""
        self._by_symbol = {listing.market.symbol: listing for listing in listings}

    async def of(self, market: Market) -> MarketListing:
        """Return the listing of a market.

        Raises
        ------
        UnknownMarket
            Where the venue does not list it (any more).
        SourceError
            Where the venue cannot be asked.
        """
        async with self._loading:
            if not self._by_symbol:
                self.keep(await self._load())
        listing = self._by_symbol.get(market.symbol)
        if listing is None:
            raise UnknownMarket(f"{self._venue} does not list {market.symbol}")
        return listing

    async def by_native_id(self, markets: Sequence[Market], health: Health) -> dict[str, Market]:
        """Map the venue's names to the markets asked for; one that is not listed is counted and left out.

        Raises
        ------
        UnknownMarket
            Where none of them is listed.
        """
        named: dict[str, Market] = {}
        for market in markets:
            try:
                named[(await self.of(market)).native_id] = market
            except UnknownMarket:
                health.reject("subscriptions", "not listed by the venue", example=market.symbol)
        if markets and not named:
            raise UnknownMarket(f"{self._venue} lists none of {', '.join(m.symbol for m in markets)}")
        return named


def listed_market(
    exchange: str,
    symbol: str,
    contract: ContractType,
    brackets: tuple[LeverageBracket, ...],
    taker_fee_rate: float,
    health: Health,
) -> Market | None:
    """Make a market, or count one that our vocabulary cannot name (symbols in other scripts, no brackets)."""
    try:
        return Market(exchange, symbol, contract, brackets, taker_fee_rate)
    except ParameterError as error:
        health.reject("markets", f"{error.name} not supported", example=symbol)
        return None


def largest_first(listings: Sequence[MarketListing]) -> list[MarketListing]:
    """Sort by open interest, then by volume; unknown ones last. [USD]"""
    return sorted(listings, key=lambda one: (-(one.open_interest_usd or 0.0), -(one.volume_usd or 0.0)))
