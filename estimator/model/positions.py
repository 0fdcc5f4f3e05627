"""What becomes of a position: margin added, part closed, days of funding, the margin call, what the venue closes.

Prices come from `estimator.model.margin`. The margin call is the mark price at which maintenance margin is a given
part of equity, which is a liquidation price with every maintenance rate and amount divided by that part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from estimator.domain import ContractType, LeverageBracket, Position, Side
from estimator.errors import ParameterError
from estimator.model.margin import cross_liquidation_price, maintenance_amounts

FUNDING_PER_DAY: Final = 3  # rates are per 8 h
SMALL_USD: Final = 100_000.0  # Hyperliquid closes positions up to this whole
_FIRST_SHARE: Final = 0.2  # and this much of larger ones first


@dataclass(frozen=True, slots=True)
class Plan:
    """A position as somebody holds it, and what they mean to do.

    Parameters
    ----------
    exchange, symbol : str
    side : Side
    contract : {"linear", "inverse"}
    entry_price, mark_price : float
    quantity : float
        Base coins for a linear contract, USD of contracts for an inverse one.
    margin : float
        Isolated margin, or the wallet balance of a cross account. [quote for linear, coin for inverse]
    brackets : tuple of LeverageBracket
        Maintenance tiers; one where only the first is known.
    cross : bool
    others : tuple of Position
        Positions that share a cross account.
    fee_rate : float
        Fee to close counted in maintenance.
    extra_margin : float
        Margin to add; negative to take out. [as margin]
    close_share, close_price : float
        Part to close, and where. An isolated position gives back the margin of that part, and its profit or loss goes
        to the wallet; in a cross account it stays in the balance.
    funding_rate_8h, days : float
        Funding paid by longs per 8 h, and for how long it is paid.
    call : float
        Part of equity at which maintenance margin calls.
    """

    exchange: str
    symbol: str
    side: Side
    contract: ContractType
    entry_price: float
    mark_price: float
    quantity: float
    margin: float
    brackets: tuple[LeverageBracket, ...] = field(repr=False)
    cross: bool = False
    others: tuple[Position, ...] = ()
    fee_rate: float = 0.0
    extra_margin: float = 0.0
    close_share: float = 0.0
    close_price: float | None = None
    funding_rate_8h: float = 0.0
    days: float = 0.0
    call: float = 0.8

    def __post_init__(self) -> None:
        for name, low, high in (
            ("entry_price", 1e-12, 1e12), ("mark_price", 1e-12, 1e12), ("quantity", 1e-12, 1e15),
            ("margin", 1e-12, 1e15), ("extra_margin", -1e15, 1e15), ("funding_rate_8h", -0.1, 0.1), ("days", 0, 3650),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ParameterError(name, getattr(self, name), f"a number from {low:g} to {high:g}")
        if self.others and not self.cross:
            raise ParameterError("others", len(self.others), "none beside an isolated position")
        if not 0 <= self.close_share < 1:
            raise ParameterError("close_share", self.close_share, "a share from 0 to below 1")
        if not 0 < self.call <= 1:
            raise ParameterError("call", self.call, "a part of equity above 0, at most 1")

    def value(self, quantity: float, price: float) -> float:
        """Notional of a quantity in the settlement coin."""
        return quantity * price if self.contract == "linear" else quantity / price

    def profit(self, quantity: float, price: float) -> float:
        """Profit of a quantity at a price, in the settlement coin."""
        sign = self.side.sign if self.contract == "linear" else -self.side.sign
        return sign * (self.value(quantity, price) - self.value(quantity, self.entry_price))


@dataclass(frozen=True, slots=True)
class Closing:
    """What a venue closes once the liquidation price is reached.

    Parameters
    ----------
    kind : {"whole", "partial", "unknown"}
    first_share : float or None
        Part it closes first, where its rules say.
    text : str
        The rule in words.
    """

    kind: Literal["whole", "partial", "unknown"]
    first_share: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a position comes to. Amounts in the coin that settles it.

    Parameters
    ----------
    quantity : float
        Left after the partial close.
    realised : float
        Profit of the part that is closed, before fees.
    funding : float
        Paid over the days; negative where received.
    margin : float
        Isolated margin or balance of the cross account after all of it.
    equity, maintenance_margin : float
        At the mark.
    margin_ratio : float or None
        Maintenance margin over equity; None where there is no equity.
    leverage : float or None
        Notional at the mark over equity.
    liquidation_price, call_price, bankruptcy_price : float or None
        None where no price does that; no bankruptcy price in a cross account with other positions.
    liquidated : bool
        Whether that is so at the mark already.
    tier : int
        Maintenance tier at the liquidation price, or at the mark where there is none; the first is 1.
    closing : Closing
    """

    quantity: float
    realised: float
    funding: float
    margin: float
    equity: float
    maintenance_margin: float
    margin_ratio: float | None
    leverage: float | None
    liquidation_price: float | None
    call_price: float | None
    bankruptcy_price: float | None
    liquidated: bool
    tier: int
    closing: Closing


