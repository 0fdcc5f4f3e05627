"""Which files there are and what time each covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

from estimator.domain import DAY_MS, Market
from estimator.errors import ParameterError

Kind = Literal["klines", "metrics", "fundingRate"]
_VENUES: Final = frozenset({"binance", "binanceusdm", "binancecoinm"})


def archive_symbol(market: Market) -> str:
    """Return the venue's own name of a market, e.g. ``"BTCUSDT"`` or ``"BTCUSD_PERP"``."""
    base, rest = market.symbol.split("/", 1)
    quote = rest.split(":", 1)[0]
    return f"{base}{quote}_PERP" if market.contract == "inverse" else f"{base}{quote}"


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file of the archive and the time it covers.

    Parameters
    ----------
    market : Market
    kind : {"klines", "metrics", "fundingRate"}
    day : date
        The day, of funding the first of the month.
    """

    market: Market
    kind: Kind
    day: date

    @property
    def path(self) -> str:
        """Place below the base address."""
        section = "cm" if self.market.contract == "inverse" else "um"
        name = archive_symbol(self.market)
        if self.kind == "fundingRate":
            return f"data/futures/{section}/monthly/fundingRate/{name}/{name}-fundingRate-{self.day:%Y-%m}.zip"
        folder, stem = ("1m/", "1m") if self.kind == "klines" else ("", "metrics")
        return f"data/futures/{section}/daily/{self.kind}/{name}/{folder}{name}-{stem}-{self.day}.zip"

    @property
    def start_ms(self) -> int:
        """First millisecond covered."""
        return int(datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC).timestamp() * 1000)

    @property
    def end_ms(self) -> int:
        """First millisecond no longer covered."""
        if self.kind != "fundingRate":
            return self.start_ms + DAY_MS
        after = date(self.day.year + self.day.month // 12, self.day.month % 12 + 1, 1)
        return ArchiveFile(self.market, self.kind, after).start_ms


def plan(markets: Sequence[Market], first: date, last: date) -> list[ArchiveFile]:
    """List the files that cover the days from `first` to `last`, both included, the newest first.

    Raises
    ------
    ParameterError
        If a market is not Binance's or the days are in the wrong order.
    """
    for market in markets:
        if market.exchange not in _VENUES:
            raise ParameterError("market", market.id, "a market of Binance: this is Binance's archive")
    if first > last:
        raise ParameterError("first", str(first), f"a day not after {last}")
    days = [last - timedelta(days=i) for i in range((last - first).days + 1)]
    months = sorted({d.replace(day=1) for d in days}, reverse=True)
    daily = [ArchiveFile(m, kind, d) for d in days for kind in ("klines", "metrics") for m in markets]
    return daily + [ArchiveFile(m, "fundingRate", d) for d in months for m in markets]
