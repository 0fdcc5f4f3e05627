"""State of the simulated market's engine, laid out for Numba.

Nothing here is compiled into the kernels of `estimator.exchanges.agents` but the layout itself, which is part of their
signatures: Numba's cache on disk notices changes of the kernels' own file and of signatures, not of other files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from estimator.domain import DAY_MS, HOUR_MS, Float64Array, Int64Array, Market
from estimator.model.grid import BIN_WIDTH

Records = NDArray[Any]

CAPACITY: Final = 40_000  # positions alive at once, per coin
TRIGGER_BIN: Final = 0.0005  # buckets of the trigger lists, in log price
TRIGGER_BINS: Final = 6000  # +-150 % in log price about the anchor
BOOK_BINS: Final = 2400  # bins of the lattice in an hourly book, +-120 % in log price about the anchor
OPENS_PER_S: Final = 0.2
POSITION_SHARE: Final = 1.0 / 20_000  # mean size of a position, in open interests
HEDGE_SHARE: Final = 0.2  # of open interest
LASTING: Final = 0.35  # share of an order's impact that does not decay

# Leverage on the label, share of openings, mean holding time in hours.
LEVERAGES: Final = (
    (2.0, 0.08, 90.0),
    (3.0, 0.10, 72.0),
    (5.0, 0.17, 48.0),
    (10.0, 0.24, 30.0),
    (20.0, 0.16, 20.0),
    (25.0, 0.08, 16.0),
    (50.0, 0.09, 8.0),
    (75.0, 0.03, 6.0),
    (100.0, 0.03, 4.0),
    (125.0, 0.02, 4.0),
)


def _record(counts: str, numbers: str) -> np.dtype[np.void]:
    """Lay out a record of integer and floating-point fields, named in words separated by spaces."""
    return np.dtype([(name, np.int64) for name in counts.split()] + [(name, np.float64) for name in numbers.split()])


PARAMETER: Final = _record(
    "",
    "anchor sigma open_interest position_base opens_per_s highest_hazard hedge_share distance impact lasting "
    "trigger_bin book_bin first_book_bin",
)
STATE: Final = _record(
    "time_ms n_live n_prints step_prints n_rows n_books",
    "x fundamental impact trend vol_fast vol_slow shock sigma activity ema_fast ema_slow sentiment until_open "
    "until_close low high mark_low mark_high noise noise_buy",
)
VENUE: Final = _record(
    "n_long n_short",
    "share fee long_base short_base hedge busy premium funding basis open high low volume buy",
)
POSITION: Final = _record("venue side refills slot", "entry quantity margin liquidation stop top_up hazard")
PRINT: Final = _record("time_ms venue side", "price quantity")


class Engine(NamedTuple):
    """State of one symbol: everything that, with its random generator, decides the future.

    Attributes
    ----------
    parameter, state : structured, shape (1,)
        Prices in them are logs.
    venues : structured, shape (n_venue,)
    brackets : Float64Array, shape (n_venue, n_bracket, 4)
        Notional floor, maximum leverage, maintenance margin rate and amount.
    classes : Float64Array, shape (n_class, 3)
        Leverage, cumulative share of openings, closing hazard. [1/s]
    positions : structured, shape (capacity,)
        Entry, liquidation, stop and top-up as log prices; margin in quote.
    live : Int64Array, shape (capacity,)
        A permutation of the positions, the live ones first.
    trigger : Float64Array, shape (2, capacity)
        Log price of each position's downward and upward trigger.
    links : Int64Array, shape (2, capacity, 3)
        Previous, next and bucket in the trigger lists; bucket -1 is not linked.
    heads : Int64Array, shape (2, TRIGGER_BINS)
        First position of each bucket, -1 where empty.
    edges : Float64Array, shape (2,)
        No downward trigger lies above the first, no upward trigger below the second.
    prints : structured, shape (n_print,)
        Liquidations since the caller last set ``state["n_prints"]`` to 0.
    """

    parameter: Records
    state: Records
    venues: Records
    brackets: Float64Array
    classes: Float64Array
    positions: Records
    live: Int64Array
    trigger: Float64Array
    links: Int64Array
    heads: Int64Array
    edges: Float64Array
    prints: Records


def build_engine(
    *,
    price: float,
    annual_volatility: float,
    open_interest_base: float,
    impact: float,
    shares: Sequence[float],
    markets: Sequence[Market],
    time_ms: int,
) -> Engine:
    """Build an engine without any position.

    Parameters
    ----------
    price : float
        Price the market reverts to over weeks and starts from. [quote]
    annual_volatility : float
        Of the exogenous noise alone; agents add theirs.
    open_interest_base : float
        Long-run open interest of all venues together. [base]
    impact : float
        Log-price move of a market order as large as the whole open interest.
    shares : sequence of float
        Share of each venue in trading; adds up to 1.
    markets : sequence of Market
        One per venue, with equally many brackets.
    time_ms : int
        Start, a full minute.
    """
    parameter = np.zeros(1, PARAMETER)
    sigma = annual_volatility / math.sqrt(365 * DAY_MS / 1000.0)
    leverage, share, hours = (np.array(column) for column in zip(*LEVERAGES, strict=True))
    hazard = 1000.0 / (HOUR_MS * hours)
    parameter[0] = (
        math.log(price), sigma, open_interest_base, POSITION_SHARE * open_interest_base, OPENS_PER_S,
        hazard.max(), HEDGE_SHARE, annual_volatility / 0.45, impact, LASTING,
        TRIGGER_BIN, BIN_WIDTH, math.floor(math.log(price) / BIN_WIDTH) - BOOK_BINS // 2,
    )  # fmt: skip
    state = np.zeros(1, STATE)
    for name in ("x", "fundamental", "ema_fast", "ema_slow"):
        state[name] = parameter[0]["anchor"]
    state["time_ms"], state["sigma"], state["activity"] = time_ms, sigma, 1.0
    venues = np.zeros(len(markets), VENUE)
    venues["share"] = shares
    venues["fee"] = [market.maintenance_fee_rate for market in markets]
    venues["hedge"] = HEDGE_SHARE * venues["share"] * open_interest_base
    return Engine(
        parameter=parameter,
        state=state,
        venues=venues,
        brackets=np.array([[astuple(bracket) for bracket in market.brackets] for market in markets]),
        classes=np.stack([leverage, np.cumsum(share), hazard], axis=1),
        positions=np.zeros(CAPACITY, POSITION),
        live=np.arange(CAPACITY),
        trigger=np.zeros((2, CAPACITY)),
        links=np.full((2, CAPACITY, 3), -1, dtype=np.int64),
        heads=np.full((2, TRIGGER_BINS), -1, dtype=np.int64),
        edges=np.array([-math.inf, math.inf]),
        prints=np.zeros(2 * CAPACITY, PRINT),
    )
