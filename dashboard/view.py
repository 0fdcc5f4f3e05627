"""The view: everything that decides what a picture shows, and its one spelling as a query string.

The page, a shared link, an embed, the API and a preview all read the same parameters::

    symbol=BTC&venues=binance,bybit&range=24h&tiers=10-24x,50x&side=both&lens=contrast&min=0.1&max=1
    &price=58000,66000&panels=liq,funding&palette=redgreen&theme=dark
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Side
from estimator.errors import ParameterError
from estimator.model.grid import LEVELS, TIER_NAMES


class ViewError(ParameterError):
    """A view parameter that cannot be shown; names the parameter, the value and what is accepted."""


class SideFilter(StrEnum):
    """Which side's liquidations are shown."""

    BOTH = "both"
    LONG = "long"
    SHORT = "short"


class Lens(StrEnum):
    """How density becomes colour: above its own smooth background along price, as it is, or as far as it is certain.

    What is uncertain fades: its contrast counts by the lowest over the highest estimate of the cell.
    """

    CONTRAST = "contrast"
    DENSITY = "density"
    CERTAIN = "certain"


class Panel(StrEnum):
    """Rows under the heatmap, in their order on the page."""

    LIQ = "liq"
    FUNDING = "funding"
    RSI = "rsi"
    LSR = "lsr"
    OI = "oi"


class Palette(StrEnum):
    """Colours of the two sides."""

    REDGREEN = "redgreen"
    COLORBLIND = "colorblind"
    MONO = "mono"


class Theme(StrEnum):
    """Background of the page and the chart."""

    DARK = "dark"
    LIGHT = "light"


class Range(NamedTuple):
    """A span of time on offer, and the stored resolution it is drawn from."""

    name: str
    level: int  # index into `estimator.model.grid.LEVELS`
    columns: int

    @property
    def interval_ms(self) -> int:
        """Time between columns."""
        return LEVELS[self.level].interval_ms

    @property
    def duration_ms(self) -> int:
        """Length of the range."""
        return self.interval_ms * self.columns


