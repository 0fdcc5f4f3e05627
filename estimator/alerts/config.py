"""Which alerts are wanted, and where they go: a TOML file and the environment, checked whole before anything starts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from estimator.errors import SettingsError
from estimator.units import short_usd, span_text, venue_name

Severity = Literal["info", "warning", "critical"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
_DAYS: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


# How pydantic's words for what it wanted are told.
_WANTED: Final = {
    "tuple_type": "a list",
    "too_short": "a list of at least one",
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "a text",
    "string_pattern_mismatch": "a short name of letters, digits and signs such as _",
}


def _clock(value: object) -> time:
    if isinstance(value, str) and re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        return time.fromisoformat(value)
    raise ValueError('a time such as "23:00"')


def _zone(value: object) -> ZoneInfo:
    try:
        return ZoneInfo(value if isinstance(value, str) else "")
    except (OSError, ValueError, KeyError):
        raise ValueError('an IANA time zone such as "Europe/Berlin"') from None


def _several(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class _Table(BaseModel):
    """A table of the file: nothing is converted on the quiet, and no key is left over."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


Name = Annotated[str, Field(pattern=r"^[\w][\w .+-]{0,39}$")]
Glob = Annotated[str, Field(min_length=1, max_length=80)]
Venue = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,24}$")]


class _Rule(_Table):
    """What every rule has.

    Attributes
    ----------
    name : str
        What it is called in messages and on the page; by default its kind.
    markets : tuple of str
        Globs for coins (``BTC``), symbols (``BTC/USDT:*``) or market ids (``binance:*``).
    venues : tuple of str
        Only these; empty for all.
    cool_down_minutes : float
        After an alert there is none about the same for so long. [min]
    min_severity : str
        Less severe ones are left.
    """

    name: Name = ""
    markets: Annotated[tuple[Glob, ...], BeforeValidator(_several), Field(min_length=1)] = ("*",)
    venues: Annotated[tuple[Venue, ...], BeforeValidator(_several)] = ()
    cool_down_minutes: float = Field(default=60.0, ge=1, le=10_080)
    min_severity: Severity = "info"

    @property
    def title(self) -> str:
        """Name, or kind where it has none."""
        return self.name or str(getattr(self, "kind", ""))

    @property
    def cool_down_ms(self) -> int:
        """[ms]"""
        return round(60_000 * self.cool_down_minutes)

    @property
    def where(self) -> str:
        """Markets and venues in words."""
        markets = f" of {', '.join(self.markets)}" if self.markets != ("*",) else ""
        return markets + (f" on {', '.join(map(venue_name, self.venues))}" if self.venues else "")


class ClusterRule(_Rule):
    """The price comes near a cluster of estimated levels."""

    kind: Literal["cluster"]
    distance_percent: float = Field(default=1.0, gt=0, le=15)
    min_share_percent: float = Field(default=1.0, ge=0, le=100)
    min_usd: float = Field(default=0.0, ge=0, le=1e13)
    cool_down_minutes: float = Field(default=120.0, ge=1, le=10_080)

    def when(self) -> str:
        """Say when it tells."""
        least = f"{self.min_share_percent:g} % of open interest" + (
            f" and {short_usd(self.min_usd)}" if self.min_usd else ""
        )
        return f"the price{self.where} is within {self.distance_percent:g} % of a cluster of at least {least}"


class SignalRule(_Rule):
    """A reading of `estimator.model.signals` becomes active."""

    kind: Literal["overheated", "squeeze", "washout"]
    cool_down_minutes: float = Field(default=720.0, ge=1, le=10_080)

    def when(self) -> str:
        """Say when it tells."""
        return {
            "overheated": f"longs{self.where} look overheated",
            "squeeze": f"shorts{self.where} look ready to be squeezed",
            "washout": f"a washout{self.where} begins",
        }[self.kind]


class PrintRule(_Rule):
    """A single liquidation is large."""

    kind: Literal["print"]
    min_usd: float = Field(default=1e6, gt=0, le=1e13)
    cool_down_minutes: float = Field(default=10.0, ge=1, le=10_080)

    def when(self) -> str:
        """Say when it tells."""
        return f"a liquidation{self.where} is at least {short_usd(self.min_usd)}"


class StaleRule(_Rule):
    """A live venue has told of nothing for a while."""

    kind: Literal["stale"]
    seconds: float = Field(default=180.0, ge=30, le=86_400)

    def when(self) -> str:
        """Say when it tells."""
        return f"a live venue{self.where} is silent for {span_text(self.seconds)}"


Rule = ClusterRule | SignalRule | PrintRule | StaleRule


