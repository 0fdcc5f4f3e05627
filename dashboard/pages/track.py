"""The track record: how what was shown did against what was liquidated, in numbers, pictures and words."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from dashboard.navigation import Look
from dashboard.pages.sorting import SORTING, Column, Order, read_order
from dashboard.pages.track_plots import Interval, Whisker, reading
from dashboard.view import ViewError, read_parameters
from estimator.cache import Cache, MarketStatus

PATH: Final = "/track-record"
ALL: Final = "all"
HORIZONS: Final = ("1h", "4h")
PUBLISHED: Final = "published"

# Baseline -> what it is, in words.
BASELINES: Final[dict[str, str]] = {
    "uniform": "every crossed price alike",
    "distance": "more the farther from the price, whatever happened before",
    "freshness": "more the longer a price has not been traded",
    "volume 1 d": "a day of volume at the leverages printed on positions",
    "volume 1 d, wide": "a day of volume, spread as wide as real positions are",
    "opens-only": "levels that open with open interest and never close",
    "opens-only, wide": "the same, spread as wide as real positions are",
    "label-leverage": "the position book with the leverages printed on positions",
}

Summary = Mapping[str, Any]
Score = Callable[[Summary, str], Any]  # (what a horizon sums up, model) -> its value; None where it has none


def _scored(*names: str) -> Score:
    def value(one: Summary, model: str) -> Any:
        found = one["models"].get(model)
        for name in names:
            found = None if found is None else found[name]
        return found[0] if isinstance(found, Sequence) else found

    return value


def _gain(one: Summary, model: str) -> Any:
    return one["gain"].get(model, (None,))[0]


# What models are sorted by, wherever they are listed.
COLUMNS: Final[tuple[Column[Score], ...]] = (
    Column("model", "Model", "", "The levels as they were shown, and baselines", lambda _, model: model, "text"),
    Column(
        "bits", "Bits over uniform", "", "mean of log2 of the share of a crossed price times their number",
        _scored("bits"),
    ),
    Column(
        "capture", "Caught in the top 10 %", "",
        "share of the liquidated USD in the densest tenth of the crossed prices", _scored("capture"),
    ),
    Column("slope", "Calibration slope", "", "1 is calibrated, less is overconfident", _scored("calibration", "slope")),
    Column("side", "Heavier side right", "", "of columns with liquidations on both sides", _scored("side_right")),
    Column("error", "Side error", "", "of the ratio of longs to shorts, in powers of two", _scored("side_error")),
    Column(
        "sharpness", "Sharpness", "", "what a density claims to know, right or wrong, in bits", _scored("sharpness")
    ),
    Column("gain", "Bits ahead", "95 %", "How far the shown levels are ahead of a baseline", _gain),
)  # fmt: skip
_BY_KEY: Final = {c.key: c for c in COLUMNS}


@dataclass(frozen=True, slots=True)
class TrackQuery:
    """Which part of the record.

    Parameters
    ----------
    symbol, venue : str
        Base coin and venue, or ``"all"``.
    horizon : str
        One of `HORIZONS`, or ``"all"`` of them.
    order : Order, optional
        Of models; None as they are scored.
    """

    symbol: str = ALL
    venue: str = ALL
    horizon: str = HORIZONS[0]
    order: Order | None = None
    look: Look = field(default_factory=Look)

    @classmethod
    def parse(cls, query: str, *also: str, horizons: Sequence[str] = HORIZONS) -> TrackQuery:
        """Read it from the query string of the page or of the API.

        Parameters
        ----------
        query : str
        *also : str
            Parameters that others read.
        horizons : sequence of str
            What may be asked for, the default first.

        Raises
        ------
        ViewError
            Naming the parameter and the value.
        """
        given = read_parameters(query, ("symbol", "venue", "horizon", *SORTING, "theme", "palette", *also))
        horizon = given.get("horizon", horizons[0])
        if horizon not in horizons:
            raise ViewError("horizon", horizon[:80], "one of " + ", ".join(horizons))
        order = read_order(given, COLUMNS)
        return cls(given.get("symbol", ALL), given.get("venue", ALL), horizon, order, Look.parse(given))

    def check(self, statuses: Sequence[MarketStatus]) -> None:
        """Refuse a coin or a venue that is not on offer.

        Raises
        ------
        ViewError
        """
        for name, value, offered in (
            ("symbol", self.symbol, {s.base for s in statuses}),
            ("venue", self.venue, {s.exchange for s in statuses}),
        ):
            if value not in {ALL, *offered}:
                raise ViewError(name, value[:80], "'all' or one of " + ", ".join(sorted(offered)))


def read_record(cache: Cache, query: TrackQuery) -> dict[str, Any]:
    """Return what the API says of a part of the record, with what it means in words. Blocks."""
    found = cache.track.get(query.venue, query.symbol)
    meta, summary = found if found is not None else ({}, None)
    horizons = {} if summary is None else dict(summary["horizons"])
    said = {
        f"{h}h": _sorted(one, query.order)
        | {"words": {"levels": level_words(one), "clusters": cluster_words(one["clusters"])}}
        for h, one in horizons.items()
        if query.horizon in (ALL, f"{h}h")
    }
    times = {name: meta.get(name) for name in ("origin", "source", "made_ms", "first_ms", "last_ms")}
    return {**times, "symbol": query.symbol, "venue": query.venue, "baselines": BASELINES, "horizons": said}


def _sorted(one: Summary, order: Order | None) -> dict[str, Any]:
    """Put the models of a horizon into an order, and with them how far ahead of each the shown levels are."""
    if order is None:
        return dict(one)
    value = _BY_KEY[order.key].value
    lists = {name: order.arrange(one[name], lambda model: value(one, model)) for name in ("models", "gain")}
    return {**one, **{name: {model: one[name][model] for model in models} for name, models in lists.items()}}


# --- in words ---------------------------------------------------------------------------------------------------------


def level_words(one: Summary) -> str:
    """Say what the record shows of one horizon, wins and losses alike."""
    n, needed = one["n"], one["needed"]
    if not n["prints"]:
        return "Nothing has been scored yet: no liquidation has come in a crossed price since levels are shown."
    lead = "" if one["enough"] else (
        f"Too few events yet: {count(n['days'], 'day')} and {count(n['prints'], 'liquidation')}, where "
        f"{needed['days']} days and {needed['prints']} liquidations are the least to speak of. "
    )  # fmt: skip
    groups: dict[str, list[str]] = {"ahead": [], "behind": [], "even": []}
    for name, interval in one["gain"].items():
        groups[reading(Whisker(name, "", interval, ""))].append(name)
    said = {"ahead": "ahead of", "behind": "behind", "even": "not told apart from"}
    parts = [f"{said[key]} {_listed(names)}" for key, names in groups.items() if names]
    return f"{lead}What was shown is {'; '.join(parts)}." if parts else lead


def cluster_words(found: Summary) -> str:
    """Say what the test of clusters as magnets found, also where that is nothing."""
    if not found["n"]:
        return "No cluster has been near enough yet that the price might have touched it."
    if not found["enough"]:
        needed = found["needed"]
        return (
            f"Too few yet to tell: {count(found['pairs'], 'cluster')} on {count(found['days'], 'day')} with nothing "
            f"at the same distance on the other side, where {needed['clusters']} on {needed['days']} days are needed."
        )
    mirror, walk = (_sign(found[name]) for name in ("over_mirror", "over_walk"))
    rates = (
        f"{percent(found['pairs_touched'][0])} of them were touched, {percent(found['mirror_touched'][0])} of the "
        f"mirrored prices; a random walk would have touched {percent(found['expected'][0])}, "
        f"{percent(found['touched'][0])} of all clusters were."
    )
    if mirror > 0 and walk > 0:
        return f"Clusters were touched more often than chance and than the other side: the price went to them. {rates}"
    if mirror > 0:
        return (
            f"Clusters were touched more often than the other side, but not more often than by a random walk. {rates}"
        )
    if mirror < 0:
        return f"Clusters were touched less often than the other side: they did not attract the price. {rates}"
    return f"Nothing was found: the price went to clusters no more often than to the other side. {rates}"


def percent(value: float | None) -> str:
    """Write a share; a dash where it is not known."""
    return "–" if value is None else f"{100 * value:.0f} %"


def _sign(interval: Interval) -> int:
    _, low, high = interval
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)


def _listed(names: Sequence[str]) -> str:
    quoted = [f"“{n}”" for n in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def count(n: int, what: str) -> str:
    """Write a number of things."""
    return f"{n} {what}{'' if n == 1 else 's'}"


# --- forms ------------------------------------------------------------------------------------------------------------


def to_json(record: Mapping[str, Any]) -> bytes:
    """Encode a record."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()


def to_csv(record: Mapping[str, Any]) -> bytes:
    """Encode a record as a table, a row for each horizon and model; what is not known is empty."""
    rows = [
        {
            "origin": record["origin"], "symbol": record["symbol"], "venue": record["venue"], "horizon": horizon,
            **one["n"], "enough": one["enough"], "model": name,
            **_three("bits", told["bits"]), **_three("published_ahead_by", one["gain"].get(name, (None,) * 3)),
            **_three("capture", told["capture"]), "calibration_slope": told["calibration"]["slope"],
            **_three("side_right", told["side_right"]), **_three("side_error", told["side_error"]),
            "side_pairs": told["side_pairs"], "sharpness": told["sharpness"],
        }
        for horizon, one in record["horizons"].items()
        for name, told in one["models"].items()
    ]  # fmt: skip
    out = io.BytesIO()
    pl.DataFrame(rows, infer_schema_length=None).write_csv(out)
    return out.getvalue()


def _three(name: str, interval: Interval) -> dict[str, float | None]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
