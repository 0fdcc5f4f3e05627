"""The cases that scoring runs on: every coin of the shared sets, and simulated markets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from estimator.domain import DAY_MS, HOUR_MS
from estimator.evaluation.density import MarketPast
from estimator.evaluation.events import HORIZONS_H, event_truth
from estimator.evaluation.hidden import hidden_truth
from estimator.evaluation.positions import Snapshot, position_truth
from estimator.evaluation.totals import total_truth
from estimator.evaluation.units import Case
from estimator.exchanges.simulated import SimulatedSource
from estimator.model.steps import build_steps
from estimator.scoring import sets

SIMULATED_DAYS = 14
SIMULATED_END_MS = 20_400 * DAY_MS
_SETTLED_MS = 7 * DAY_MS  # a new book is provisional for six days
_EVERY_MS = 4 * HOUR_MS
_OKX_BLOCK_MS = 4 * HOUR_MS  # the set holds 24 hours: drawn by day it would have no interval
_DAILY_BURN_IN = 150
_TOTALS_BURN_IN = 30 * 24  # steps: the open interest of that set starts 90 days before its volume ends


def read_cases(
    folder: Path | None,
    *,
    simulated: bool = True,
    seed: int = 7,
    report: Callable[[float, str], None] = lambda _d, _w: None,
) -> list[Case]:
    """Read the shared sets, a case per market, and simulate a market of three coins.

    Parameters
    ----------
    folder : Path or None
        None leaves the shared sets out.
    simulated : bool
        Whether to add the simulated market (some seconds).
    seed : int
        Of the simulated market.
    report : callable
        Told the share done and what comes next.

    Raises
    ------
    InputError
        If a file is absent or cannot be used.
    """
    makers = [*(_recorded(folder, report) if folder else ()), ("simulating", lambda: simulated_cases(seed))]
    cases: list[Case] = []
    for n, (what, make) in enumerate(makers if simulated else makers[:-1]):
        report(n / len(makers), what)
        cases += make()
    return cases


def _recorded(folder: Path, report: Callable[[float, str], None]) -> list[tuple[str, Callable[[], list[Case]]]]:
    """List what there is to read, with what to call it."""
    report(0.0, "reading positions")
    snapshots = sets.read_snapshots(folder)
    return [
        *((f"reading hyperliquid {c}", lambda c=c: [_hyperliquid(folder, c, snapshots[c])]) for c in sets.COINS),
        *((f"reading okx {c}", lambda c=c: [_okx(folder, c)]) for c in sets.OKX_MARGIN),
        *((f"reading binance {c}", lambda c=c: [_binance(folder, c)]) for c in ("BTC", "ETH", "SOL")),
        ("reading totals", lambda: [_totals(folder)]),
        *((f"reading days of {c}", lambda c=c: [_daily(folder, c)]) for c in sets.DAILY),
    ]


def _hyperliquid(folder: Path, coin: str, snapshots: list[Snapshot]) -> Case:
    name = f"hyperliquid {coin}"
    past = sets.read_past(folder, "hyperliquid", coin)
    truths = [position_truth(name, past, snapshots)]
    if coin in sets.PRINTED:
        prints, path = sets.read_hyperliquid_prints(folder, coin), sets.read_path(folder, "bybit", coin)
        truths += [event_truth(f"fills {h} h", name, past, prints, path, h) for h in HORIZONS_H]
    return Case(name, past, tuple(truths))


def _okx(folder: Path, coin: str) -> Case:
    name = f"okx {coin}"
    past = sets.read_aggregate_past(folder, "okx") if coin == "BTC" else sets.read_past(folder, "okx", coin)
    path = sets.read_path(folder, "okx", coin)
    truths = [
        event_truth(f"{kind} {h} h", name, past, prints, path, h, block_ms=_OKX_BLOCK_MS)
        for kind, prints in (
            ("prints", sets.read_okx_prints(folder, coin, at_trigger=False)),
            ("triggers", sets.read_okx_prints(folder, coin, at_trigger=True)),
        )
        for h in HORIZONS_H
    ]
    return Case(name, past, tuple(truths))


def _binance(folder: Path, coin: str) -> Case:
    name = f"binance {coin}"
    past = sets.read_past(folder, "binance", coin)
    prints, path = sets.read_binance_prints(folder, coin), sets.read_path(folder, "binance", coin)
    return Case(name, past, tuple(event_truth(f"fills {h} h", name, past, prints, path, h) for h in HORIZONS_H))


def _totals(folder: Path) -> Case:
    past = sets.read_aggregate_past(folder, "binance")
    truth = total_truth("totals 1 h", "coinglass BTC", past, sets.read_totals(folder))
    return Case(truth.source, past, (truth.after(_TOTALS_BURN_IN),))


def _daily(folder: Path, coin: str) -> Case:
    past = sets.read_daily_past(folder, coin)
    truth = total_truth("totals 1 d", f"coinglass {coin}", past, sets.read_daily_totals(folder, coin))
    return Case(f"days of {coin}", past, (truth.after(_DAILY_BURN_IN),))


def simulated_cases(seed: int) -> list[Case]:
    """Simulate three coins on the venue with the largest share, with the books they hide; a week is not scored."""
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