class Quiet(_Table):
    """A time of the day in which nothing is sent. It may cross midnight, and belongs to the day it begins on."""

    start: Annotated[time, BeforeValidator(_clock)] = Field(alias="from")
    end: Annotated[time, BeforeValidator(_clock)] = Field(alias="to")
    zone: Annotated[ZoneInfo, BeforeValidator(_zone)] = Field(default=ZoneInfo("UTC"))
    days: Annotated[tuple[Day, ...], BeforeValidator(_several), Field(min_length=1)] = _DAYS
    unless: Severity | Literal["never"] = "critical"

    @model_validator(mode="after")
    def _has_a_length(self) -> Quiet:
        if self.start == self.end:
            raise ValueError("from and to that differ")
        return self

    def holds(self, moment: datetime, severity: Severity) -> bool:
        """Whether an alert of a severity is kept back at a moment, which knows its time zone."""
        if self.unless != "never" and SEVERITIES.index(severity) >= SEVERITIES.index(self.unless):
            return False
        local = moment.astimezone(self.zone)
        now = local.time().replace(tzinfo=None)
        if self.start < self.end:
            return self.start <= now < self.end and self._on(local)
        return (now >= self.start and self._on(local)) or (now < self.end and self._on(local - timedelta(days=1)))

    def _on(self, day: datetime) -> bool:
        return _DAYS[day.weekday()] in self.days


class Digest(_Table):
    """What fires together goes out as one message where it is more than so many."""

    over: int = Field(default=3, ge=1, le=100)
    within_seconds: float = Field(default=5.0, ge=0, le=600)


DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    ClusterRule(kind="cluster"),
    SignalRule(kind="washout"),
    SignalRule(kind="squeeze"),
    SignalRule(kind="overheated"),
    PrintRule(kind="print"),
    StaleRule(kind="stale"),
)


class AlertConfig(_Table):
    """Everything about alerts.

    Attributes
    ----------
    targets : tuple of str
        Apprise URLs; they hold credentials and are never told. Empty: alerts are listed on the page and no more.
    rule : tuple of Rule
    quiet : tuple of Quiet
    digest : Digest
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    targets: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(default=(), repr=False)
    rule: Annotated[
        tuple[Annotated[Rule, Field(discriminator="kind")], ...], BeforeValidator(_several), Field(min_length=1)
    ] = DEFAULT_RULES
    quiet: Annotated[tuple[Quiet, ...], BeforeValidator(_several)] = ()
    digest: Digest = Digest()

    KINDS: ClassVar[Mapping[str, type[BaseModel]]] = {
        "cluster": ClusterRule,
        "overheated": SignalRule,
        "squeeze": SignalRule,
        "washout": SignalRule,
        "print": PrintRule,
        "stale": StaleRule,
    }

    def is_quiet(self, moment: datetime, severity: Severity) -> bool:
        """Whether an alert of a severity is kept back at a moment."""
        return any(quiet.holds(moment, severity) for quiet in self.quiet)


def read_config(file: Path | None, urls: str | None) -> AlertConfig | None:
    """Read what the settings point at; None where alerts are not configured at all.

    Parameters
    ----------
    file : Path, optional
        TOML. Without rules of its own it has the default ones.
    urls : str, optional
        More targets, separated by white space.

    Raises
    ------
    SettingsError
        Naming the file, the key, what was given and what would be accepted; never a target.
    """
    targets = tuple((urls or "").split())
    if file is None:
        return AlertConfig(targets=targets) if targets else None
    try:
        given = tomllib.loads(file.read_text())
    except OSError as error:
        raise SettingsError(f"LIQHEAT_ALERTS_FILE {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingsError(f"{file}: not TOML: {error}") from None
    try:
        config = AlertConfig.model_validate(given)
    except ValidationError as error:
        raise SettingsError(f"{file}: {_problem(error)}") from None
    _check_names(file, config.rule)
    return config.model_copy(update={"targets": (*config.targets, *targets)})


def _check_names(file: Path, rules: tuple[Rule, ...]) -> None:
    """State is kept by name, so that it outlives a change of order."""
    seen: set[str] = set()
    for at, rule in enumerate(rules, 1):
        if rule.title in seen:
            raise SettingsError(f"{file}: rule {at}: name: got {rule.title!r}, expected one that no other rule has")
        seen.add(rule.title)


def _problem(error: ValidationError) -> str:
    """Tell the first problem: where, what was given, what would be accepted."""
    first = error.errors(include_url=False)[0]
    place, value, kind = list(first["loc"]), first["input"], first["type"]
    tables: dict[str, type[BaseModel]] = {"quiet": Quiet, "digest": Digest}
    table = tables.get(str(place[0]), AlertConfig) if place else AlertConfig
    if place[:1] == ["rule"] and len(place) > 2:
        table = AlertConfig.KINDS[str(place.pop(2))]
    context = first.get("ctx", {})
    where = "".join(f" {p + 1}" if isinstance(p, int) else f": {p}" for p in place).removeprefix(": ")
    if kind == "extra_forbidden":
        known = ", ".join(sorted(f.alias or n for n, f in table.model_fields.items()))
        return f"{where}: there is no such key; known here: {known}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        got = value.get("kind") if isinstance(value, dict) else value
        return f"{where}: kind: got {got!r}, expected one of {', '.join(AlertConfig.KINDS)}"
    if kind == "missing":
        return f"{where}: is missing"
    shown = "something else" if place[:1] == ["targets"] else repr(value)[:80]
    wanted = _WANTED.get(kind) or str(context.get("error") or first["msg"]).removeprefix("Input should be ")
    return f"{where}: got {shown}, expected {wanted}"
