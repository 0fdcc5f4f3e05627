"""Several requests at once, and long histories page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import polars as pl

from estimator.exchanges.edge import between, frame

_Page = TypeVar("_Page")

Page = Callable[[int, int], Awaitable[pl.DataFrame]]
"""Fetches the rows of ``start <= time < end``; more do no harm. [ms]"""


async def paged(
    schema: Mapping[str, pl.DataType], page: Page, since_ms: int, until_ms: int, page_ms: int
) -> pl.DataFrame:
    """Fetch the pages of a stretch of time at once and join them: sorted, one row per time.

    Parameters
    ----------
    schema : dict
        Of the frame, also where nothing comes.
    page : callable
    since_ms, until_ms : int
        End exclusive. [ms]
    page_ms : int
        Span of a page. [ms]
    """
    tables = await all_pages(page, windows(since_ms, until_ms, page_ms))
    return between(pl.concat([frame(schema, []), *tables]), since_ms, until_ms)


def windows(since_ms: int, until_ms: int, page_ms: int) -> list[tuple[int, int]]:
    """Cut a stretch of time into pages, ends exclusive; cuts lie on multiples of `page_ms`."""
    cuts = range(since_ms - since_ms % page_ms, until_ms if since_ms < until_ms else 0, page_ms)
    return [(max(start, since_ms), min(start + page_ms, until_ms)) for start in cuts]


async def all_pages(fetch: Callable[[int, int], Awaitable[_Page]], pages: Sequence[tuple[int, int]]) -> list[_Page]:
    """Fetch pages at once, in order of the pages; the first failure ends the others and is raised."""
    return await together([fetch(start, end) for start, end in pages])


async def together(requests: Sequence[Awaitable[_Page]]) -> list[_Page]:
    """Await several requests at once; the first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
