"""What clusters, signals, cascades and positions are asked with: parameters, each with its bounds, read and described.

The symbol and the venues are a view's; whoever has the address of a view may add to it, the rest of it changes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from dashboard.insights import WhatIf
from dashboard.view import ViewError, ViewState, read_parameters
from estimator.cache import MarketStatus
from estimator.domain import ContractType, LeverageBracket, Position, Side
from estimator.hours import funding_8h
from estimator.model.margin import brackets_from_max_leverage
from estimator.model.positions import Plan, tiers_of

MAX_CHANGES: Final = 24
MAX_TIERS: Final = 64
MAX_OTHERS: Final = 16
_COIN: Final = re.compile(r"[A-Za-z0-9]{1,20}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?")


class Number(NamedTuple):
    """A number that may be asked with."""

    name: str
    low: float
    high: float
    default: float | None
    text: str

    def read(self, given: Mapping[str, str]) -> float | None:
        """Read it; the default where it is not given.

        Raises
        ------
        ViewError
            Naming the value and the bounds.
        """
        if self.name not in given:
            return self.default
        return self.check(given[self.name])

    def check(self, spelled: str) -> float:
        """Read one spelled value."""
        value = float(spelled) if _NUMBER.fullmatch(spelled) else math.nan
        if not self.low <= value <= self.high:
            raise ViewError(self.name, spelled[:80], f"a number from {self.low:g} to {self.high:g}")
        return value

    def described(self) -> dict[str, Any]:
        """Return it as OpenAPI describes a parameter."""
        schema: dict[str, Any] = {"type": "number", "minimum": self.low, "maximum": self.high}
        if self.default is not None:
            schema["default"] = self.default
        return {"name": self.name, "in": "query", "required": False, "schema": schema, "description": self.text}


class Text(NamedTuple):
    """A word or a list that may be asked with."""

    name: str
    text: str
    example: str
    choices: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """Return it as OpenAPI describes a parameter."""
        schema: dict[str, Any] = {"type": "string"} | ({"enum": list(self.choices)} if self.choices else {})
        return {
            "name": self.name, "in": "query", "required": False, "schema": schema, "description": self.text,
            "example": self.example,
        }  # fmt: skip

    def choose(self, given: Mapping[str, str], default: str) -> str:
        """Return the choice.

        Raises
        ------
        ViewError
            If it is none.
        """
        value = given.get(self.name, default)
        if value not in self.choices:
            raise ViewError(self.name, value[:80], "one of " + ", ".join(self.choices))
        return value


HOURS: Final = Number("hours", 0.25, 720, 24, "Horizon of the hitting probability. [h]")
LEAST_SHARE: Final = Number("least_share", 0, 1, 0.005, "Least mass of a cluster, a share of open interest.")
OWN_LIQUIDATION: Final = Number(
    "liquidation", 1e-12, 1e12, None, "Own liquidation price, for the stops: a long's below the mark, a short's above."
)
CLUSTERS: Final = (HOURS, LEAST_SHARE, OWN_LIQUIDATION)

CHANGE: Final = Number("change", -0.9, 5, None, "Change of the price, a fraction such as -0.03; several by commas.")
PARTICIPATION: Final = Number("participation", 0.01, 1, 1, "Part of what is liquidated that trades at market.")
STRESS: Final = Number("stress", 0.1, 20, 1, "How many times thinner than usual the market is, for the harsh end.")
DEPTH: Final = Number(
    "depth_usd",
    1,
    1e12,
    None,
    "Resting in the order book within 1 % of the mark, one side; else from turnover. [USD]",
)
VOLATILITY: Final = Number("daily_volatility", 1e-4, 2, None, "Standard deviation of a day's return; else measured.")
VOLUME: Final = Number("daily_volume_usd", 1, 1e15, None, "Volume of a day; else measured. [USD]")
CASCADE: Final = (CHANGE, PARTICIPATION, STRESS, DEPTH, VOLATILITY, VOLUME)

VENUE: Final = Text("venue", "Venue of the position; by default the one with the largest open interest.", "binance")
SIDE: Final = Text("side", "Side of the position.", "long", ("long", "short"))
MODE: Final = Text("mode", "Margin of its own, or an account's balance.", "isolated", ("isolated", "cross"))
TIERS: Final = Text(
    "tiers", "Maintenance tiers as `floor:rate`, by commas; else the one the levels use.", "0:0.004,50000:0.005"
)
OTHERS: Final = Text(
    "others",
    "Other positions of a cross account as `coin:side:entry:quantity:mark:maintenance rate`, by commas; an empty mark "
    "is the one known here.",
    "ETH:short:2500:10:2450:0.005",
)
PRICE: Final = (1e-12, 1e12)
ENTRY: Final = Number("entry", *PRICE, None, "Entry price; by default the mark.")
MARK: Final = Number("mark", *PRICE, None, "Mark price; by default the venue's.")
QUANTITY: Final = Number("quantity", 1e-9, 1e15, None, "Size: base coins, or USD of a coin-margined contract.")
NOTIONAL: Final = Number("notional_usd", 1e-6, 1e15, None, "Size at entry, in place of `quantity`. [USD]")
LEVERAGE: Final = Number("leverage", 1, 1000, None, "Notional over margin at entry, of an isolated position.")
MARGIN: Final = Number(
    "margin", 1e-9, 1e15, None, "Margin of an isolated position, in place of `leverage`; balance of a cross account."
)
ADD: Final = Number("add", -1e15, 1e15, 0, "Margin to add; negative to take out.")
CLOSE: Final = Number("close", 0, 0.999, 0, "Part of the position to close.")
CLOSE_PRICE: Final = Number("close_price", *PRICE, None, "Where; by default at the mark.")
DAYS: Final = Number("days", 0, 365, 0, "Days of funding, and horizon of the hitting probability (0 means one day).")
FUNDING: Final = Number("funding_8h", -0.05, 0.05, None, "Funding per 8 h, paid by longs; by default the venue's.")
RATE: Final = Number("maintenance_rate", 0, 0.5, None, "Maintenance margin rate, in place of `tiers`.")
FEE: Final = Number("fee", 0, 0.02, None, "Fee to close counted in maintenance; by default as the venue counts it.")
CALL: Final = Number("call", 0.05, 1, 0.8, "Part of equity at which maintenance margin calls.")
POSITION: Final = (
    VENUE, SIDE, MODE, ENTRY, QUANTITY, NOTIONAL, LEVERAGE, MARGIN, MARK, ADD, CLOSE, CLOSE_PRICE, DAYS, FUNDING, RATE,
    FEE, CALL, TIERS, OTHERS,
)  # fmt: skip
_PART_PRICE: Final = Number("others", *PRICE, None, "")
_PART_SIZE: Final = Number("others", 1e-9, 1e15, None, "")
_PART_RATE: Final = Number("others", 0, 0.5, None, "")
_TIER_FLOOR: Final = Number("tiers", 0, 1e15, None, "")
_TIER_RATE: Final = Number("tiers", 0, 0.5, None, "")


@dataclass(frozen=True, slots=True)
class Asked:
    """A view and what is asked of it beside."""

    view: ViewState
    given: Mapping[str, str]


def read_asked(query: str, parameters: Sequence[Number | Text], default_symbol: str) -> Asked:
    """Read a query that may be a view's and asks more.

    Raises
    ------
    ViewError
        If a parameter is not known, given twice, or not one a view can have.
    """
    names = [p.name for p in parameters]
    view = ViewState.parse(query, default_symbol=default_symbol, also=names)
    given = read_parameters(query, [*(f.name for f in fields(ViewState)), *names])
    return Asked(ViewState(view.symbol, venues=view.venues), {n: v for n, v in given.items() if n in names})


def read_position(query: str, default_symbol: str) -> Asked:
    """Read a query about a position: its ``side`` and ``venue`` are its own, not a view's.

    Raises
    ------
    ViewError
        As `read_asked`.
    """
    given = read_parameters(query, ["symbol", *(p.name for p in POSITION)])
    return Asked(ViewState(given.get("symbol", default_symbol)[:80]), given)


def known(number: Number, given: Mapping[str, str]) -> float:
    """Read a number that has a default."""
    value = number.read(given)
    if value is None:
        raise ViewError(number.name, "", f"a number from {number.low:g} to {number.high:g}")
    return value


def read_what_if(given: Mapping[str, str]) -> WhatIf:
    """Read what a cascade is asked with."""
    changes = WhatIf().changes
    if CHANGE.name in given:
        spelled = given[CHANGE.name].split(",")
        if len(spelled) > MAX_CHANGES:
            raise ViewError(CHANGE.name, f"{len(spelled)} values", f"at most {MAX_CHANGES}")
        changes = tuple(CHANGE.check(s) for s in spelled)
        if 0 in changes:
            raise ViewError(CHANGE.name, "0", "changes other than 0")
    return WhatIf(
        changes=changes,
        participation=known(PARTICIPATION, given),
        stress=known(STRESS, given),
        depth_usd=DEPTH.read(given),
        daily_volatility=VOLATILITY.read(given),
        daily_volume_usd=VOLUME.read(given),
    )


def read_plan(given: Mapping[str, str], status: MarketStatus, offered: Sequence[MarketStatus] = ()) -> Plan:
    """Read a position on a market, which gives what the query does not.

    Parameters
    ----------
    given : mapping
    status : MarketStatus
    offered : sequence of MarketStatus
        Markets that give the marks of other positions.

    Raises
    ------
    ParameterError
        Naming the parameter.
    """
    cross = MODE.choose(given, "isolated") == "cross"
    contract: ContractType = "inverse" if status.contract == "inverse" else "linear"
    mark = MARK.read(given) or status.mark_price
    entry = ENTRY.read(given) or mark
    quantity = _quantity(given, entry, contract)
    fee, funding = FEE.read(given), FUNDING.read(given)
    return Plan(
        exchange=status.exchange,
        symbol=status.symbol,
        side=Side(SIDE.choose(given, "long")),
        contract=contract,
        entry_price=entry,
        mark_price=mark,
        quantity=quantity,
        margin=_margin(given, quantity * entry if contract == "linear" else quantity / entry, cross=cross),
        brackets=_brackets(given, status),
        cross=cross,
        others=_others(given, status, offered),
        fee_rate=(status.maintenance_fee_rate or 0.0) if fee is None else fee,
        extra_margin=known(ADD, given),
        close_share=known(CLOSE, given),
        close_price=CLOSE_PRICE.read(given),
        funding_rate_8h=(funding_8h(status) or 0.0) if funding is None else funding,
        days=known(DAYS, given),
        call=known(CALL, given),
    )


def _quantity(given: Mapping[str, str], entry: float, contract: ContractType) -> float:
    quantity, notional = QUANTITY.read(given), NOTIONAL.read(given)
    if (quantity is None) == (notional is None):
        raise ViewError("quantity", given.get("quantity", ""), "either quantity or notional_usd")
    if quantity is not None or notional is None:
        return quantity or 0.0
    return notional / entry if contract == "linear" else notional


def _margin(given: Mapping[str, str], value: float, *, cross: bool) -> float:
    leverage, margin = LEVERAGE.read(given), MARGIN.read(given)
    if cross and (leverage is not None or margin is None):
        raise ViewError("margin", given.get("margin", ""), "the balance of the cross account, and no leverage")
    if (leverage is None) == (margin is None):
        raise ViewError("leverage", given.get("leverage", ""), "either leverage or margin")
    return margin if margin is not None else value / (leverage or 1.0)


def _brackets(given: Mapping[str, str], status: MarketStatus) -> tuple[LeverageBracket, ...]:
    rate = RATE.read(given)
    if TIERS.name in given:
        if rate is not None:
            raise ViewError(TIERS.name, given[TIERS.name][:80], "either tiers or maintenance_rate")
        return tiers_of(_pairs(given[TIERS.name]))
    rate = status.maintenance_margin_rate if rate is None else rate
    if rate is None:
        return brackets_from_max_leverage([(0.0, status.max_leverage)])
    return (LeverageBracket(0.0, status.max_leverage, rate),)


def _pairs(spelled: str) -> list[tuple[float, float]]:
    rows = [row.split(":") for row in spelled.split(",")]
    if len(rows) > MAX_TIERS or any(len(row) != 2 for row in rows):
        raise ViewError(TIERS.name, spelled[:80], f"floor:rate by commas, at most {MAX_TIERS}, such as {TIERS.example}")
    return [(_TIER_FLOOR.check(floor), _TIER_RATE.check(rate)) for floor, rate in rows]


def _others(given: Mapping[str, str], status: MarketStatus, offered: Sequence[MarketStatus]) -> tuple[Position, ...]:
    if OTHERS.name not in given:
        return ()
    rows = given[OTHERS.name].split(",")
    if len(rows) > MAX_OTHERS:
        raise ViewError(OTHERS.name, f"{len(rows)} positions", f"at most {MAX_OTHERS}")
    return tuple(_other(row, status, offered) for row in rows)


def _other(spelled: str, status: MarketStatus, offered: Sequence[MarketStatus]) -> Position:
    parts = spelled.split(":")
    if len(parts) != 6 or not _COIN.fullmatch(parts[0]) or parts[1] not in SIDE.choices:
        raise ViewError(OTHERS.name, spelled[:80], f"coin:side:entry:quantity:mark:rate, such as {OTHERS.example}")
    coin = parts[0].upper()
    if coin == status.base.upper():
        raise ViewError(OTHERS.name, spelled[:80], f"coins other than {status.base}, such as {OTHERS.example}")
    mark = _PART_PRICE.check(parts[4]) if parts[4] else _known_mark(coin, status, offered)
    if mark is None:
        raise ViewError(OTHERS.name, spelled[:80], f"a mark price of {coin}, which is not known here")
    return Position(
        symbol=status.symbol.replace(status.base, parts[0], 1),
        side=Side(parts[1]),
        entry_price=_PART_PRICE.check(parts[2]),
        quantity=_PART_SIZE.check(parts[3]),
        mark_price=mark,
        maintenance_margin_rate=_PART_RATE.check(parts[5]),
        contract="inverse" if status.contract == "inverse" else "linear",
    )


def _known_mark(coin: str, status: MarketStatus, offered: Sequence[MarketStatus]) -> float | None:
    """Mark price of a coin, of the venue of the position where that has it."""
    of_coin = [s for s in offered if s.base.upper() == coin and s.loaded and s.mark_price > 0]
    return next((s.mark_price for s in sorted(of_coin, key=lambda s: s.exchange != status.exchange)), None)