def _range(name: str, duration_ms: int, interval_ms: int) -> Range:
    level = next(i for i, stored in enumerate(LEVELS) if stored.interval_ms == interval_ms)
    return Range(name, level, duration_ms // interval_ms)


RANGES: Final = {
    r.name: r
    for r in (
        _range("12h", 12 * HOUR_MS, 5 * MINUTE_MS),
        _range("24h", 24 * HOUR_MS, 5 * MINUTE_MS),
        _range("3d", 3 * DAY_MS, 15 * MINUTE_MS),
        _range("7d", 7 * DAY_MS, 30 * MINUTE_MS),
        _range("30d", 30 * DAY_MS, 2 * HOUR_MS),
        _range("90d", 90 * DAY_MS, 4 * HOUR_MS),
        _range("180d", 180 * DAY_MS, 8 * HOUR_MS),
        _range("1y", 365 * DAY_MS, 24 * HOUR_MS),
    )
}

# "+" means a space in a query string, so "50x+" is spelled "50x" there.
TIER_SLUGS: Final = {name.replace("+", ""): name for name in TIER_NAMES}
ALL_TIERS: Final = tuple(TIER_SLUGS)
ALL_PANELS: Final = tuple(Panel)

MAX_PRICE_RATIO: Final = 20.0
MIN_PRICE_RATIO: Final = 1.002
PRICE_DIGITS: Final = 5  # significant; finer than the lattice, and as fine as the page spells a zoom
MIN_HANDLES: Final = 0.001  # between the ends of the colour scale
MAX_VENUES: Final = 16
MAX_QUERY: Final = 2000

_SYMBOL = re.compile(r"[A-Za-z0-9]{1,20}")
_VENUE = re.compile(r"[a-z0-9_]{1,24}")
_NUMBER = re.compile(r"[0-9]{1,320}(\.[0-9]{0,320})?([eE][+-]?[0-9]{1,3})?")
# Parameters that sites append to links they carry; they say nothing about the view.
_FOREIGN = re.compile(r"utm_[a-z]+|fbclid|gclid|ref")

_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class ViewState:
    """One view of one coin.

    Parameters
    ----------
    symbol : str
        Base coin, e.g. ``"BTC"``.
    venues : tuple of str
        Venues to add up, sorted; empty means every venue of the symbol.
    range : str
        A key of `RANGES`.
    tiers : tuple of str
        Slugs of the effective-leverage tiers shown, in the order of `ALL_TIERS`.
    side, lens, palette, theme
        See the enumerations.
    min, max : float
        Part of the colour scale that is shown, fractions of full colour with ``0 <= min < max <= 1``, at least
        `MIN_HANDLES` apart.
    price : tuple of float, optional
        Price window ``(low, high)`` in quote currency, rounded to `PRICE_DIGITS`; None lets the chart choose.
    panels : tuple of Panel
        Rows under the heatmap.

    Raises
    ------
    ViewError
        If a value is outside its domain.
    """

    symbol: str
    venues: tuple[str, ...] = ()
    range: str = "24h"
    tiers: tuple[str, ...] = ALL_TIERS
    side: SideFilter = SideFilter.BOTH
    lens: Lens = Lens.CONTRAST
    min: float = 0.0
    max: float = 1.0
    price: tuple[float, float] | None = None
    panels: tuple[Panel, ...] = ALL_PANELS
    palette: Palette = Palette.REDGREEN
    theme: Theme = Theme.DARK

    def __post_init__(self) -> None:
        if not _SYMBOL.fullmatch(self.symbol):
            raise ViewError("symbol", self.symbol, "a base coin such as BTC")
        if len(self.venues) > MAX_VENUES or not all(_VENUE.fullmatch(v) for v in self.venues):
            raise ViewError("venues", ",".join(self.venues), "'all' or venues such as binance,bybit")
        check_range(self.range)
        if not self.tiers or not set(self.tiers) <= set(ALL_TIERS):
            raise ViewError("tiers", ",".join(self.tiers), "'all' or some of " + ",".join(ALL_TIERS))
        if not (self.min >= 0 and self.max <= 1 and self.max - self.min > MIN_HANDLES * (1 - 1e-9)):
            accepted = f"0 <= min < max <= 1, at least {MIN_HANDLES} apart"
            raise ViewError("min", f"{self.min!r} (max {self.max!r})", accepted)
        if self.price is not None:
            object.__setattr__(self, "price", tuple(float(f"{p:.{PRICE_DIGITS}g}") for p in self.price))
        _check_price(self.price)
        # One spelling per picture, so that equal views share a cache entry and a link.
        object.__setattr__(self, "venues", tuple(sorted(set(self.venues))))
        object.__setattr__(self, "tiers", tuple(t for t in ALL_TIERS if t in self.tiers))
        object.__setattr__(self, "panels", tuple(p for p in Panel if p in self.panels))

    @property
    def span(self) -> Range:
        """The range with its stored level and number of columns."""
        return RANGES[self.range]

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides shown."""
        return tuple(side for side in Side if self.side.value in (side.value, SideFilter.BOTH.value))

    @property
    def tier_names(self) -> tuple[str, ...]:
        """The tiers as `LiquidationGrid` names them."""
        return tuple(TIER_SLUGS[t] for t in self.tiers)

    @classmethod
    def parse(
        cls, query: str | Mapping[str, str], *, default_symbol: str = "BTC", also: Iterable[str] = ()
    ) -> ViewState:
        """Read a view from a query string (with or without ``?``) or a mapping of parameters.

        Parameters
        ----------
        query : str or mapping
        default_symbol : str
            The coin of a query that names none.
        also : iterable of str
            Further parameter names the caller reads itself.

        Raises
        ------
        ViewError
            Naming the parameter, its value and what is accepted. A parameter nobody knows is an error too: a
            misspelled one would otherwise show something else than was asked for.
        """
        given = read_parameters(query, (*_READERS, *also))
        known = {name: _READERS[name](name, value) for name, value in given.items() if name in _READERS}
        return cls(**{"symbol": default_symbol, **known})  # type: ignore[arg-type]

    def query(self) -> str:
        """Return the canonical query string: `symbol` always, the rest only where it differs from the default."""
        default = ViewState(self.symbol)
        shown = (
            f.name for f in fields(self) if f.name == "symbol" or getattr(self, f.name) != getattr(default, f.name)
        )
        return "&".join(f"{name}={quote(_spell(getattr(self, name)), safe=',')}" for name in shown)


def read_parameters(query: str | Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """Read a query string (with or without ``?``) whose parameters must be among the known.

    Raises
    ------
    ViewError
        If it is too long, or a parameter is given twice or not known.
    """
    given, names = _pairs(query), list(dict.fromkeys(known))
    for name in given.keys() - set(names):
        if not _FOREIGN.fullmatch(name):
            raise ViewError(name[:40], given[name][:80], "no such parameter; known are " + ", ".join(names))
    return given


def check_range(name: str | None) -> None:
    """Refuse a range that there is not.

    Raises
    ------
    ViewError
    """
    if name is not None and name not in RANGES:
        raise ViewError("range", name[:80], "one of " + ", ".join(RANGES))


def _check_price(price: tuple[float, float] | None) -> None:
    if price is None:
        return
    low, high = price
    fine = math.isfinite(low) and math.isfinite(high) and 1e-12 <= low < high <= 1e12
    rounding = 1 + 2 * 10.0 ** (1 - PRICE_DIGITS)
    if not fine or not MIN_PRICE_RATIO / rounding <= high / low <= MAX_PRICE_RATIO * rounding:
        accepted = f"low,high with high/low between {MIN_PRICE_RATIO} and {MAX_PRICE_RATIO:g}, such as 58000,66000"
        raise ViewError("price", _spell(price), accepted)


def _pairs(query: str | Mapping[str, str]) -> dict[str, str]:
    if not isinstance(query, str):
        return dict(query)
    if len(query) > MAX_QUERY:
        raise ViewError("query", query[:40] + "…", f"at most {MAX_QUERY} characters")
    given: dict[str, str] = {}
    for name, value in parse_qsl(query.removeprefix("?"), keep_blank_values=True):
        if name in given:
            raise ViewError(name[:40], f"{given[name][:40]} and {value[:40]}", "one value, several separated by commas")
        given[name] = value
    return given


def _spell(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(_spell(v) for v in value) or "none"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _choice(kind: type[_Choice]) -> Callable[[str, str], _Choice]:
    def read(name: str, value: str) -> _Choice:
        try:
            return kind(value)
        except ValueError:
            raise ViewError(name, value[:80], "one of " + ", ".join(kind)) from None

    return read


def _read_number(name: str, value: str) -> float:
    if not _NUMBER.fullmatch(value):
        raise ViewError(name, value[:80], "a number such as 0.1")
    return float(value)


def _read_price(name: str, value: str) -> tuple[float, float]:
    parts = value.split(",")
    if len(parts) != 2 or not all(_NUMBER.fullmatch(p) for p in parts):
        raise ViewError(name, value[:80], "low,high such as 58000,66000")
    return float(parts[0]), float(parts[1])


def _read_text(_name: str, value: str) -> str:
    return value[:80]


def _read_venues(_name: str, value: str) -> tuple[str, ...]:
    return () if value == "all" else tuple(value[:500].split(","))


def _read_tiers(_name: str, value: str) -> tuple[str, ...]:
    return ALL_TIERS if value == "all" else tuple(value[:500].split(","))


def _read_panels(name: str, value: str) -> tuple[Panel, ...]:
    if value in ("all", "none"):
        return ALL_PANELS if value == "all" else ()
    if not set(value.split(",")) <= set(Panel):
        raise ViewError(name, value[:80], "'all', 'none' or some of " + ",".join(Panel))
    return tuple(Panel(p) for p in value.split(","))


_READERS: Final[dict[str, Callable[[str, str], object]]] = {
    "symbol": _read_text,
    "venues": _read_venues,
    "range": _read_text,
    "tiers": _read_tiers,
    "side": _choice(SideFilter),
    "lens": _choice(Lens),
    "min": _read_number,
    "max": _read_number,
    "price": _read_price,
    "panels": _read_panels,
    "palette": _choice(Palette),
    "theme": _choice(Theme),
}
