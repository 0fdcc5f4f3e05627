"""What two sides of a world must agree on, and what a worker owes to the venues: checks that count."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from estimator.cache import Cache, MarketStatus
from estimator.domain import MINUTE_MS, Gap, Liquidation, Market, Origin
from estimator.exchanges.base import Connection, MarketHistory
from estimator.history import TABLES, TableName
from estimator.live.hearing import PRINTS, with_ends
from estimator.live.past import usable
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.model.steps import STEP_MS as CLOSE_MS
from estimator.observed import Heard
from estimator.pipeline import MarketFollower
from tests.estimator.live_worker import make_venue
from tests.estimator.test_pipeline import assert_same_bits
from tests.soak.world import Side, coin_of

FOR_EVER: Final = 2**42
OBSERVED: Final[tuple[TableName, ...]] = ("open_interest", "long_short_ratio", "funding")
REALISED: Final = ("long_liquidated_usd", "short_liquidated_usd")
_SHOWN: Final = 5  # differences of a check that are told


@dataclass
class Check:
    """A statement, how many things it was held against, and where it did not hold."""

    what: str
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    note: str = ""
    late: int = 0

    def expect(self, holds: object, said: str) -> None:
        """Compare one thing."""
        self.compared += 1
        if not holds:
            self.wrong.append(said)

    @property
    def told(self) -> str:
        """The first of what is wrong."""
        more = f" … and {len(self.wrong) - _SHOWN} more" if len(self.wrong) > _SHOWN else ""
        return "; ".join(self.wrong[:_SHOWN]) + more


class Seen(NamedTuple):
    """A print in the words of history."""

    time_ms: int
    side: str
    price: float
    quantity_base: float

    def like(self, other: Seen) -> bool:
        """Whether it is the same print, after the venue has turned it into contracts and text."""
        pairs = zip(self[2:], other[2:], strict=True)
        return self[:2] == other[:2] and all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def lacking(wanted: Iterable[Seen], there: Iterable[Seen]) -> list[Seen]:
    """Return those of `wanted` that are not in `there`, each of which counts once."""
    left: dict[tuple[int, str], list[Seen]] = defaultdict(list)
    for one in there:
        left[one[:2]].append(one)
    missing = []
    for one in wanted:
        found = next((at for at, other in enumerate(left[one[:2]]) if one.like(other)), None)
        if found is None:
            missing.append(one)
        else:
            left[one[:2]].pop(found)
    return missing


def sent(side: Side, market_id: str) -> list[Seen]:
    """Prints of a market that the server sent whole to the worker."""
    return _of_coin(side.server.delivered, market_id)


def _of_coin(prints: Mapping[tuple[str, str, int], Liquidation], market_id: str) -> list[Seen]:
    where = coin_of(market_id)
    return [_seen(p) for (*told, _), p in prints.items() if tuple(told) == where]


def _printed(side: Side, market_id: str) -> list[Seen]:
    """Every print of a market: some venues tell of past ones when asked."""
    feed = side.server.feed
    return [_seen(p) for p in feed.market(*coin_of(market_id)).prints(feed.start_ms, feed.now_ms)]


def kept(side: Side, market_id: str) -> list[Seen]:
    """Prints of a market in history."""
    rows = side.history.read("liquidations", market_id, 0, FOR_EVER)
    return [Seen(*row) for row in rows.select(pl.col("time").dt.epoch("ms"), *Seen._fields[1:]).iter_rows()]


def acknowledged(side: Side) -> dict[str, list[Seen]]:
    """Prints that the journal has acknowledged, by market: each once, however often it was told."""
    found: dict[str, dict[tuple[Any, ...], Seen]] = defaultdict(dict)
    for table, market_id, columns in side.entries():
        if table == "liquidations":
            rows = zip(*(columns[n] for n in ("time", *Seen._fields[1:], "print_id")), strict=True)
            found[market_id].update({row: Seen(*row[:-1]) for row in rows})
    return defaultdict(list, {market_id: list(seen.values()) for market_id, seen in found.items()})


def unheard(side: Side, market_id: str) -> list[Gap]:
    """Stretches in which the prints of a market were not heard, as history has them: the page shows the latest."""
    rows = side.history.read("connections", market_id, 0, FOR_EVER).sort("time", "connected")
    told = [Connection(*row) for row in rows.select(pl.col("time").dt.epoch("ms"), "what", "connected").iter_rows()]
    heard = Heard(PRINTS)
    for connection in with_ends(told, [print_.time_ms for print_ in kept(side, market_id)]):
        heard.note(connection)
    return [Gap(0, told[0].time_ms if told else FOR_EVER, PRINTS), *heard.gaps(FOR_EVER)]


def status_of(side: Side, market_id: str) -> MarketStatus:
    """Return the state of a market."""
    return next(s for s in side.cache.get_statuses() if s.id == market_id)


def within(gaps: Sequence[Gap], start_ms: int, end_ms: int) -> bool:
    """Whether a gap touches a stretch of time."""
    return any(gap.start_ms < end_ms and start_ms < gap.end_ms for gap in gaps)


def owed_prints(side: Side) -> Iterator[Check]:
    """What was delivered is stored once, what was not delivered is not, and what was lost on the way is marked."""
    lost, foreign, given = Check("delivered prints are in history"), Check("history has nothing else"), Check(
        "acknowledged prints are in history"
    )  # fmt: skip
    marked, unsent = Check("prints lost on the way are marked as a gap"), Check("prints never sent are in a gap")
    witnessed = acknowledged(side)
    for market_id in side.market_ids():
        was_sent, is_kept, gaps = sent(side, market_id), kept(side, market_id), unheard(side, market_id)
        printed = _printed(side, market_id)
        missing = lacking(was_sent, is_kept)
        lost.compared += len(was_sent)
        given.compared += len(witnessed[market_id])
        foreign.compared += len(is_kept)
        gone = lacking(witnessed[market_id], is_kept)
        given.wrong += [
            f"{market_id} {one}" for one in gone if not within(side.unwritten, one.time_ms, one.time_ms + 1)
        ]
        foreign.wrong += [f"{market_id} {one}" for one in lacking(is_kept, printed)]
        never = lacking(lacking(printed, [*is_kept, *missing]), _of_coin(side.server.halted, market_id))
        for check, some in ((marked, missing), (unsent, never)):
            check.compared += len(some)
            check.wrong += [f"{market_id} {one}" for one in some if not within(gaps, one.time_ms, one.time_ms + 1)]
    lost.note = f"{marked.compared} lost on the way"
    yield from (lost, given, foreign, marked, unsent)


def same_candles(whole: Side, broken: Side) -> Check:
    """Every candle."""
    check = Check("candles")
    for market_id in whole.market_ids():
        one, two = (s.history.read("candles", market_id, 0, FOR_EVER) for s in (whole, broken))
        check.compared += one.height - 1
        check.expect(one.equals(two), f"{market_id}: {one.height} and {two.height} rows")
    return check


def same_observations(whole: Side, broken: Side) -> Check:
    """Everything observed, as it was known at each close."""
    check = Check("observations used at closes")
    for market_id in whole.market_ids():
        closes = closes_of(whole, market_id)
        for table in OBSERVED:
            one, two = (known_at(s.history.read(table, market_id, 0, FOR_EVER), closes) for s in (whole, broken))
            check.compared += closes.len()
            check.wrong += [
                f"{market_id} {table} at {close}: {a} and {b}"
                for close, a, b in zip(closes.to_list(), one, two, strict=True)
                if a != b
            ]
    return check


def same_columns(whole: Side, broken: Side) -> Iterator[Check]:
    """Every published column of every level, byte for byte, and the saved states of the books.

    The past has one saved book, of the last midnight before it was fetched: who was killed before it was written, and
    began again after another midnight, has that one. The newest is what a restart goes on from.
    """
    columns, books = Check("published columns in history"), Check("saved books")
    for market_id in whole.market_ids():
        for level in range(len(LEVELS)):
            one, two = (s.history.read("columns", market_id, 0, FOR_EVER, level=level) for s in (whole, broken))
            columns.compared += one.height - 1
            # All but when it was first shown.
            columns.expect(one.drop("published").equals(two.drop("published")), f"{market_id} level {level}")
        one, two = (s.history.read("books", market_id, 0, FOR_EVER) for s in (whole, broken))
        newest = [some["time"].dt.epoch("ms").max() for some in (one, two)]
        books.expect(newest[0] == newest[1], f"{market_id}: the newest are of {newest}")
        for close, a, b in one.join(two, on="time").select("time", "state", "state_right").iter_rows():
            books.expect(_same_state(a, b), f"{market_id} at {close}")
    yield from (columns, books)


def same_cache(whole: Side, broken: Side) -> Iterator[Check]:
    """Every column and row on the page; what is said of liquidations only where both heard them."""
    columns, series, status = Check("columns on the page"), Check("series on the page"), Check("state on the page")
    for market_id in whole.market_ids():
        for level in range(len(LEVELS)):
            _compare_grids(columns, market_id, level, *(shown(s.cache, market_id, level) for s in (whole, broken)))
            one, two = (s.cache.get_series(market_id, level, 0, FOR_EVER) for s in (whole, broken))
            _compare_series(series, f"{market_id} level {level}", LEVELS[level].interval_ms, one, two,
                            unheard(broken, market_id))  # fmt: skip
        one_, two_ = (status_of(s, market_id) for s in (whole, broken))
        for name in ("first_ms", "last_ms", "provisional_until_ms", "progress"):
            status.expect(getattr(one_, name) == getattr(two_, name), f"{market_id} {name}")
        status.expect(_candle_gaps(one_.gaps) == _candle_gaps(two_.gaps), f"{market_id} gaps of candles")
    yield from (columns, series, status)


def shown(cache: Cache, market_id: str, level: int) -> LiquidationGrid | None:
    """Return the columns of a level on the page."""
    return cache.get_columns(market_id, level, 0, FOR_EVER, tiers=True)


def unchanged(snapshots: Sequence[dict[tuple[str, int], LiquidationGrid]], side: Side) -> Check:
    """What was on the page at any time is on it still."""
    check = Check("columns that were shown before a kill")
    for snapshot in snapshots:
        for (market_id, level), grid in snapshot.items():
            _compare_grids(check, market_id, level, grid, shown(side.cache, market_id, level))
    return check


def whole_tables(side: Side) -> Check:
    """Every table is read by plain Polars, and holds each key once."""
    check = Check("tables are whole, keys occur once")
    for table, spec in TABLES.items():
        if not (Path(side.history.root) / table).exists():
            continue  # nothing was scored yet
        rows = pl.scan_delta(f"{side.history.root}/{table}").select(spec.key).collect()
        check.compared += rows.height
        twice = rows.height - rows.unique().height
        if twice:
            check.wrong.append(f"{table}: {twice} rows twice")
    return check


async def recomputed(side: Side) -> Check:
    """What a plain run over what history holds would publish is what is published."""
    check = Check("columns are what history gives")
    for venue in side.venues:
        client = make_venue(venue, {"exchange_base": side.server.base, "throttle": False,
                                    "clock": lambda: side.server.feed.now_ms})  # fmt: skip
        markets = [one.market for one in await client.fetch_markets() if one.market.id in side.market_ids()]
        if client.capabilities.brackets == "public":
            markets = [replace(one, brackets=(await client.fetch_brackets(one)).brackets) for one in markets]
        await client.close()
        for market in markets:
            before = {level: shown(side.cache, market.id, level) for level in range(len(LEVELS))}
            _recompute(side, market)
            for level, grid in before.items():
                _compare_grids(check, market.id, level, grid, shown(side.cache, market.id, level))
    return check


def _recompute(side: Side, market: Market) -> None:
    names: tuple[TableName, ...] = ("candles", *OBSERVED, "liquidations")
    frames: list[Any] = [side.history.read(name, market.id, 0, FOR_EVER) for name in names]
    side.cache.clear_market(market.id)
    source: Any = type("Past", (), {"origin": Origin.LIVE, "description": "live"})()
    MarketFollower(market, 0, source, side.cache, "balanced").backfill(
        MarketHistory(market, MINUTE_MS, usable(frames[0]), *frames[1:])
    )


def _compare_grids(
    check: Check, market_id: str, level: int, one: LiquidationGrid | None, two: LiquidationGrid | None
) -> None:
    if one is None or two is None:
        check.expect(one is two, f"{market_id} level {level}: none on one side")
        return
    check.compared += len(one.time)
    if not same_bits(two, one):
        check.wrong.append(f"{market_id} level {level}")


def same_bits(got: LiquidationGrid, expected: LiquidationGrid) -> bool:
    """Whether `got` has every column of `expected`, bit for bit."""
    try:
        assert_same_bits(got, expected)
    except AssertionError:
        return False
    return True


def _compare_series(
    check: Check, where: str, interval_ms: int, one: pl.DataFrame | None, two: pl.DataFrame | None, gaps: Sequence[Gap]
) -> None:
    if one is None or two is None:
        check.expect(one is two, f"{where}: none on one side")
        return
    check.compared += one.height
    if not one["time"].equals(two["time"]):
        odd = sorted({*one["time"]} ^ {*two["time"]})
        check.wrong.append(f"{where}: {one.height} and {two.height} rows, {odd[0]} to {odd[-1]} on one side only")
        return
    if not np.allclose(one["volume"], two["volume"], rtol=1e-12, atol=0.0):  # sums may be added in another order
        check.wrong.append(f"{where}: volume")
    plain = [c for c in one.columns if c not in (*REALISED, "volume")]
    if not one.select(plain).equals(two.select(plain)):
        check.wrong.append(f"{where}: {[c for c in plain if not one[c].equals(two[c])]}")
    times = one["time"].dt.epoch("ms")
    heard = pl.Series([not within(gaps, t, t + interval_ms) for t in times])
    for name in REALISED:
        a, b = one.filter(heard)[name], two.filter(heard)[name]
        if not a.is_null().equals(b.is_null()):
            check.wrong.append(f"{where}: {name} is null on one side")
        # A print that comes through its socket after the close came through another is not in the row that was shown.
        late = int((~np.isclose(a.fill_null(0.0), b.fill_null(0.0), rtol=1e-9, atol=0.0)).sum())
        check.late += late
        check.note = f"{check.late} sums of liquidations miss some that came after the close"


def nothing_waits(side: Side) -> Check:
    """The journal is empty."""
    check = Check("nothing waits in the journal, nothing was rejected")
    check.expect(side.cache.journal.length() == 0, f"{side.cache.journal.length()} entries wait")
    check.expect(side.cache.journal.rejected() == 0, f"{side.cache.journal.rejected()} were rejected")
    return check


def no_mistakes(side: Side) -> Check:
    """Its log has none."""
    check = Check("no error of the program, no end by itself")
    lines = side.log.read_text().splitlines() if side.log.exists() else []
    check.wrong = [line[:300] for line in lines if " ERROR " in line or line.startswith("Traceback")]
    check.expect(not side.crashes, f"ended by itself {len(side.crashes)} times")
    return check


def _seen(print_: Liquidation) -> Seen:
    return Seen(print_.time_ms, print_.side.value, print_.price, print_.quantity_base)


def closes_of(side: Side, market_id: str) -> pl.Series:
    """Times at which the book stepped."""
    candles = side.history.read("candles", market_id, 0, FOR_EVER)["time"].dt.epoch("ms")
    first, last = (int(candles[at]) // CLOSE_MS for at in (0, -1))
    return pl.int_range(first + 1, last + 1, eager=True).alias("time") * CLOSE_MS


def known_at(rows: pl.DataFrame, closes: pl.Series) -> list[float | None]:
    """Return the value known at each close."""
    values = rows.select(pl.col("time").dt.epoch("ms"), value=pl.col(rows.columns[1]))
    found: list[float | None] = closes.to_frame("time").join_asof(values, on="time")["value"].to_list()
    return found


def _same_state(one: bytes, two: bytes) -> bool:
    with np.load(io.BytesIO(one)) as a, np.load(io.BytesIO(two)) as b:
        return bool(set(a) == set(b)) and all(a[n].tobytes() == b[n].tobytes() for n in a)


def _candle_gaps(gaps: Iterable[Gap]) -> list[Gap]:
    return [gap for gap in gaps if gap.what == "candles"]
