"""``--source auto``: live where a venue answers, else the simulated market until a user asks for live data.

The choice lies in Redis, so that it is one for all workers: the first worker chooses, the others wait until it is live.
A live choice outlives a worker for a minute, so that nobody who looks at live data is shown a made-up market because
a worker was started again while a venue was out of order.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Final

from estimator.cache.choice import KEPT_S, Choice, Choices
from estimator.errors import CacheError
from estimator.probe import ask_venues
from estimator.settings import Settings

_LOG: Final = logging.getLogger(__name__)
_LISTEN_S: Final = 0.5  # how often a wish is looked for
_RENEW_S: Final = KEPT_S / 4
_GROWTH: Final = 1.5  # of the pause between two rounds of questions, up to twice the first


class Auto:
    """The choice as one worker sees it.

    Parameters
    ----------
    settings : Settings
    choices : Choices
    shard : (int, int)
        Which of how many workers this is; the first one chooses.
    """

    def __init__(self, settings: Settings, choices: Choices, shard: tuple[int, int] = (0, 1)) -> None:
        self._names = [name.strip().lower() for name in settings.venues.split(",")]
        self._within_s, self._every_s, self._base = settings.probe_s, settings.probe_every_s, settings.exchange_base
        self._choices, self._chooses = choices, shard[0] == 0
        self._since_ms = time.time_ns() // 1_000_000

    async def is_chosen(self) -> bool:
        """Whether live data is in force already; all workers but the first wait until it is."""
        while not await self._is_live():
            if self._chooses:
                return False
            await asyncio.sleep(2 * _LISTEN_S)
        return True

    async def _is_live(self) -> bool:
        choice = await asyncio.to_thread(self._choices.get)
        return choice is not None and choice.source == "live"

    async def ask(self) -> dict[str, str]:
        """Return why every venue is of no use, in words; nothing as soon as one answers, or where a user wants it so.

        Raises
        ------
        SettingsError
            Naming a venue that is not known.
        """
        if await asyncio.to_thread(self._choices.is_live_asked):
            return {}
        problems: dict[str, str] = {}
        async with aclosing(self._answers()) as answers:
            async for name, problem in answers:
                if problem is None:
                    return {}
                problems[name] = problem
        return {name: problems[name] for name in self._names}

    async def keep_live(self) -> None:
        """Say that live data is in force, for ever."""
        choice = Choice("live", self._since_ms, {})
        while True:
            await _quietly(partial(self._choices.put, choice))
            await _quietly(self._choices.answer)
            await asyncio.sleep(_RENEW_S)

    async def until_asked(self, problems: Mapping[str, str]) -> None:
        """Say why the simulated market is shown and who answers by now; return when a user asks for live data.

        Parameters
        ----------
        problems : dict
            Why each venue was of no use.
        """
        await _quietly(self._choices.answer)
        asking = asyncio.ensure_future(self._report(dict(problems)))
        try:
            while not asking.done():
                if await _quietly(self._choices.is_live_asked):
                    return
                await asyncio.sleep(_LISTEN_S)
            asking.result()
        finally:
            asking.cancel()

    async def _report(self, problems: dict[str, str]) -> None:
        """Ask the venues again and again, and keep what they say in the cache."""
        answering: tuple[str, ...] = ()
        pause_s = self._every_s
        while True:
            choice = Choice("simulated", self._since_ms, dict(problems), answering)
            wake = time.monotonic() + random.uniform(0.9, 1.1) * pause_s  # noqa: S311 - no secret
            while time.monotonic() < wake:
                await _quietly(partial(self._choices.put, choice))
                await asyncio.sleep(min(_RENEW_S, max(wake - time.monotonic(), 0.0)))
            async with aclosing(self._answers()) as answers:
                said = {name: problem async for name, problem in answers}
            answering = tuple(name for name in self._names if said[name] is None)
            problems = {name: words for name in self._names if (words := said[name]) is not None}
            pause_s = self._every_s if answering else min(_GROWTH * pause_s, 2 * self._every_s)

    def _answers(self) -> AsyncGenerator[tuple[str, str | None], None]:
        return ask_venues(self._names, within_s=self._within_s, base=self._base)


async def _quietly(call: Callable[[], object]) -> object:
    """Call Redis in a thread; while it is away there is nobody to tell."""
    try:
        return await asyncio.to_thread(call)
    except CacheError as error:
        _LOG.info("the choice of the source waits: %s", error)
        return None
