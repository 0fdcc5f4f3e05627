"""Waiting for what another thread, task or process brings about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PAUSE_S = 0.005


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether a condition holds before so many seconds have passed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_S)
    return True


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until a condition holds.

    Raises
    ------
    TimeoutError
        If it does not in time.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - nothing tells when it does
            await asyncio.sleep(PAUSE_S)
