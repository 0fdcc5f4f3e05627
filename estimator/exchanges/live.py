"""What following venues live needs in more than one of them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import numpy as np

from estimator.domain import Observation
from estimator.errors import BadPayload, UnknownMarket
from estimator.exchanges.clients import errors
from estimator.exchanges.edge import Health, plausible_observation, steady

_NAME: Final = re.compile(r"[\w.-]+")
_REMEMBERED: Final = 8


def subscribing(
    names: Sequence[str], subscribe: Callable[[list[str]], Awaitable[Any]], health: Health
) -> Callable[[], Awaitable[None]]:
    """Make a subscription that goes on without the names a venue refuses.

    Parameters
    ----------
    names : sequence of str
        Topics or markets in the venue's own words.
    subscribe : callable
        A ccxt ``watch_`` call for a list of names; it raises `ccxt.ExchangeError` with the refused name in its text.
    health : Health
        Where refusals are counted, as ``("subscriptions", "refused by the venue")``.

    Returns
    -------
    callable
        Without arguments, for `Wire.stream`; raises `UnknownMarket` when no name is left. Called again after a
        refusal it goes on without the refused, after anything else it asks for all.
    """
    left = list(names)

    async def attempt() -> None:
        asked = list(left)
        left[:] = names  # the next connection asks for all again: a coin may be traded again
        try:
            await subscribe(asked)
        except errors.ExchangeError as error:
            said = set(_NAME.findall(str(error)))
            refused = [name for name in asked if name in said]
            if not refused:
                raise
            health.reject("subscriptions", "refused by the venue", len(refused), refused[0])
            left[:] = [name for name in asked if name not in said]
            if not left:
                raise UnknownMarket(f"not listed: {', '.join(names)}") from error

    return attempt


class Levels:
    """Open interest as it was told lately, by market: tells a slip from a new level."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._level: dict[str, float] = {}
        self._away: dict[str, list[float]] = {}

    def accept(self, market_id: str, seen: Observation, now_ms: int, endpoint: str) -> Observation:
        """Return an observation that can be.

        Raises
        ------
        BadPayload
            If it cannot: not above 0, in the future, or a jump that has not held yet.
        """
        if not plausible_observation(seen, now_ms, self._health, "open_interest"):
            raise BadPayload(endpoint, "open interest", f"cannot be (got {seen})")
        level = self._level.get(market_id, seen.value)
        away = [*self._away.get(market_id, ()), seen.value][-_REMEMBERED:]
        # The level counts for so much that a few values away from it do not move the median.
        if not steady(np.array([level] * _REMEMBERED + away))[-1]:
            self._away[market_id] = away
            self._health.reject("open_interest", "sudden jump", example=seen)
            raise BadPayload(endpoint, "open interest", f"a sudden jump (got {seen.value:g}, before {level:g})")
        self._level[market_id] = seen.value
        self._away.pop(market_id, None)
        return seen
