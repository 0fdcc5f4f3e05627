"""Long histories, page by page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import polars as pl

from estimator.exchanges.edge import between, frame
from estimator.exchanges.wire import all_pages, windows

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
