"""Answers kept for a moment: how many are made at once."""

from __future__ import annotations

import asyncio

import pytest

from dashboard.answers import Busy
from dashboard.pages.kept import MAX_WAITING, Brief


def test_only_so_many_answers_are_made_at_once_and_whoever_asks_the_same_shares_one() -> None:
    asyncio.run(_ask_too_much())


async def _ask_too_much() -> None:
    brief, go, made = Brief(), asyncio.Event(), []

    async def make() -> bytes:
        made.append(1)
        await go.wait()
        return b"{}"

    asked = [asyncio.create_task(brief.get(f"q{n}", "application/json", make)) for n in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await brief.get("one more", "application/json", make)
    asked.append(asyncio.create_task(brief.get("q0", "application/json", make)))
    await asyncio.sleep(0)
    go.set()
    assert len({answer.etag for answer in await asyncio.gather(*asked)}) == 1
    assert len(made) == MAX_WAITING
    await brief.get("one more", "application/json", make)
