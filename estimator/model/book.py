"""The position book of one market: state, steps, save and restore, and the estimate of a whole history."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from typing import Any, Final, Literal
from zipfile import BadZipFile

import numpy as np
import polars as pl

from estimator.domain import BoolArray, Candle, Float32Array, Float64Array, Int64Array, LeverageBracket, Market
from estimator.errors import InputError, ParameterError
from estimator.model.grid import DIFFUSE, TIER_NAMES, LiquidationGrid, tier_index
from estimator.model.parameters import Parameters
from estimator.model.resting import Resting
from estimator.model.spread import build_kernels
from estimator.model.step import (
    CLOSE_BIN,
    FIRST_BIN,
    N_STEPS,
    Inputs,
    Output,
    Rules,
    State,
    Volatility,
    run_steps,
    window_range,
)
from estimator.model.steps import STEP_MS, Steps, at_risk, build_steps

FORMAT: Final = 2


class PositionBook:
    """Positions of one market by side, effective leverage and liquidation price.

    Everything is counted in contracts (base coins for linear markets, USD for inverse ones); USD appears only in
    emitted columns. At every step and on each side, what the book holds equals the open interest.

    Parameters
    ----------
    market : Market
    parameters : Parameters
        Assumptions; buckets the market does not offer are cut.

    """

    def __init__(self, market: Market, parameters: Parameters | None = None) -> None:
        self.market = market
        self.parameters = (parameters or Parameters()).for_leverage(market.max_leverage)
        self._kernels = build_kernels(market, self.parameters)
        self._rules = rules_of(self.parameters, inverse=market.contract == "inverse")
        n_bucket = len(self.parameters.leverages)
        self._state: State | Resting = State(
            cells=np.zeros((2, n_bucket, self.parameters.n_bins)),
            scale=np.ones((2, n_bucket)),
            mass=np.zeros((2, n_bucket)),
            sink=np.zeros(2),
            ints=np.zeros(4, dtype=np.int64),
            last_contracts=np.zeros(1),
            moves=np.zeros(3),
        )

    @property
    def state(self) -> State:
        """The arrays of the book, changed in place by `step` and `run`."""
        if isinstance(self._state, Resting):
            self._state = self._state.wake()
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state

    def rest(self) -> None:
        """Take little memory until the next step."""
        if not isinstance(self._state, Resting):
            self._state = Resting.of(self._state)

    @property
    def n_steps(self) -> int:
        """Steps taken so far."""
        return int(self.state.ints[N_STEPS])

    @property
    def total(self) -> Float64Array:
        """Contracts held, at risk or in the sink, shape (2,): the open interest on each side."""
        total: Float64Array = self.state.mass.sum(axis=1) + self.state.sink
        return total

    def at_risk(self) -> Float64Array:
        """Contracts by side (0 long) and bin, shape (2, n_bins), without the diffuse background."""
        return np.asarray(np.einsum("skj,sk->sj", self.state.cells, self.state.scale))

    @property
    def first_bin(self) -> int:
        """Lattice index of the lowest kept bin."""
        return int(self.state.ints[FIRST_BIN])

    @property
    def close_bin(self) -> int:
        """Lattice index of the last close."""
        return int(self.state.ints[CLOSE_BIN])

    def step(
        self,
        candles: Sequence[Candle],
        contracts: float,
        *,
        close_ms: int,
        long_short_ratio: float | None = None,
    ) -> tuple[LiquidationGrid, Float64Array]:
        """Advance by one step made of one or more sub-candles.

        Parameters
        ----------
        candles : sequence of Candle
            Sub-candles in order, as many as the step has.
        contracts : float
            Open interest known at the close. [contracts, see `estimator.model.steps.contracts_of`]
        close_ms : int
            Close time of the step.
        long_short_ratio : float, optional
            Account ratio known at the close; used only with a lean.

        Returns
        -------
        LiquidationGrid
            One column, with its tiers.
        Float64Array, shape (1, 2)
            Predicted liquidations of the step, longs and shorts. [USD]

        Raises
        ------
        InputError
            If there is no candle, or a number that cannot be one; the book stays as it was.
        """
        if not candles:
            raise InputError("candles", "a step needs at least one sub-candle")
        if not (np.isfinite(contracts) and contracts >= 0):
            raise InputError("open_interest", "is not a number >= 0", column="open_interest", value=contracts)
        inverse = self.market.contract == "inverse"
        rows = [
            (
                c.low,
                c.high,
                c.close,
                c.volume * c.close if inverse else c.volume,
                c.low if c.mark_low is None else c.mark_low,
                c.high if c.mark_high is None else c.mark_high,
            )
            for c in candles
        ]
        for i, row in enumerate(rows):
            _check_candle(i, *row)
        ratio = None if long_short_ratio is None else np.array([long_short_ratio])
        steps = Steps(
            close_ms=np.array([close_ms], dtype=np.int64),
            first=np.array([0, len(rows)], dtype=np.int64),
            candle=np.array(rows, dtype=np.float64),
            contracts=np.array([contracts], dtype=np.float64),
            at_risk=at_risk(ratio, 1, self.parameters.ratio_lean),
        )
        return self.run(steps, tiers=True)

    def run(
        self, steps: Steps, *, tiers: bool = False, emit: BoolArray | None = None
    ) -> tuple[LiquidationGrid, Float64Array]:
        """Advance over `steps` and return a grid of their columns.

        Parameters
        ----------
        steps : Steps
        tiers : bool
            Keep every leverage tier (six times the memory).
        emit : BoolArray, shape (n_step,), optional
            Which steps to return as columns; all by default.

        Returns
        -------
        LiquidationGrid, Float64Array of shape (n_step, 2)
            The columns, and the predicted liquidations of each step and side. [USD]
        """
        if not tiers:
            long_usd, short_usd, grid, swept = self._run(steps, self._one_layer(), 1, emit)
            return grid(long_usd[0], short_usd[0], None), swept
        long_usd, short_usd, grid, swept = self._run(steps, self._tier_layers(), len(TIER_NAMES), emit)
        totals = long_usd.sum(axis=0), short_usd.sum(axis=0)
        return grid(*totals, lambda tier: (long_usd[tier], short_usd[tier])), swept

    def run_tier(self, steps: Steps, tier: int, *, emit: BoolArray | None = None) -> tuple[Float32Array, Float32Array]:
        """Advance over `steps` and return the long and short density of one tier alone. [USD per bin]"""
        layers = (self._tier_layers() != tier).astype(np.int64)
        long_usd, short_usd, _, _ = self._run(steps, layers, 2, emit)
        return long_usd[0], short_usd[0]

    def run_buckets(self, steps: Steps, *, emit: BoolArray | None = None) -> tuple[Float32Array, Float32Array, int]:
        """Advance over `steps` and return the density of every bucket apart.

        Returns
        -------
        Float32Array, Float32Array, each of shape (n_bucket + 1, n_column, n_price)
            Longs and shorts, the diffuse background last. [USD per bin]
        int
            Lattice index of the lowest bin.
        """
        layers = np.arange(len(self.parameters.leverages) + 1, dtype=np.int64)
        long_usd, short_usd, grid, _ = self._run(steps, layers, len(layers), emit)
        return long_usd, short_usd, int(grid(long_usd[0], short_usd[0], None).first_bin)

    def adopt(self, parameters: Parameters) -> None:
        """Go by other assumptions from the next step on; what is held stays as it is.

        Raises
        ------
        ParameterError
            If they have other buckets or another lattice.
        """
        if parameters.for_leverage(self.market.max_leverage) == self.parameters:
            return
        other = PositionBook(self.market, parameters)
        for name in ("leverages", "bin_width", "n_bins", "ratio_lean"):
            given, own = getattr(other.parameters, name), getattr(self.parameters, name)
            if given != own:
                raise ParameterError(name, given, f"{own} as in the book")
        self.parameters, self._kernels, self._rules = other.parameters, other._kernels, other._rules

    def save(self) -> bytes:
        """Serialise the state; `restore` continues from it bit for bit."""
        out = io.BytesIO()
        np.savez(out, format=FORMAT, market=self.market.id, parameters=self.parameters.version, **self.state._asdict())
        return out.getvalue()

    def restore(self, state: bytes) -> None:
        """Take over a saved state.

        Raises
        ------
        ParameterError
            If it was saved by another market, other parameters or another format, or does not decode.
        """
        expected = {"format": FORMAT, "market": self.market.id, "parameters": self.parameters.version}
        try:
            with np.load(io.BytesIO(state), allow_pickle=False) as archive:
                saved = {name: archive[name] for name in (*expected, *State._fields)}
        except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
            raise ParameterError("saved state", f"{len(state)} bytes", f"what `save` returned ({error})") from error
        for name, value in expected.items():
            if saved[name].item() != value:
                raise ParameterError(f"saved {name}", saved[name].item(), repr(value))
        self.state = State(**{name: saved[name] for name in State._fields})

    def copy(self) -> PositionBook:
        """Return an independent book in the same state, for a candle that is still open."""
        other, state = copy.copy(self), self._state
        if isinstance(state, Resting):
            other.state = state.wake()
        else:
            other.state = State(**{name: array.copy() for name, array in state._asdict().items()})
        return other

    def _one_layer(self) -> Int64Array:
        return np.zeros(len(self.parameters.leverages) + 1, dtype=np.int64)

    def _tier_layers(self) -> Int64Array:
        layers = [tier_index(leverage) for leverage in self.parameters.leverages]
        return np.array([*layers, TIER_NAMES.index(DIFFUSE)], dtype=np.int64)

    def _run(self, steps: Steps, layer_of: Int64Array, n_layer: int, emit: BoolArray | None) -> Any:
        """Run the kernel into `n_layer` layers per side."""
        p = self.parameters
        emit = np.ones(len(steps), dtype=bool) if emit is None else emit
        inputs = Inputs(steps.first, steps.candle, steps.contracts, steps.at_risk, steps.close_ms)
        first, last = window_range(inputs, p.bin_width, p.n_bins, self.first_bin, self.n_steps)
        shape = (n_layer, int(emit.sum()), last - first + p.n_bins)
        long_usd: Float32Array = np.zeros(shape, dtype=np.float32)
        short_usd: Float32Array = np.zeros(shape, dtype=np.float32)
        swept = np.zeros((len(steps), 2))
        rows = np.where(emit, np.cumsum(emit) - 1, -1)
        output = Output(rows, layer_of, first, long_usd, short_usd, swept)
        run_steps(self.state, self._rules, self._kernels, inputs, output)
        time = steps.close_ms[emit].astype("datetime64[ms]")

        def grid(long_: Float32Array, short_: Float32Array, source: Any) -> LiquidationGrid:
            return LiquidationGrid(time, first, p.bin_width, long_, short_, tier_source=source)

        return long_usd, short_usd, grid, swept


def _check_candle(
    row: int, low: float, high: float, close: float, volume: float, mark_low: float, mark_high: float
) -> None:
    """Refuse what would put levels nowhere; ``not (a <= b)`` refuses NaN too."""
    if not 0 < low <= high < math.inf:
        raise InputError("candles", "needs 0 < low <= high", column="low", row=row, value=(low, high))
    if not 0 < close < math.inf:
        raise InputError("candles", "is not a positive number", column="close", row=row, value=close)
    if not 0 <= volume < math.inf:
        raise InputError("candles", "is not a number >= 0", column="volume", row=row, value=volume)
    if not 0 < mark_low <= mark_high < math.inf:
        value = (mark_low, mark_high)
        raise InputError("candles", "needs 0 < mark_low <= mark_high", column="mark_low", row=row, value=value)


def rules_of(p: Parameters, *, inverse: bool) -> Rules:
    """Return parameters in the form the compiled step takes."""
    weight = np.sqrt(np.arange(round(p.background_range / p.bin_width) + 1))
    return Rules(
        shares=np.array(p.shares),
        reach=p.reach,
        volatility=Volatility(
            scaling=p.volatility_scaling,
            usual=p.usual_volatility**2 / 24,
            memory=p.volatility_days * 24,
            prior=p.volatility_prior_days * 24,
        ),
        tau=np.array(p.tau_hours),
        sink_tau=p.sink_tau_hours,
        churn=p.churn,
        sink_share=p.sink_share,
        diffuse=weight / max(weight.sum(), 1.0),  # 0 where it reaches no further than the close's own bin
        diffuse_share=p.background_share,
        near=round(p.background_near / p.bin_width),
        bin_width=p.bin_width,
        inverse=inverse,
    )


def estimate(
    market: Market,
    candles: pl.DataFrame,
    open_interest: pl.DataFrame,
    long_short_ratio: pl.DataFrame | None = None,
    funding_rate: pl.DataFrame | None = None,
    *,
    parameters: Parameters | None = None,
    step_ms: int = STEP_MS,
    every_ms: int | None = None,
    on_gap: Literal["mark", "error"] = "mark",
) -> LiquidationGrid:
    """Estimate where open positions would be liquidated, over a history.

    Parameters
    ----------
    market : Market
    candles : pl.DataFrame
        ``time`` (Datetime with time zone, interval start), ``open high low close``, ``volume`` (base coin); optional
        ``mark_high mark_low``. Any interval; those shorter than `step_ms` are used as sub-candles.
    open_interest : pl.DataFrame
        ``time`` (when the value became known), ``open_interest`` (base coin).
    long_short_ratio : pl.DataFrame, optional
        ``time``, ``long_short_ratio`` (accounts). Used only if the parameters lean on it (off by default).
    funding_rate : pl.DataFrame, optional
        ``time``, ``funding_rate`` (fraction per interval). Validated; funding does not move the levels yet.
    parameters : Parameters, optional
        Assumptions; the defaults are those of docs/method.md.
    step_ms : int
        Step of the book. [ms]
    every_ms : int, optional
        Keep only columns at multiples of this. [ms]
    on_gap : {"mark", "error"}
        Whether a stretch without data is listed in ``grid.gaps`` or raises.

    Returns
    -------
    LiquidationGrid
        One column per step, valid at its close; a column uses nothing later than its own time.

    Raises
    ------
    InputError
        Naming the frame, column, row and value that cannot be used.
    ParameterError
        If a time span is not positive, or the candles do not divide a step.
    """
    if every_ms is not None and every_ms <= 0:
        raise ParameterError("every_ms", every_ms, "a time > 0")
    parameters = parameters or Parameters()
    steps, gaps = build_steps(
        market,
        candles,
        open_interest,
        long_short_ratio,
        funding_rate,
        step_ms=step_ms,
        ratio_lean=parameters.ratio_lean,
        on_gap=on_gap,
    )
    emit = None if every_ms is None else steps.close_ms % every_ms == 0
    grid, _ = PositionBook(market, parameters).run(steps, emit=emit)

    def one_tier(tier: int) -> tuple[Float32Array, Float32Array]:
        """Recompute one tier on demand: a grid that kept them all would need six times its memory."""
        return PositionBook(market, parameters).run_tier(steps, tier, emit=emit)

    return grid.with_source(one_tier, gaps)


def compile_book() -> None:
    """Compile the kernel into its on-disk cache."""
    market = Market("binance", "BTC/USDT:USDT", "linear", (LeverageBracket(0, 125, 0.004),))
    PositionBook(market).step([Candle(0, 1.0, 1.0, 1.0, 1.0, 1.0)], 1.0, close_ms=STEP_MS)
