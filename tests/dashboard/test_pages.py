"""Markets, Tape and Method: their addresses, what they say, and the tables behind them."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dashboard.answers import Answers
from dashboard.navigation import NAVIGATION
from dashboard.pages import method, tape
from dashboard.pages.drawings import open_at_one_price
from dashboard.pages.feed import Feed, PrintFilter
from dashboard.pages.markets import COLUMNS, MarketsQuery
from estimator.cache import Cache, MarketStatus
from estimator.cache.viewers import Flights
from estimator.domain import DAY_MS, HOUR_MS, Liquidation, Origin, Side
from estimator.hours import funding_8h
from estimator.model.clusters import ClusterRules
from estimator.model.parameters import Parameters
from estimator.redis_server import BundledServer
from tests.dashboard.conftest import serve
from tests.dashboard.sample import AS_OF_MS, sample_status

PAGES = ("/markets", "/tape", "/track-record", "/method")
HOSTILE = "<img src=x onerror=alert(1)>"


# --- documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_no_script_of_its_own_markup_and_cannot_be_framed(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in policy
    assert "'unsafe-inline'" not in re.findall(r"script-src [^;]+", policy)[0]
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", answer.text, re.DOTALL)
    assert scripts
    assert all("src=" in attributes and not inside for attributes, inside in scripts)
    assert re.search(r"\son\w+=", answer.text) is None
    for address in re.findall(r'(?:src|href)="(/assets/[^"]+)"', answer.text):
        assert client.get(address).headers["cache-control"].startswith("public, max-age="), address


def test_every_page_has_the_same_navigation_and_says_where_it_is(client: httpx.Client) -> None:
    ways = [e.path for e in NAVIGATION]
    for path in PAGES:
        nav = re.findall(r'<nav class="nav".*?</nav>', client.get(path).text, re.DOTALL)[0]
        assert re.findall(r'data-path="([^"]+)"', nav) == ways
        assert re.findall(r'data-path="([^"]+)"[^>]* aria-current="page"', nav) == [path]
    layout = json.dumps(client.get("/_dash-layout").json())
    assert set(re.findall(r'"data-path":\s*"([^"]+)"', layout)) == set(ways)
    assert all(client.get(way).status_code == 200 for way in ways)


def test_links_keep_theme_and_palette(client: httpx.Client) -> None:
    text = client.get("/tape?theme=light&palette=mono").text
    assert 'data-theme="light"' in text
    assert 'data-palette="mono"' in text
    assert 'href="/markets?theme=light&amp;palette=mono"' in text


@pytest.mark.parametrize(
    ("address", "name", "value"),
    [
        ("/markets?sort=luck", "sort", "luck"),
        ("/markets?order=up", "order", "up"),
        (f"/markets?find={'x' * 61}", "find", "x" * 40 + "…"),
        ("/markets?theme=pink", "theme", "pink"),
        ("/tape?side=<script>alert(1)</script>", "side", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("/tape?min_usd=-1", "min_usd", "-1"),
        ("/tape?sort=oi", "sort", "oi"),
        ("/track-record?order=up", "order", "up"),
        ("/tape?symbol=a&symbol=b", "symbol", "a and b"),
        ("/method?venue=okx", "venue", "okx"),
        ("/track-record?horizon=2h", "horizon", "2h"),
    ],
)
def test_a_value_that_cannot_be_shown_is_named_and_escaped(
    client: httpx.Client, address: str, name: str, value: str
) -> None:
    answer = client.get(address)
    assert answer.status_code == 422
    assert f"<code>{name}={value}</code>" in answer.text
    assert "<script>alert" not in answer.text


_values = st.one_of(
    st.sampled_from(
        [
            "all",
            "BTC",
            "okx,binance",
            "oi",
            "usd",
            "gain",
            "desc",
            "1e9",
            "light",
            "csv",
            "1768487101035.1",
            "offer",
            "",
        ]
    ),
    st.text(max_size=12),
    st.integers(-(10**20), 10**20).map(str),
)
_names = st.sampled_from(
    [
        "symbol",
        "venues",
        "side",
        "min_usd",
        "limit",
        "cursor",
        "format",
        "find",
        "sort",
        "order",
        "by",
        "theme",
        "detail",
        "venue",
        "horizon",
    ]
)
_paths = st.sampled_from([*PAGES, "/api/v1/markets", "/api/v1/liquidations", "/api/v1/track-record"])


@given(_paths, st.lists(st.tuples(_names, _values), max_size=4))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_query_breaks_a_page_or_a_table(client: httpx.Client, path: str, query: list[tuple[str, str]]) -> None:
    answer = client.get(path, params=httpx.QueryParams(tuple(query)))
    assert answer.status_code in (200, 422), answer.text


def test_pages_come_without_a_worker_and_say_what_they_can(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, serve(server.url) as client:
        assert [client.get(path).status_code for path in PAGES] == [200] * len(PAGES)
        assert "No market is loaded yet" in client.get("/method").text
        assert [client.get(f"/api/v1/{n}").status_code for n in ("markets", "liquidations", "liquidations/stream")] == [
            503, 503, 503,
        ]  # fmt: skip


# --- markets ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(client: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/v1/markets").json()["markets"]
    return found


def test_liquidations_of_a_market_are_those_of_its_prints(rows: list[dict[str, Any]], cache: Cache) -> None:
    for row in rows:
        prints = cache.get_liquidations(row["id"], AS_OF_MS - DAY_MS + 1, AS_OF_MS)
        sums = {s: prints.filter(pl.col("side") == s)["notional_usd"].sum() for s in ("long", "short")}
        day = row["liquidated_24h"]
        assert (day["long_usd"], day["short_usd"]) == pytest.approx((sums["long"], sums["short"]))
        assert day["count"] == prints.height
        assert day["largest"]["notional_usd"] == prints["notional_usd"].max()


def test_clusters_and_max_pain_lie_on_their_side(rows: list[dict[str, Any]]) -> None:
    assert any(row["cluster_below"] and row["cluster_above"] for row in rows)
    assert not any(row["pending"] for row in rows)
    for row in rows:
        below, above, mark = row["cluster_below"], row["cluster_above"], row["mark_price"]
        assert below is None or below["low"] < below["price"] < below["high"] <= mark * 1.001
        assert above is None or mark * 0.999 <= above["low"] < above["price"] < above["high"]
        assert all(c is None or 0 < c["usd"] < row["open_interest_usd"] for c in (below, above))
        long, short = row["max_pain"]["long"], row["max_pain"]["short"]
        assert (long or 0) < mark < (short or np.inf)


def test_a_coin_is_the_sum_of_its_venues_and_tells_what_its_heatmap_tells(
    client: httpx.Client, rows: list[dict[str, Any]]
) -> None:
    (coin,) = client.get("/api/v1/markets?by=coin").json()["markets"]
    assert (coin["id"], coin["venues"]) == ("all:BTC", [r["exchange"] for r in rows])
    assert coin["open_interest_usd"] == pytest.approx(sum(r["open_interest_usd"] for r in rows))
    for name in ("long_usd", "short_usd", "count"):
        assert coin["liquidated_24h"][name] == pytest.approx(sum(r["liquidated_24h"][name] for r in rows))
    assert coin["liquidated_24h"]["largest"] in [r["liquidated_24h"]["largest"] for r in rows]
    funding = [r["funding_rate_8h"] for r in rows]
    assert min(funding) - 1e-12 <= coin["funding_rate_8h"] <= max(funding) + 1e-12
    assert coin["provenance"]["gaps"] == [g for r in rows for g in r["provenance"]["gaps"]]
    # The same coin, the same numbers: beside the chart, in the map of any range, on its own.
    told = client.get("/api/v1/clusters?symbol=BTC").json()
    for side, key in (("long", "cluster_below"), ("short", "cluster_above")):
        nearest = min(
            (c for c in told["clusters"] if c["side"] == side), key=lambda c: abs(c["distance"]), default=None
        )
        assert (coin[key] or {}).get("price") == (nearest or {}).get("price")
    assert coin["max_pain"] == pytest.approx(told["max_pain"])
    for view in ("symbol=BTC", "symbol=BTC&range=3d", "symbol=BTC&price=95500,96500"):
        shown = client.get(f"/api/v1/map?{view}").json()
        assert coin["max_pain"] == pytest.approx({"long": shown["long_pain"], "short": shown["short_pain"]}), view


def test_coins_cannot_be_of_some_venues_and_download_as_shown(client: httpx.Client) -> None:
    assert client.get("/api/v1/markets?by=coin&venues=okx").status_code == 422
    assert client.get("/markets?by=luck").status_code == 422
    table = pl.read_csv(io.BytesIO(client.get("/api/v1/markets?by=coin", headers={"Accept": "text/csv"}).content))
    assert table.select("market", "exchange").rows() == [("all:BTC", "all")]


@pytest.mark.parametrize("find", ["btc", "OKX", "bybit ", "usdt okx"])
def test_a_coin_is_found_by_what_finds_one_of_its_markets(client: httpx.Client, find: str) -> None:
    answers = [client.get("/api/v1/markets", params={"by": by, "find": find}).json() for by in ("venue", "coin")]
    assert all(answer["markets"] for answer in answers)
    assert client.get("/api/v1/markets?by=coin&find=mexc").json()["markets"] == []


def test_changes_are_those_since_a_day_before_the_last_column(rows: list[dict[str, Any]], cache: Cache) -> None:
    row = rows[0]
    series = cache.get_series(row["id"], 0, row["last_ms"] - DAY_MS - HOUR_MS, row["last_ms"] - DAY_MS)
    assert series is not None
    assert row["price_change_24h"] == pytest.approx(row["mark_price"] / series["close"][-1] - 1)
    assert row["open_interest_change_24h"] == pytest.approx(row["open_interest_base"] / series["open_interest"][-1] - 1)


def test_funding_is_put_to_eight_hours_only_where_its_interval_is_known() -> None:
    status = replace(sample_status("okx", "BTC", 0), funding_rate=1e-4)
    assert funding_8h(replace(status, funding_interval_ms=HOUR_MS)) == pytest.approx(8e-4)
    assert funding_8h(replace(status, funding_interval_ms=8 * HOUR_MS)) == pytest.approx(1e-4)
    assert funding_8h(replace(status, funding_interval_ms=None)) is None
    assert funding_8h(replace(status, funding_rate=None)) is None


def test_the_table_for_download_is_the_table_shown(client: httpx.Client) -> None:
    query = "venues=okx,bybit&sort=age&order=asc"
    shown = client.get(f"/api/v1/markets?{query}").json()["markets"]
    table = pl.read_csv(io.BytesIO(client.get(f"/api/v1/markets?{query}", headers={"Accept": "text/csv"}).content))
    assert table["market"].to_list() == [m["id"] for m in shown] == ["okx:BTC/USDT:USDT", "bybit:BTC/USDT:USDT"]
    assert table["open_interest_usd"].to_list() == pytest.approx([m["open_interest_usd"] for m in shown])
    assert set(table["origin"]) == {"simulated"}


@pytest.mark.parametrize("column", [c.key for c in COLUMNS])
def test_what_is_not_known_comes_last_in_either_order(column: str, rows: list[dict[str, Any]]) -> None:
    unknown = dict.fromkeys(rows[0]) | {
        "id": "x", "symbol": "X/USDT:USDT", "base": "X", "exchange": "zz", "max_pain": {"long": None, "short": None},
        "provenance": {"as_of_ms": None},
    }  # fmt: skip
    rows = [row | {"max_pain": {"long": 5e4 + i, "short": 7e4 - i}} for i, row in enumerate(rows)]  # may have none
    for order in ("asc", "desc"):
        shown = MarketsQuery.parse(f"sort={column}&order={order}").apply([unknown, *rows])
        assert column == "coin" or shown[-1] is unknown
        values = [c.value(r) for c in COLUMNS if c.key == column for r in shown if c.value(r) is not None]
        assert values == sorted(values, reverse=order == "desc")


def test_the_offer_needs_no_reading_and_keeps_the_order_of_the_page(client: httpx.Client) -> None:
    listed = client.get("/api/v1/markets?detail=offer").json()["markets"]
    assert [m["exchange"] for m in listed] == ["binance", "bybit", "okx"]
    assert "liquidated_24h" not in listed[0]
    assert client.get("/api/v1/markets?detail=some").status_code == 422


# --- prints -----------------------------------------------------------------------------------------------------------


def _page(client: httpx.Client, query: str) -> dict[str, Any]:
    answer = client.get(f"/api/v1/liquidations?{query}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize("limit", [97, 1000])
def test_pages_of_prints_joined_are_the_whole_range_newest_first(client: httpx.Client, limit: int) -> None:
    whole = _page(client, "symbol=BTC&range=24h&limit=5000")
    assert whole["next"] is None
    joined, before = [], ""
    while True:
        page = _page(client, f"symbol=BTC&range=24h&limit={limit}{before}")
        joined += page["rows"]
        if page["next"] is None:
            break
        before = f"&cursor={page['next']}"
    assert joined == whole["rows"]
    assert [r[0] for r in joined] == sorted((r[0] for r in joined), reverse=True)
    assert len({tuple(r) for r in joined}) == len(joined)


_ORDERS = {"time": 0, "venue": 1, "coin": 2, "side": 3, "usd": 6}


@pytest.mark.parametrize("sort", _ORDERS)
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_sorted_pages_of_prints_joined_are_the_whole_range_in_that_order(
    client: httpx.Client, sort: str, order: str
) -> None:
    query = "symbol=all&range=24h&min_usd=20000"
    whole = _page(client, f"{query}&limit=5000")["rows"]
    wanted = sorted(whole, key=lambda row: row[_ORDERS[sort]], reverse=order == "desc")
    pages = _following(client, f"/api/v1/liquidations?{query}&sort={sort}&order={order}&limit=150")
    joined = [row for page in pages for row in page.json()["rows"]]
    assert [row[_ORDERS[sort]] for row in joined] == [row[_ORDERS[sort]] for row in wanted]
    assert sorted(joined) == sorted(whole)
    for value in {row[_ORDERS[sort]] for row in joined}:
        alike = [row[0] for row in joined if row[_ORDERS[sort]] == value]
        assert alike == sorted(alike, reverse=True)


def test_the_prints_for_download_are_sorted_as_asked(client: httpx.Client) -> None:
    query = "symbol=all&range=24h&sort=usd&limit=5000"
    table = pl.read_csv(io.BytesIO(client.get(f"/api/v1/liquidations?{query}&format=csv").content))
    assert table["notional_usd"].to_list() == pytest.approx([r[6] for r in _page(client, query)["rows"]])


@pytest.mark.parametrize("path", ["/tape", "/api/v1/liquidations", "/api/v1/liquidations/stream"])
def test_prices_of_different_coins_are_no_order(client: httpx.Client, path: str) -> None:
    assert client.get(f"{path}?sort=price").status_code == 422


def _following(client: httpx.Client, address: str, most: int = 50) -> list[httpx.Response]:
    """All pages of a list, by the addresses that each names as the next one."""
    answers = [client.get(address)]
    while (link := answers[-1].headers.get("link")) is not None:
        found = re.fullmatch(r'<(/api/v1/\S+)>; rel="next"', link)
        assert found, link
        answers.append(client.get(found[1]))
        assert len(answers) <= most
    assert all(a.status_code == 200 for a in answers)
    return answers


@pytest.mark.parametrize("query", ["sort=coin", "sort=oi&order=asc", "detail=offer", "sort=coin&by=coin", "find=btc"])
def test_pages_of_markets_joined_are_the_whole_table(client: httpx.Client, query: str) -> None:
    whole = client.get(f"/api/v1/markets?{query}").json()
    assert whole["next"] is None
    pages = _following(client, f"/api/v1/markets?{query}&limit=1")
    assert [m["id"] for p in pages for m in p.json()["markets"]] == [m["id"] for m in whole["markets"]]
    assert [len(p.json()["markets"]) for p in pages] == [1] * len(pages)


def test_every_form_of_a_list_names_the_address_of_its_next_page(client: httpx.Client) -> None:
    for address in ("/api/v1/markets?sort=coin&limit=2", "/api/v1/liquidations?symbol=BTC&range=12h&limit=70"):
        as_json, as_csv = (_following(client, f"{address}&format={form}") for form in ("json", "csv"))
        assert len(as_json) == len(as_csv) > 1
        heights = [pl.read_csv(io.BytesIO(a.content)).height for a in as_csv]
        assert heights == [len(a.json().get("markets", a.json().get("rows"))) for a in as_json]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=nope:BTC", "cursor="])
def test_a_page_of_markets_there_is_not_is_named(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/api/v1/markets?{query}")
    assert (answer.status_code, answer.json()["parameter"]) == (422, query.partition("=")[0])


def test_a_page_may_end_within_a_millisecond(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        _fill(server.url, [AS_OF_MS - 50] * 9 + [AS_OF_MS - 90] * 2)
        with serve(server.url) as client:
            rows: list[list[Any]] = []
            cursor = None
            for _ in range(4):
                page = _page(client, f"limit=3{f'&cursor={cursor}' if cursor else ''}")
                rows, cursor = rows + page["rows"], page["next"]
            assert cursor is None
            assert sorted(r[4] for r in rows) == sorted(100.0 + i for i in range(11))


def test_prints_are_filtered(client: httpx.Client) -> None:
    rows = _page(client, "symbol=all&venues=okx,bybit&side=short&min_usd=50000")["rows"]
    assert {r[1] for r in rows} == {"okx", "bybit"}
    assert {r[3] for r in rows} == {"short"}
    assert min(r[6] for r in rows) >= 50_000
    csv = client.get("/api/v1/liquidations?venues=okx&side=short&min_usd=50000&format=csv")
    table = pl.read_csv(io.BytesIO(csv.content))
    assert table["notional_usd"].to_list() == pytest.approx([r[6] for r in rows if r[1] == "okx"])
    assert set(table["origin"]) == {"simulated"}


def _status(symbol: str = "BTC/USDT:USDT", **more: Any) -> MarketStatus:
    return replace(sample_status("okx", "BTC", 0), symbol=symbol, base=symbol.partition("/")[0], **more)


def _prints(times_ms: list[int], usd: float = 5000.0) -> list[Liquidation]:
    return [Liquidation(t, Side.LONG, 100.0 + i, usd / (100 + i), usd) for i, t in enumerate(times_ms)]


def _fill(url: str, times_ms: list[int], *statuses: MarketStatus) -> Cache:
    cache = Cache(url)
    for status in statuses or (_status(),):
        cache.put_status(status)
        cache.add_liquidations(status.id, _prints(times_ms))
    return cache


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_the_stream_gives_the_newest_page_then_what_comes_and_fits(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, serve(server.url) as client:
        old, recent = AS_OF_MS - 2 * HOUR_MS, AS_OF_MS - 1000
        cache = _fill(server.url, [old, recent])
        with client.stream("GET", "/api/v1/liquidations/stream?min_usd=4000") as answer:
            events = _events(answer)
            first = next(events)
            assert (first["first"], [r[0] for r in first["rows"]]) == (True, [recent, old])
            assert [(t["hours"], t["long_usd"], t["count"]) for t in first["totals"]] == [(1, 5000, 1), (24, 10_000, 2)]
            cache.add_liquidations(_status().id, _prints([AS_OF_MS - 500], usd=100.0))
            cache.add_liquidations(_status().id, _prints([AS_OF_MS - 400, old + 1], usd=9000.0))
            seen: list[int] = []
            while len(seen) < 2:
                new = next(events)
                assert new["first"] is False
                seen += [r[0] for r in new["rows"]]
            assert sorted(seen) == [old + 1, AS_OF_MS - 400]  # the late one too, and not the small one
            assert new["totals"][1]["long_usd"] == 28_000
        older = _page(client, f"symbol=all&range=1y&cursor={first['next']}")
        assert older["rows"] == []
        cache.close()


def test_a_sorted_stream_begins_with_the_first_page_of_that_order_and_tells_all_that_comes(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, serve(server.url) as client:
        cache = _fill(server.url, [])
        sizes = [1000.0 + 10 * (n * 37 % 150) for n in range(150)]
        for n, usd in enumerate(sizes):
            cache.add_liquidations(_status().id, _prints([AS_OF_MS - 90_000 + n], usd=usd))
        cache.add_liquidations(_status().id, _prints([AS_OF_MS + 5], usd=1e6))  # ahead of the candles
        with client.stream("GET", "/api/v1/liquidations/stream?sort=usd") as answer:
            events = _events(answer)
            first = next(events)
            assert [r[6] for r in first["rows"]] == [1e6, *sorted(sizes, reverse=True)[:99]]
            rest = _page(client, f"symbol=all&range=24h&sort=usd&cursor={first['next']}")
            assert ([r[6] for r in rest["rows"]], rest["next"]) == (sorted(sizes, reverse=True)[99:], None)
            cache.add_liquidations(_status().id, _prints([AS_OF_MS - 400], usd=1.0))
            assert [r[6] for r in next(events)["rows"]] == [1.0]
        with client.stream("GET", "/api/v1/liquidations/stream?sort=usd&min_usd=2000") as answer:
            assert next(_events(answer))["next"] is None
        cache.close()


def test_what_comes_while_an_event_is_on_its_way_is_told_next(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        cache = _fill(server.url, [AS_OF_MS - 1000])

        async def scene() -> None:
            feed = Feed(cache, Answers(cache).statuses)
            events = tape.stream(feed, PrintFilter(), tape.NEWEST, Flights())
            await anext(events)
            told = (await feed.recent()).serial
            cache.add_liquidations(_status().id, _prints([AS_OF_MS - 400]))
            async with asyncio.timeout(tape.KEEP_ALIVE_S - 1):
                while (await feed.recent()).serial == told:  # noqa: ASYNC110 - read by a task of its own
                    await asyncio.sleep(0.01)
                assert f"[{AS_OF_MS - 400},".encode() in await anext(events)
            await events.aclose()  # type: ignore[attr-defined]  # a generator, whatever it is said to be
            await cache.aclose()

        asyncio.run(scene())


def test_nothing_of_another_source_stays_on_the_tape(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, serve(server.url) as client:
        cache = _fill(server.url, [AS_OF_MS - 1000])
        assert client.get("/api/v1/markets").json()["markets"][0]["liquidated_24h"]["count"] == 1
        cache.put_status(_status(origin=Origin.LIVE, source="live from okx", has_prints=False))
        end = time.monotonic() + 10
        while (row := client.get("/api/v1/markets").json()["markets"][0])["provenance"]["origin"] != "live" or row[
            "liquidated_24h"
        ]:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert row["liquidated_24h"] is None  # nothing told of is not nothing liquidated
        with client.stream("GET", "/api/v1/liquidations/stream") as answer:
            said = next(_events(answer))
        assert (said["rows"], said["basis"], said["totals"][1]["long_usd"]) == ([], "none", None)
        cache.close()


def test_names_from_venues_are_text_and_nothing_else(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        _fill(server.url, [AS_OF_MS], _status(f"{HOSTILE}/USDT:USDT", exchange=HOSTILE, source=f"x; {HOSTILE}")).close()
        with serve(server.url) as client:
            for path in (*PAGES, f"/tape?symbol={HOSTILE}", f"/markets?find={HOSTILE}&venues={HOSTILE}"):
                answer = client.get(path)
                assert answer.status_code in (200, 422)
                assert HOSTILE not in answer.text
            assert client.get("/method").text.count("&lt;img src=x onerror=alert(1)&gt;") >= 2


# --- method -----------------------------------------------------------------------------------------------------------


def test_every_assumption_has_a_unit_a_source_and_a_reason() -> None:
    assert set(method.REASONS) == {f.name for f in fields(Parameters)}
    assert all(all(words) for words in method.REASONS.values())
    assert set(method.CLUSTER_UNITS) == {f.name for f in fields(ClusterRules)}


@pytest.mark.parametrize("preset", ["balanced", "high-leverage"])
def test_the_values_shown_are_those_in_force(preset: str) -> None:
    status = replace(sample_status("okx", "BTC", 0), preset=preset, max_leverage=75.0, maintenance_margin_rate=0.0123)
    text = method.build([status], {}).body
    parameters = Parameters.preset(preset)  # type: ignore[arg-type]
    assert parameters.version in text
    for name in ("churn", "sink_share", "background_share", "bin_width"):
        assert re.search(rf"<code>{name}</code></th><td>{getattr(parameters, name):g}</td>", text), name
    rows = dict(re.findall(r'<tr><th scope="row">([\d.]+)x</th>(.*?)</tr>', text))
    for leverage, share in zip(parameters.leverages, parameters.shares, strict=True):
        assert f"<b>{100 * share:.4g}</b>" in rows[f"{leverage:g}"]
    assert "1.23" in text  # maintenance of the venue followed
    assert "at most 75x" in text


def test_the_pictures_are_drawn_from_levels_on_their_side() -> None:
    opening = open_at_one_price("balanced", "linear", 0.004, 100.0)
    assert max(opening.leverages) <= 100
    longs, shorts = opening.total.sum(axis=1)
    assert longs[opening.level > 0].sum() == shorts[opening.level < 0].sum() == 0
    assert 0.4 < longs.sum() < 1 - opening.sink_share + 1e-9  # the rest is never at risk, or beyond the picture
    peaks = [float(-opening.level[usd.argmax()]) for usd in opening.density[0]]
    assert peaks == sorted(peaks)  # the higher the leverage, the nearer


def test_what_venues_declare_is_shown_where_they_are_live() -> None:
    status = replace(sample_status("okx", "BTC", 0), origin=Origin.LIVE, source="live from okx")
    declared = {
        "okx": {
            "liquidations": "partial", "liquidation_price_kind": "bankruptcy", "open_interest_unit": "contracts",
            "open_interest_history": {"granularity_ms": 300_000, "depth_ms": 432_000_000, "rows": 100},
            "ratio_history": None, "brackets": "public", "positions": True, "notes": [f"odd {HOSTILE}"],
        }
    }  # fmt: skip
    text = method.build([status], declared).body
    assert "some of them" in text
    assert "by account" in text
    assert "every 5 min, 5 days back" in text
    assert "odd &lt;img" in text
    assert "no venue stands behind them" not in text
