"""`Holders`: what the accounts of a venue hold, asked in turn and summed up; the accounts themselves stay here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from estimator.domain import Market
from estimator.errors import CacheError, SettingsError, SourceError
from estimator.exchanges.venue import PublishesPositions
from estimator.live.pace import Pace
from estimator.live.watchlist import Watchlist
from estimator.model.holdings import Observed, observe

_LOG: Final = logging.getLogger(__name__)
_ADDRESS: Final = re.compile(r"0x[0-9a-f]{40}")
_SETTING: Final = "LIQHEAT_HYPERLIQUID_ADDRESSES"


@dataclass(frozen=True, slots=True)
class Watching:
    """Where observed positions go, and whose.

    Parameters
    ----------
    put : callable
        Takes what was measured by market id, None for nothing; called in a thread, may raise `CacheError`.
    listed : tuple of str
        Accounts that are watched in any case.
    shards : int
        How many workers ask the same venue, which counts the requests of all of them.
    """

    put: Callable[[Mapping[str, Observed | None]], None]
    listed: tuple[str, ...] = ()
    shards: int = 1


class Holders:
    """The positions of those accounts of a venue that may hold most.

    Parameters
    ----------
    venue : PublishesPositions
    markets : sequence of Market
        Those that are followed.
    watching : Watching
    pace : Pace
    clock : callable
        Time in ms.
    """

    def __init__(
        self,
        venue: PublishesPositions,
        markets: Sequence[Market],
        watching: Watching,
        pace: Pace,
        clock: Callable[[], int],
    ) -> None:
        self._venue, self._markets, self._watching, self._clock = venue, markets, watching, clock
        self._pace, self._accounts = pace, Watchlist(watching.listed)

    @property
    def works(self) -> tuple[Callable[[], Awaitable[bool]], ...]:
        """What has to run, for ever."""
        return self.hear, self.ask, self.tell

    async def hear(self) -> bool:
        """Hear who trades."""
        async with contextlib.aclosing(self._venue.watch_trades(self._markets)) as messages:  # type: ignore[type-var]
            async for trades in messages:
                for trade in trades:
                    for address in trade.addresses:
                        self._accounts.trade(address, trade.notional_usd, trade.time_ms)
        return True

    async def ask(self) -> bool:
        """Ask one account after the other, evenly spread."""
        while True:
            address = self._accounts.next(self._clock())
            if address is not None:
                try:
                    self._accounts.answer(address, await self._venue.fetch_account(address, self._markets))
                except SourceError as error:
                    _LOG.info("%s: an account does not answer: %s", self._venue.name, error)
            await asyncio.sleep(self._pace.account_s * self._watching.shards)

    async def tell(self) -> bool:
        """Publish the sums now and then; a market where nothing is held any more loses its own."""
        while True:
            answers = self._accounts.answers(self._clock())
            try:
                await asyncio.to_thread(self._watching.put, {m.id: observe(answers, m.id) for m in self._markets})
            except CacheError as error:
                _LOG.debug("observed positions are not published: %s", error)
            await asyncio.sleep(self._pace.positions_s)


def read_addresses(told: str | None) -> tuple[str, ...]:
    """Read accounts: separated by commas, or the lines of a file, where ``#`` begins a remark.

    Raises
    ------
    SettingsError
        Naming what is no address.
    """
    if not told:
        return ()
    parts = told.split(",") if told.lstrip().startswith("0x") else _lines(Path(told))
    found = [part.strip().lower() for part in parts]
    for wrong in (part for part in found if part and not _ADDRESS.fullmatch(part)):
        raise SettingsError(f"{_SETTING}: got {wrong[:60]!r}, expected an address such as 0x and 40 hexadecimal digits")
    return tuple(dict.fromkeys(part for part in found if part))


def _lines(file: Path) -> list[str]:
    try:
        return [line.partition("#")[0] for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{_SETTING}: {file} is neither addresses nor a file that can be read: {error}") from error