def work_out(plan: Plan) -> Outcome:
    """Work out what a position comes to.

    Raises
    ------
    ParameterError
        If a value is outside its domain.
    """
    left = plan.quantity * (1 - plan.close_share)
    closed_at = plan.mark_price if plan.close_price is None else plan.close_price
    realised = plan.profit(plan.quantity * plan.close_share, closed_at)
    paid = plan.funding_rate_8h * FUNDING_PER_DAY * plan.days * plan.value(left, plan.mark_price)
    funding = plan.side.sign * paid if paid else 0.0  # no funding has no sign
    kept = plan.margin + realised if plan.cross else plan.margin * (1 - plan.close_share)
    margin = kept + plan.extra_margin - funding
    equity = margin + plan.profit(left, plan.mark_price) + sum(_profit(p) for p in plan.others)
    maintenance = _maintenance(plan, left) + sum(_other_maintenance(p) for p in plan.others)
    price = _price_where(plan, left, margin, 1.0)
    at = plan.mark_price if price is None else price
    tier = _tier(plan.brackets, plan.value(left, at))
    return Outcome(
        quantity=left,
        realised=realised,
        funding=funding,
        margin=margin,
        equity=equity,
        maintenance_margin=maintenance,
        margin_ratio=maintenance / equity if equity > 0 else None,
        leverage=plan.value(left, plan.mark_price) / equity if equity > 0 else None,
        liquidation_price=price,
        call_price=_price_where(plan, left, margin, plan.call),
        bankruptcy_price=None if plan.others else _price_where(plan, left, margin, math.inf),
        liquidated=equity <= maintenance,
        tier=tier,
        closing=closing_of(plan.exchange, plan.brackets, plan.value(left, at)),
    )


def closing_of(exchange: str, brackets: Sequence[LeverageBracket], notional: float) -> Closing:
    """Say what a venue closes of a position of this notional (method.md, section 1).

    Parameters
    ----------
    exchange : str
    brackets : sequence of LeverageBracket
        A single one counts as a table of which only the first tier is known.
    notional : float
        At the liquidation price, in the unit of the brackets.
    """
    if exchange in _LADDERS:
        return _step_down(_LADDERS[exchange], brackets, notional)
    if exchange == "hyperliquid":
        large = notional > SMALL_USD
        text = f"above {SMALL_USD:,.0f} USD a fifth first, after 30 s all of it; smaller positions are closed whole"
        return Closing("partial" if large else "whole", _FIRST_SHARE if large else 1.0, text)
    return _CLOSINGS.get(exchange, Closing("unknown", None, f"the rules of {exchange} are not known here"))


class _Ladder(NamedTuple):
    """A venue that closes so many tiers at a time from a tier on."""

    first_tier: int
    tiers: int
    text: str


_LADDERS: Final = {
    "bybit": _Ladder(2, 1, "tier 1 is closed whole, from tier 2 on a tier at a time"),
    "okx": _Ladder(3, 2, "from tier 3 on two tiers at a time, lower tiers are closed whole"),
    "bitget": _Ladder(3, 2, "two tiers at a time, the lowest are closed whole"),
}
_CLOSINGS: Final = {
    "binance": Closing(
        "partial", None, "one reduction, which stops once the margin suffices; small positions are closed whole"
    ),
    "gate": Closing("unknown", None, "in parts on some products, whole on others"),
}


