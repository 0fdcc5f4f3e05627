"""Bankruptcy and liquidation prices, isolated and cross, with maintenance tiers.

One definition everywhere: the liquidation price is the mark price at which *equity = maintenance margin*, the
bankruptcy price the one at which equity = 0 (method.md, section 1). Venues that still take maintenance on the value
at entry differ from it on purpose.

A coin-settled position is a quote-settled one seen in the reciprocal price with its side turned round: with
``u = price`` (linear) or ``1 / price`` (inverse), and ``sigma`` the sign of the profit per rise of ``u``,

    equity(u) = margin + sigma * quantity * (u - u_entry)
    maintenance(u) = quantity * u * (rate + fee) - amount

are the same two lines for both, so they are solved once, in ``u``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from estimator.domain import ContractType, Float64Array, LeverageBracket, Position, Side
from estimator.errors import ParameterError

SideLike = Side | Literal["long", "short"]

# Below this share of where it starts, a level is the rounding of a zero that no price reaches.
_NEVER: Final = 1e-12


def liquidation_price(
    *,
    side: SideLike,
    entry_price: float,
    quantity: float,
    margin: float,
    maintenance_margin_rate: float | None = None,
    maintenance_amount: float = 0.0,
    taker_fee_rate: float = 0.0,
    extra_margin: float = 0.0,
    funding_paid: float = 0.0,
    contract: ContractType = "linear",
    brackets: Sequence[LeverageBracket] | None = None,
) -> float | None:
    """Mark price at which an isolated position is liquidated.

    Parameters
    ----------
    side : {"long", "short"}
    entry_price : float
        [quote per base]
    quantity : float
        Base coin for a linear contract, USD notional of the contracts for an inverse one.
    margin : float
        Margin of the position at entry. [quote for linear, coin for inverse]
    maintenance_margin_rate : float, optional
        Fraction of the notional at the mark price. Give either this or `brackets`.
    maintenance_amount : float
        Amount subtracted from maintenance margin ("cum"). [as margin]
    taker_fee_rate : float
        Fee to close counted in maintenance, a fraction of notional; 0 at venues that do not count it.
    extra_margin : float
        Margin added later; negative when withdrawn. [as margin]
    funding_paid : float
        Net funding paid out of the margin so far; negative when received. [as margin]
    contract : {"linear", "inverse"}
    brackets : sequence of LeverageBracket, optional
        Maintenance tiers; the tier in force is that of the notional *at the liquidation price*.

    Returns
    -------
    float or None
        None if no price liquidates the position. Where maintenance margin jumps between tiers it is the first such
        price met when moving from the entry against the position.

    Raises
    ------
    ParameterError
        If a value is outside its domain, or the margin is so far gone that every price liquidates.
    """
    _positive("margin", margin)
    tiers = _tiers(brackets, maintenance_margin_rate, maintenance_amount)
    entry = _level("entry_price", entry_price, contract)
    leg = _Leg(_sigma(side, contract), entry, quantity, taker_fee_rate, tiers)
    balance = margin + _finite("extra_margin", extra_margin) - _finite("funding_paid", funding_paid)
    return _price(_critical_level((leg,), balance, entry), contract)


def bankruptcy_price(
    *,
    side: SideLike,
    entry_price: float,
    quantity: float,
    margin: float,
    extra_margin: float = 0.0,
    funding_paid: float = 0.0,
    contract: ContractType = "linear",
) -> float | None:
    """Mark price at which the equity of an isolated position is zero; parameters as in `liquidation_price`.

    Returns
    -------
    float or None
        None if no price makes the position bankrupt.

    Raises
    ------
    ParameterError
        As `liquidation_price`.
    """
    return liquidation_price(
        side=side,
        entry_price=entry_price,
        quantity=quantity,
        margin=margin,
        maintenance_margin_rate=0.0,
        extra_margin=extra_margin,
        funding_paid=funding_paid,
        contract=contract,
    )


def cross_liquidation_price(
    *,
    positions: Sequence[Position],
    symbol: str,
    wallet_balance: float,
    brackets: Sequence[LeverageBracket] | None = None,
) -> float | None:
    """Mark price of `symbol` at which a cross-margin account is liquidated, the other marks standing still.

    Parameters
    ----------
    positions : sequence of Position
        Every position that shares the balance. `symbol` may be held both long and short (hedge mode).
    symbol : str
        Whose price moves.
    wallet_balance : float
        Balance without unrealised PnL. [quote for linear, coin for inverse]
    brackets : sequence of LeverageBracket, optional
        Maintenance tiers of `symbol`, in place of the rate and the amount its positions carry; applied to each of
        its positions at the liquidation price.

    Returns
    -------
    float or None
        None if no price of `symbol` liquidates the account.

    Raises
    ------
    ParameterError
        If a value is outside its domain, `symbol` is not held, contracts are mixed, or every price liquidates.
    """
    contracts = {p.contract for p in positions}
    moving = [p for p in positions if p.symbol == symbol]
    if not moving:
        raise ParameterError("symbol", symbol, "the symbol of one of the positions")
    if len(contracts) > 1:
        raise ParameterError("positions", sorted(contracts), "contracts of one kind, which settle in one coin")
    still = [
        (_position_leg(p), _level("mark_price", p.mark_price, p.contract)) for p in positions if p.symbol != symbol
    ]
    balance = _finite("wallet_balance", wallet_balance) + sum(_excess((leg,), 0.0, mark) for leg, mark in still)
    legs = tuple(_position_leg(p, brackets) for p in moving)
    contract = moving[0].contract
    start = _level("mark_price", moving[0].mark_price, contract)
    return _price(_critical_level(legs, balance, start), contract)


def maintenance_amounts(brackets: Sequence[LeverageBracket]) -> tuple[float, ...]:
    """Maintenance amounts that make maintenance margin continuous across the tiers.

    ``amount_n = amount_(n-1) + floor_n * (rate_n - rate_(n-1))``, from 0; whatever amounts the brackets carry are
    ignored.
    """
    amounts = [0.0]
    for below, tier in pairwise(brackets):
        step = tier.maintenance_margin_rate - below.maintenance_margin_rate
        amounts.append(amounts[-1] + tier.notional_floor * step)
    return tuple(amounts)


def brackets_from_max_leverage(tiers: Sequence[tuple[float, float]]) -> tuple[LeverageBracket, ...]:
    """Brackets by the rule ``maintenance margin rate = 1 / (2 * maximum leverage of the tier)``.

    Exact on Hyperliquid and close on Binance for BTC and ETH: for markets whose table is not at hand.

    Parameters
    ----------
    tiers : sequence of (notional_floor, max_leverage)
        By rising floor, the first at 0.

    Raises
    ------
    ParameterError
        If the floors do not rise from 0, or a leverage is below 1 or rises with the notional.
    """
    bare = _ordered([LeverageBracket(floor, top, 0.5 / _positive("max_leverage", top)) for floor, top in tiers])
    amounts = maintenance_amounts(bare)
    return tuple(replace(b, maintenance_amount=a) for b, a in zip(bare, amounts, strict=True))


def level_ratio(
    margin_ratio: ArrayLike,
    *,
    side: SideLike,
    maintenance_margin_rate: ArrayLike,
    fee_rate: float = 0.0,
    contract: ContractType = "linear",
) -> Float64Array:
    """Liquidation price over entry price, for a margin that is a given share of the notional at entry.

    Parameters
    ----------
    margin_ratio : array_like
        Effective margin / notional at entry: one over the effective leverage.
    side : {"long", "short"}
    maintenance_margin_rate : array_like
        Broadcast against `margin_ratio`.
    fee_rate : float
        Fee to close counted in maintenance.
    contract : {"linear", "inverse"}

    Returns
    -------
    Float64Array
        NaN where the position is never liquidated and where the margin is negative.

    Raises
    ------
    ParameterError
        If the side or the contract is unknown.
    """
    sign = _side(side).sign
    held = np.asarray(margin_ratio, dtype=np.float64)
    needed = np.asarray(maintenance_margin_rate, dtype=np.float64) + fee_rate
    if _contract(contract) == "linear":
        over, under = 1 - sign * held, 1 - sign * needed
    else:
        over, under = 1 + sign * needed, 1 + sign * held
    possible = (held >= 0) & (over > 0) & (under > 0)
    ratio: Float64Array = np.divide(over, under, out=np.full(possible.shape, np.nan), where=possible)
    return ratio


def margin_ratio(
    level_ratio: ArrayLike,
    *,
    side: SideLike,
    maintenance_margin_rate: ArrayLike,
    fee_rate: float = 0.0,
    contract: ContractType = "linear",
) -> Float64Array:
    """Effective margin / notional at entry that puts the liquidation price at `level_ratio` times the entry.

    The inverse of the function `level_ratio`; parameters and errors as there.

    Returns
    -------
    Float64Array
        NaN where no margin >= 0 does.
    """
    sign = _side(side).sign
    ratio = np.asarray(level_ratio, dtype=np.float64)
    needed = np.asarray(maintenance_margin_rate, dtype=np.float64) + fee_rate
    level = np.where(ratio > 0, ratio, np.nan)
    if _contract(contract) == "linear":
        held = sign * (1 - level * (1 - sign * needed))
    else:
        held = sign * ((1 + sign * needed) / level - 1)
    return np.where(held >= 0, held, np.nan)


@dataclass(frozen=True, slots=True)
class _Leg:
    """A position in ``u``: `sigma` is the sign of its profit per rise of ``u``, `entry` its entry there."""

    sigma: int
    entry: float
    quantity: float
    fee_rate: float
    tiers: tuple[LeverageBracket, ...]

    def __post_init__(self) -> None:
        _positive("quantity", self.quantity)
        highest = max(t.maintenance_margin_rate for t in self.tiers)
        if not 0 <= self.fee_rate < 1 - highest:
            raise ParameterError("taker_fee_rate", self.fee_rate, "a fraction >= 0, below 1 with the maintenance rate")

    def line(self, level: float) -> tuple[float, float]:
        """Constant and slope of (PnL - maintenance margin) in the tier that holds at `level`."""
        tier = self.tiers[0]
        for candidate in self.tiers[1:]:
            if candidate.notional_floor > level * self.quantity:
                break
            tier = candidate
        constant = tier.maintenance_amount - self.sigma * self.quantity * self.entry
        return constant, self.quantity * (self.sigma - tier.maintenance_margin_rate - self.fee_rate)


def _critical_level(legs: Sequence[_Leg], balance: float, start: float) -> float | None:
    """First ``u`` met from `start` at which the excess over maintenance margin changes sign.

    The excess is a straight line between the floors of the tiers. A safe account is walked against itself, one that
    is below maintenance already towards safety.
    """
    slope = sum(leg.line(start)[1] for leg in legs)
    safe = _excess(legs, balance, start) > 0
    downwards = (slope > 0) == safe
    for near, far in _stretches(legs, start, downwards=downwards):
        inside = near / 2 + far / 2 if math.isfinite(far) else 2 * near + 1
        lines = [leg.line(inside) for leg in legs]
        constant, rise = balance + sum(c for c, _ in lines), sum(k for _, k in lines)
        if (constant + rise * near > 0) != safe:
            return near  # maintenance margin jumps here
        crosses = (rise if math.isinf(far) else constant + rise * far) > 0
        if crosses != safe and rise:
            level = -constant / rise
            return level if level > _NEVER * start else None
    if not safe:
        raise ParameterError("margin", balance, "enough for some price not to liquidate the position")
    return None


def _stretches(legs: Sequence[_Leg], start: float, *, downwards: bool) -> list[tuple[float, float]]:
    """Intervals of ``u`` without a tier floor inside, as (near, far), from `start` to 0 or to infinity."""
    floors = {tier.notional_floor / leg.quantity for leg in legs for tier in leg.tiers}
    if downwards:
        return list(pairwise([start, *sorted((f for f in floors if f < start), reverse=True)]))
    return list(pairwise([start, *sorted(f for f in floors if f > start), math.inf]))


def _excess(legs: Sequence[_Leg], balance: float, level: float) -> float:
    """Equity above maintenance margin at `level`."""
    return balance + sum(constant + slope * level for constant, slope in (leg.line(level) for leg in legs))


def _position_leg(position: Position, brackets: Sequence[LeverageBracket] | None = None) -> _Leg:
    if brackets is None:
        tiers = _tiers(None, position.maintenance_margin_rate, position.maintenance_amount)
    else:
        tiers = _ordered(brackets)
    sigma = _sigma(position.side, position.contract)
    entry = _level("entry_price", position.entry_price, position.contract)
    return _Leg(sigma, entry, position.quantity, position.taker_fee_rate, tiers)


def _tiers(
    brackets: Sequence[LeverageBracket] | None, rate: float | None, amount: float
) -> tuple[LeverageBracket, ...]:
    """Check and unify the two ways of giving maintenance margin: one rate and amount, or a table."""
    if (brackets is None) == (rate is None):
        raise ParameterError("maintenance_margin_rate", rate, "either a rate or brackets")
    if rate is not None:
        return (LeverageBracket(0.0, 1.0, rate, _finite("maintenance_amount", amount)),)
    if amount:
        raise ParameterError("maintenance_amount", amount, "none beside brackets, which carry their own")
    return _ordered(brackets or ())


def _ordered(brackets: Sequence[LeverageBracket]) -> tuple[LeverageBracket, ...]:
    floors = [b.notional_floor for b in brackets]
    if not floors or floors[0] != 0 or any(a >= b for a, b in pairwise(floors)):
        raise ParameterError("brackets", floors, "notional floors that rise from 0")
    return tuple(brackets)


def _level(name: str, price: float, contract: ContractType) -> float:
    """``u`` of a price."""
    return _positive(name, price) if contract == "linear" else 1 / _positive(name, price)


def _price(level: float | None, contract: ContractType) -> float | None:
    """Price of a ``u``."""
    if level is None or contract == "linear":
        return level
    return 1 / level


def _sigma(side: SideLike, contract: ContractType) -> int:
    """Sign of the profit per rise of ``u``."""
    return _side(side).sign if _contract(contract) == "linear" else -_side(side).sign


def _side(side: SideLike) -> Side:
    try:
        return Side(side)
    except ValueError:
        raise ParameterError("side", side, "'long' or 'short'") from None


def _contract(contract: ContractType) -> ContractType:
    if contract not in ("linear", "inverse"):
        raise ParameterError("contract", contract, "'linear' or 'inverse'")
    return contract


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ParameterError(name, value, "a finite number > 0")
    return value


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ParameterError(name, value, "a finite number")
    return value
