"""The cases that scoring runs on: every coin of the shared sets, and simulated markets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from estimator.domain import DAY_MS, HOUR_MS
from estimator.evaluation.density import MarketPast
from estimator.evaluation.events import HORIZONS_H, event_truth
from estimator.evaluation.hidden import hidden_truth
from estimator.evaluation.positions import Snapshot, position_truth
from estimator.evaluation.totals import total_truth
from estimator.evaluation.units import Case, Truth
from estimator.exchanges.simulated import SimulatedSource
from estimator.model.steps import build_steps
from estimator.scoring import sets

SIMULATED_DAYS = 14
SIMULATED_END_MS = 20_400 * DAY_MS
_SETTLED_MS = 7 * DAY_MS  # a new book is provisional for six days
_EVERY_MS = 4 * HOUR_MS


def read_cases(folder: Path, *, simulated: bool = True, seed: int = 7) -> list[Case]:
    """Read the shared sets, a case per coin, and simulate a market of three coins.

    Raises
    ------
    InputError
        If a file is absent or cannot be used.
    """
    snapshots = sets.read_snapshots(folder)
    cases = [_coin_case(folder, coin, snapshots[coin]) for coin in sets.COINS]
    return [*cases, *(simulated_cases(seed) if simulated else ())]


def _coin_case(folder: Path, coin: str, snapshots: list[Snapshot]) -> Case:
    past = sets.read_hyperliquid_past(folder, coin)
    truths = [position_truth(f"hyperliquid {coin}", past, snapshots), *_events(folder, coin, past)]
    if coin == "BTC":
        truths.append(total_truth("coinglass BTC", past, sets.read_totals(folder)))
    return Case(coin, past, tuple(t for t in truths if t.units))


def _events(folder: Path, coin: str, past: MarketPast) -> Iterator[Truth]:
    if coin not in sets.OKX_MARGIN:
        return
    path = sets.read_path(folder, "okx", coin)
    for horizon_h in HORIZONS_H:
        printed = sets.read_okx_prints(folder, coin, at_trigger=False)
        yield event_truth(f"okx {coin}", past, printed, path, horizon_h)
        triggers = sets.read_okx_prints(folder, coin, at_trigger=True)
        yield event_truth(f"okx {coin}", past, triggers, path, horizon_h, kind="triggers")
        fills, elsewhere = sets.read_hyperliquid_prints(folder, coin), sets.read_path(folder, "bybit", coin)
        for kind in ("events", "triggers"):
            yield event_truth(f"hyperliquid {coin}", past, fills, elsewhere, horizon_h, kind=kind)


def simulated_cases(seed: int) -> list[Case]:
    """Simulate three coins on the venue with the largest share, with the books they hide."""
    source = SimulatedSource(seed, end_ms=SIMULATED_END_MS, days=SIMULATED_DAYS, keep_books=True)
    cases = []
    for market in source.markets():
        if market.exchange != "binance":
            continue
        history = source.history(market, lambda _done, _what: None)
        steps, _ = build_steps(market, history.candles, history.open_interest)
        past = MarketPast(market, steps)
        books = source.true_book_history(market)
        time_ms = books.time.astype("datetime64[ms]").astype(np.int64)
        kept = (time_ms >= steps.close_ms[0] + _SETTLED_MS) & (time_ms % _EVERY_MS == 0)
        truth = hidden_truth(
            f"simulated {market.base}",
            past,
            time_ms[kept],
            books.first_bin,
            books.long_base[kept],
            books.short_base[kept],
        )
        cases.append(Case(f"simulated {market.base}", past, (truth,)))
    return cases