def _step_down(ladder: _Ladder, brackets: Sequence[LeverageBracket], notional: float) -> Closing:
    if len(brackets) == 1:
        return Closing("unknown", None, f"{ladder.text}; give the maintenance tiers to see which applies")
    tier = _tier(brackets, notional)
    if tier < ladder.first_tier:
        return Closing("whole", 1.0, ladder.text)
    return Closing("partial", 1 - brackets[tier - ladder.tiers].notional_floor / notional, ladder.text)


def tiers_of(rates: Sequence[tuple[float, float]]) -> tuple[LeverageBracket, ...]:
    """Make brackets of ``(notional_floor, maintenance_margin_rate)``, with continuous maintenance margin.

    Raises
    ------
    ParameterError
        If the floors do not rise from 0, or a rate is outside its domain or falls.
    """
    if any(a[1] > b[1] for a, b in pairwise(rates)):
        raise ParameterError("tiers", [r for _, r in rates], "maintenance rates that do not fall")
    bare = [LeverageBracket(floor, max(0.5 / rate, 1.0) if rate > 0 else 1.0, rate) for floor, rate in rates]
    brackets = tuple(replace(b, maintenance_amount=a) for b, a in zip(bare, maintenance_amounts(bare), strict=True))
    floors = [b.notional_floor for b in brackets]
    if not floors or floors[0] != 0 or any(a >= b for a, b in pairwise(floors)):
        raise ParameterError("tiers", floors, "notional floors that rise from 0")
    return brackets


def _price_where(plan: Plan, quantity: float, margin: float, part: float) -> float | None:
    """Mark price at which maintenance margin is `part` of equity; None where there is none."""
    brackets = tuple(_scaled(b, part) for b in plan.brackets)
    first = brackets[0]
    main = Position(
        plan.symbol, plan.side, plan.entry_price, quantity, plan.mark_price, first.maintenance_margin_rate,
        taker_fee_rate=plan.fee_rate / part, contract=plan.contract,
    )  # fmt: skip
    others = [
        replace(
            p,
            maintenance_margin_rate=p.maintenance_margin_rate / part,
            maintenance_amount=p.maintenance_amount / part,
            taker_fee_rate=p.taker_fee_rate / part,
        )
        for p in plan.others
    ]
    try:
        return cross_liquidation_price(
            positions=[main, *others], symbol=plan.symbol, wallet_balance=margin, brackets=brackets
        )
    except ParameterError as error:
        if error.name == "margin":  # so little is left that every price liquidates
            return None
        raise


def _scaled(bracket: LeverageBracket, part: float) -> LeverageBracket:
    rate = bracket.maintenance_margin_rate / part
    if rate >= 1:
        raise ParameterError("call", part, f"more than the maintenance rate {bracket.maintenance_margin_rate:g}")
    return replace(bracket, maintenance_margin_rate=rate, maintenance_amount=bracket.maintenance_amount / part)


def _maintenance(plan: Plan, quantity: float) -> float:
    notional = plan.value(quantity, plan.mark_price)
    bracket = plan.brackets[_tier(plan.brackets, notional) - 1]
    return notional * (bracket.maintenance_margin_rate + plan.fee_rate) - bracket.maintenance_amount


def _profit(position: Position) -> float:
    sign = Side(position.side).sign
    if position.contract == "linear":
        return sign * position.quantity * (position.mark_price - position.entry_price)
    return sign * position.quantity * (1 / position.entry_price - 1 / position.mark_price)


def _other_maintenance(position: Position) -> float:
    linear = position.contract == "linear"
    notional = position.quantity * position.mark_price if linear else position.quantity / position.mark_price
    return notional * (position.maintenance_margin_rate + position.taker_fee_rate) - position.maintenance_amount


def _tier(brackets: Sequence[LeverageBracket], notional: float) -> int:
    """Return the tier of a notional, the first being 1."""
    return max(n for n, b in enumerate(brackets, 1) if notional >= b.notional_floor)
