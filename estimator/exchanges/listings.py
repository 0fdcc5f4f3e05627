"""The markets of a venue as it lists them, asked for once and found by symbol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from estimator.domain import LeverageBracket, Market
from estimator.errors import BadPayload, ParameterError, UnknownMarket
from estimator.exchanges.edge import Health
from estimator.exchanges.venue import BracketTable, MarketListing
from estimator.model.margin import maintenance_amounts

_Row = TypeVar("_Row")
Tier = tuple[float, float, float, float | None]


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
        self._last_known: dict[str, MarketListing] = {}  # of every market that was ever listed
        self._loading = asyncio.Lock()

    async def renew(self) -> list[MarketListing]:
        """Ask the venue, and replace what is known.

        Raises
        ------
        SourceError
            Where the venue cannot be asked.
        """
        listings = list(await self._load())
        self._by_symbol = {listing.market.symbol: listing for listing in listings}
        self._last_known |= self._by_symbol
        return listings

    async def of(self, market: Market) -> MarketListing:
        """Return the listing of a market.

        Raises
        ------
        UnknownMarket
            Where the venue does not list it (any more).
        SourceError
            Where the venue cannot be asked.
        """
        await self.load()
        return self.known(market)

    async def load(self) -> None:
        """Ask the venue unless its markets are known.

        Raises
        ------
        SourceError
            Where the venue cannot be asked.
        """
        async with self._loading:
            if not self._by_symbol:
                await self.renew()

    def known(self, market: Market) -> MarketListing:
        """Return the listing of a market, as loaded.

        Raises
        ------
        UnknownMarket
            Where the venue does not list it (any more).
        """
        listing = self._by_symbol.get(market.symbol)
        if listing is None:
            raise UnknownMarket(f"{self._venue} does not list {market.symbol}")
        return listing

    async def by_native_id(self, markets: Sequence[Market], health: Health) -> dict[str, MarketListing]:
        """Return the listings of markets by the venue's names; one that was never listed is counted and left out.

        One that is not listed just now stays: it may be traded again while a stream goes on, and whether it can be
        subscribed to is for the venue to say.

        Raises
        ------
        UnknownMarket
            Where none of them ever was listed.
        """
        await self.load()
        known = [self._last_known.get(market.symbol) for market in markets]
        for market, listing in zip(markets, known, strict=True):
            if listing is None:
                health.reject("subscriptions", "refused by the venue", example=market.symbol)
        if markets and not any(known):
            raise UnknownMarket(f"{self._venue} lists none of {', '.join(m.symbol for m in markets)}")
        found = zip(markets, known, strict=True)
        return {one.native_id: replace(one, market=market) for market, one in found if one is not None}


def listed(rows: Sequence[_Row], read: Callable[[_Row], MarketListing | None], health: Health) -> list[MarketListing]:
    """Read rows; a market that our vocabulary cannot name (other scripts, impossible tiers) is counted and left out."""
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except ParameterError as error:
            health.reject("markets", f"{error.name} not supported", example=row)
    return [one for one in found if one is not None]


def bracket_table(tiers: Sequence[Tier], endpoint: str, source: str) -> BracketTable:
    """Make brackets of (floor, maximum leverage, maintenance rate, maintenance amount where it is given).

    Raises
    ------
    BadPayload
        Where they cannot be: floors that do not rise from 0, rates out of range.
    """
    if not tiers:
        raise BadPayload(endpoint, "body", "no tier")
    try:
        bare = [LeverageBracket(floor, leverage, rate) for floor, leverage, rate, _ in tiers]
        amounts = [a if t[3] is None else t[3] for a, t in zip(maintenance_amounts(bare), tiers, strict=True)]
        brackets = tuple(replace(one, maintenance_amount=a) for one, a in zip(bare, amounts, strict=True))
        Market("any", "A/B:B", "linear", brackets)  # knows what a table must look like
    except ParameterError as error:
        raise BadPayload(endpoint, error.name, str(error)) from error
    return BracketTable(brackets, source)


def largest_first(listings: Sequence[MarketListing]) -> list[MarketListing]:
    """Sort by open interest, then by volume; unknown ones last. [USD]"""
    return sorted(listings, key=lambda one: (-(one.open_interest_usd or 0.0), -(one.volume_usd or 0.0)))
