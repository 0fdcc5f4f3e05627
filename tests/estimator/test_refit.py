"""Fitting a market whose history has next to nothing of it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from estimator.domain import MINUTE_MS, TIME
from estimator.errors import InputError
from estimator.exchanges.simulated import SimulatedSource
from estimator.history import History, with_market
from estimator.model.parameters import Parameters
from estimator.refit import refit

NOW_MS = 20_400 * 24 * 60 * MINUTE_MS


@pytest.mark.parametrize("minutes", [1, 4, 6])
def test_a_market_that_was_heard_but_has_no_whole_step_has_too_little_to_be_fitted(
    tmp_path: Path, minutes: int
) -> None:
    source = SimulatedSource(7, end_ms=NOW_MS, days=1)
    market = source.markets()[0]
    past = source.history(market, lambda _done, _what: None)
    history = History(tmp_path)
    history.append("candles", with_market(market.id, past.candles.tail(minutes)))
    history.append("open_interest", with_market(market.id, past.open_interest.tail(1)))
    told = pl.DataFrame({"time": pl.Series([NOW_MS - 10 * MINUTE_MS]).cast(TIME), "what": "liquidations"})
    history.append("connections", with_market(market.id, told.with_columns(connected=True)))
    with pytest.raises(InputError):
        refit(history, market, Parameters(), now_ms=NOW_MS)
