"""`Watchlist`: the accounts of a venue that are worth asking, whose turn it is, and what they answered."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from estimator.domain import HOUR_MS, MINUTE_MS
from estimator.model.holdings import Account

WATCHED: Final = 240  # accounts asked in turn, with one a second every four minutes
STALE_MS: Final = 15 * MINUTE_MS  # an answer older than this counts no more
_LATE_MS: Final = STALE_MS // 2  # who has answered comes before newcomers once the answer is so old
_KNOWN: Final = 2_000  # accounts of which it is remembered what they traded
_HALF_LIFE_MS: Final = HOUR_MS  # of what was traded: it may have closed as well as opened


@dataclass(slots=True)
class _Known:
    traded_usd: float = 0.0  # since the last answer, as of `traded_ms`
    traded_ms: int = 0
    asked_ms: int = -1
    answer: Account | None = None

    def traded_by(self, now_ms: int) -> float:
        return self.traded_usd * float(0.5 ** (max(now_ms - self.traded_ms, 0) / _HALF_LIFE_MS))

    def reach_usd(self, now_ms: int) -> float:
        """Return what the account may hold: what it held when asked, and what it has traded since, fading. [USD]"""
        held = 0.0 if self.answer is None else sum(h.value_usd for h in self.answer.holdings)
        return held + self.traded_by(now_ms)


class Watchlist:
    """Chooses by what accounts may hold: what each held when it was asked, and what it has traded since.

    So a new one comes in by its trades, one that holds much stays without any, and one that trades much and holds
    nothing has to trade anew after each answer.

    Parameters
    ----------
    listed : sequence of str
        Accounts that are watched whatever they do.
    most : int
        Others that are watched.
    """

    def __init__(self, listed: Sequence[str] = (), *, most: int = WATCHED) -> None:
        self._listed, self._most = frozenset(listed), most
        self._known = {address: _Known() for address in listed}

    def __len__(self) -> int:
        """Count the accounts of which anything is remembered."""
        return len(self._known)

    def trade(self, address: str, notional_usd: float, time_ms: int) -> None:
        """Take a trade in. [USD, ms]"""
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = _Known()
        known.traded_usd = known.traded_by(time_ms) + notional_usd
        known.traded_ms = max(time_ms, known.traded_ms)
        if len(self._known) > 2 * _KNOWN:
            self._forget(time_ms)

    def next(self, now_ms: int) -> str | None:
        """Return the account to ask now, which then counts as asked; None where none is known."""
        watched = self._watched(now_ms)
        if not watched:
            return None
        asked = [a for a in watched if self._known[a].asked_ms >= 0]
        late = [a for a in asked if now_ms - self._known[a].asked_ms >= _LATE_MS]
        turn = late if late or len(asked) == len(watched) else watched
        chosen = min(turn or watched, key=lambda a: (self._known[a].asked_ms, -self._known[a].reach_usd(now_ms)))
        self._known[chosen].asked_ms = now_ms
        return chosen

    def answer(self, address: str, account: Account) -> None:
        """Replace what an account holds: what it does not mention any more is closed."""
        known = self._known.setdefault(address, _Known())
        known.answer, known.traded_usd = account, 0.0

    def answers(self, now_ms: int) -> list[Account]:
        """Return the answers that are not too old."""
        given = (known.answer for known in self._known.values())
        return [one for one in given if one is not None and now_ms - one.time_ms <= STALE_MS]

    def _watched(self, now_ms: int) -> set[str]:
        return {*self._listed, *self._largest(self._most, self._known.keys() - self._listed, now_ms)}

    def _largest(self, count: int, addresses: Iterable[str], now_ms: int) -> list[str]:
        return heapq.nlargest(count, addresses, key=lambda a: self._known[a].reach_usd(now_ms))

    def _forget(self, now_ms: int) -> None:
        kept = {*self._listed, *self._largest(_KNOWN, self._known, now_ms)}
        self._known = {address: known for address, known in self._known.items() if address in kept}
