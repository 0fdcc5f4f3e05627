"""The track record as the web tells it: wins and losses alike, and how little is known while little is."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from typing import Any

import httpx
import pytest

from dashboard.pages import track
from dashboard.pages.track import BASELINES, TrackQuery, cluster_words, level_words, read_record, to_csv
from dashboard.pages.track_page import build
from dashboard.pages.track_plots import Interval, Whisker, calibration, plain_heads, reading, whiskers
from estimator.cache import Cache
from estimator.domain import Origin
from estimator.scoring import track as scoring
from tests.dashboard.sample import sample_status

NOWHERE = [None, None, None]


def clusters(**other: Any) -> dict[str, Any]:
    found = {
        "n": 400, "days": 30, "enough": True, "needed": {"days": 7, "clusters": 100},
        "touched": [0.2, 0.15, 0.25], "expected": [0.21, 0.2, 0.22], "over_walk": [-0.01, -0.05, 0.03],
        "pairs": 300, "pairs_touched": [0.2, 0.15, 0.25], "mirror_touched": [0.22, 0.17, 0.27],
        "over_mirror": [-0.02, -0.08, 0.04],
    }  # fmt: skip
    return found | other


def model(bits: float) -> dict[str, Any]:
    return {
        "bits": [bits, bits - 0.1, bits + 0.1], "capture": [0.14, 0.12, 0.16], "sharpness": 0.4,
        "calibration": {"slope": 0.81, "groups": [[0.1, 0.0, 0.02], [0.9, 0.95, 0.6], [2.0, 1.7, 0.38]]},
        "side_right": [0.7, 0.6, 0.8], "side_error": [1.4, 1.2, 1.6], "side_pairs": 41,
    }  # fmt: skip


def horizon(**other: Any) -> dict[str, Any]:
    gain = {"uniform": [0.3, 0.2, 0.4], "distance": [0.05, -0.02, 0.1], "freshness": [-0.2, -0.3, -0.1]}
    found = {
        "n": {"days": 30, "closes": 700, "units": 900, "prints": 12_345, "usd": 98_765_432.1}, "enough": True,
        "needed": {"days": 7, "prints": 100}, "models": {"published": model(0.3), "distance": model(0.25)},
        "gain": gain, "clusters": clusters(),
        "versions": [{"parameters_version": "abc123", "code_version": "1", "units": 900, "first_ms": 1_768_000_000_000,
                      "last_ms": 1_768_400_000_000}],
    }  # fmt: skip
    return found | other


META = {"origin": "live", "source": "a test", "made_ms": 1_768_487_400_000, "first_ms": 1, "last_ms": 2}
EMPTY = horizon(
    n={"days": 0, "closes": 0, "units": 0, "prints": 0, "usd": 0.0}, enough=False, models={}, gain={}, versions=[],
    clusters=clusters(n=0, enough=False, pairs=0, touched=NOWHERE, expected=NOWHERE),
)  # fmt: skip


@pytest.fixture
def told(cache: Cache) -> None:
    few = horizon(n={"days": 2, "closes": 9, "units": 9, "prints": 31, "usd": 5e5}, enough=False)
    summary = {"horizons": {"1": horizon(), "4": few}}
    nothing = {"horizons": {"1": EMPTY, "4": EMPTY}}
    cache.track.put(META, {("all", "all"): summary, ("okx", "BTC"): summary, ("binance", "BTC"): nothing})


# --- words ------------------------------------------------------------------------------------------------------------


def test_wins_losses_and_what_is_undecided_are_told_alike() -> None:
    words = level_words(horizon())
    assert "ahead of “uniform”" in words
    assert "behind “freshness”" in words
    assert "not told apart from “distance”" in words
    assert "Too few" not in words


def test_little_is_called_little() -> None:
    few = horizon(n={"days": 2, "closes": 9, "units": 9, "prints": 31, "usd": 5e5}, enough=False)
    assert level_words(few).startswith("Too few events yet: 2 days and 31 liquidations")
    assert level_words(EMPTY).startswith("Nothing has been scored yet")
    assert cluster_words(clusters(n=0)).startswith("No cluster has been near enough")
    assert cluster_words(clusters(enough=False)).startswith("Too few yet to tell")


@pytest.mark.parametrize(
    ("mirror", "walk", "words"),
    [
        ([0.1, 0.05, 0.15], [0.1, 0.05, 0.15], "the price went to them"),
        ([0.1, 0.05, 0.15], [0.0, -0.05, 0.05], "but not more often than by a random walk"),
        ([0.0, -0.05, 0.05], [0.1, 0.05, 0.15], "Nothing was found"),
        ([-0.1, -0.15, -0.05], [0.1, 0.05, 0.15], "did not attract the price"),
        (NOWHERE, NOWHERE, "Nothing was found"),
    ],
)
def test_the_page_says_what_the_test_of_magnets_found_also_when_nothing(mirror: Any, walk: Any, words: str) -> None:
    assert words in cluster_words(clusters(over_mirror=mirror, over_walk=walk))


def test_every_baseline_that_is_scored_has_a_meaning() -> None:
    assert set(BASELINES) == {"uniform", *(b.name for b in scoring.BASELINES)}
    assert track.PUBLISHED == scoring.PUBLISHED


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_whiskers_share_an_axis_that_holds_zero_and_every_interval() -> None:
    intervals: tuple[Interval, ...] = ([0.3, 0.2, 0.4], [-0.2, -0.3, -0.1], [0.1, None, None])
    rows = [Whisker(f"{i}", "", interval, "") for i, interval in enumerate(intervals)]
    assert [reading(r) for r in rows] == ["ahead", "behind", "even"]
    picture = whiskers("x", rows, plain_heads("bits"))
    zero = {part.split("%")[0] for part in picture.split('x1="')[1:] if 'class="zero"' in part.split(">")[0]}
    assert len(zero) == 1
    (at,) = zero
    places = [float(part.split("%")[0]) for part in picture.split('cx="')[1:]]
    assert places[1] < float(at) < places[2] < places[0] < 100


def test_a_group_of_cells_as_dense_as_it_says_lies_on_the_line() -> None:
    picture = calibration([[0.5, 0.5, 0.5], [2.0, 0.0, 0.5]])
    line = next(part for part in picture.split("<line ") if 'class="mark"' in part)
    x1, y1, x2, y2 = (float(line.split(f'{n}="')[1].split('"')[0]) for n in ("x1", "y1", "x2", "y2"))
    dot, none = picture.split("<circle ")[1:]
    x, y = (float(dot.split(f'{n}="')[1].split('"')[0]) for n in ("cx", "cy"))
    assert (y - y1) / (y2 - y1) == pytest.approx((x - x1) / (x2 - x1), abs=1e-3)
    assert 'class="none"' in none
    assert float(none.split('cy="')[1].split('"')[0]) == pytest.approx(y1)


# --- the page and the API ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("told")
def test_the_api_tells_both_horizons_with_intervals_sizes_and_words(client: httpx.Client) -> None:
    answer = client.get("/api/v1/track-record").json()
    assert (answer["origin"], answer["symbol"], answer["venue"]) == ("live", "all", "all")
    assert set(answer["horizons"]) == {"1h", "4h"}
    assert answer["horizons"]["1h"]["gain"]["freshness"] == [-0.2, -0.3, -0.1]
    assert answer["horizons"]["4h"]["words"]["levels"].startswith("Too few events yet")
    rows = list(csv.DictReader(io.StringIO(client.get("/api/v1/track-record?symbol=BTC&venue=okx&format=csv").text)))
    assert [(r["horizon"], r["model"], r["venue"]) for r in rows] == [
        (h, m, "okx") for h in ("1h", "4h") for m in ("published", "distance")
    ]
    assert rows[1]["published_ahead_by"] == "0.05"
    assert rows[0]["published_ahead_by"] == ""
    of_a_view = client.get("/api/v1/track-record?symbol=BTC&range=24h")
    assert of_a_view.json() == client.get("/api/v1/track-record?symbol=BTC").json()
    assert client.get("/api/v1/track-record?range=2h").json()["parameter"] == "range"


BEST_FIRST = {"bits": ["published", "distance"], "model": ["distance", "published"], "gain": ["distance", "published"]}


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("sort", BEST_FIRST)
def test_models_are_sorted_alike_on_the_page_in_the_table_and_in_its_download(client: httpx.Client, sort: str) -> None:
    page = client.get(f"/track-record?sort={sort}&symbol=BTC&venue=okx&theme=light").text
    download = re.search(r'href="(/api/v1/track-record\?[^"]+format=csv)"', page)
    assert download is not None
    rows = list(csv.DictReader(io.StringIO(client.get(unescape(download[1])).text)))
    assert [(r["horizon"], r["model"], r["symbol"]) for r in rows] == [("1h", m, "BTC") for m in BEST_FIRST[sort]]
    numbers = page.partition('<section id="numbers">')[2].partition("</section>")[0]
    shown = re.findall(r'<th scope="row"[^>]*>(?:<b>)?([^<]+)<', numbers)
    assert [name.replace("shown levels", "published") for name in shown] == BEST_FIRST[sort]
    for section in re.findall(r'<section id="(?:gain|numbers)">.*?</section>', page, re.DOTALL):
        heads = re.findall(r'aria-sort="(\w+)" data-key="(\w+)"', section)
        assert heads
        assert all((key == sort) == (stands != "none") for stands, key in heads)
        for address in re.findall(r'data-key="\w+"[^>]*><a href="([^"]+)"', section):
            assert client.get(unescape(address)).status_code == 200
            assert all(kept in address for kept in ("symbol=BTC", "venue=okx", "theme=light"))
    assert f'<input type="hidden" name="sort" value="{sort}">' in page


def test_what_no_model_is_known_by_comes_last_in_either_order() -> None:
    for word in ("asc", "desc"):
        order = TrackQuery.parse(f"sort=bits&order={word}").order
        assert order is not None
        assert order.arrange(["a", "b", "c"], {"a": 1.0, "b": None, "c": 2.0}.get)[-1] == "b"


@pytest.mark.usefixtures("told")
def test_the_page_shows_a_market_a_venue_and_a_horizon(client: httpx.Client) -> None:
    text = client.get("/track-record?symbol=BTC&venue=okx&horizon=1h").text
    assert "12,345 liquidations of $98.8M on 30 days" in text
    assert "behind “freshness”" in text
    assert '<option value="okx" selected>' in text
    assert "<code>abc123</code>" in text
    assert "overlap" not in text
    longer = client.get("/track-record?horizon=4h").text
    assert 'data-state="few"' in longer
    assert "each liquidation counts up to 4 times" in longer, "a column of every hour, and the four after it"
    assert "Nothing has been scored yet" in client.get("/track-record?venue=binance&symbol=BTC").text
    assert "No scores yet" in client.get("/track-record?venue=bybit").text


@pytest.mark.parametrize(
    ("query", "name"), [("horizon=2h", "horizon"), ("venue=mexc", "venue"), ("symbol=<b>", "symbol")]
)
def test_what_is_not_there_is_named(client: httpx.Client, query: str, name: str) -> None:
    page, api = (client.get(f"{path}?{query}") for path in ("/track-record", "/api/v1/track-record"))
    assert (page.status_code, api.status_code, api.json()["parameter"]) == (422, 422, name)
    assert "<b>" not in page.text.partition("This link asks")[2].partition("<p>")[2].partition("</code>")[0]


def test_before_the_first_record_it_says_when_there_will_be_one() -> None:
    part = build([sample_status("okx", "BTC", 0)], TrackQuery(), None)
    assert "The first scores come an hour after" in part.body
    assert "No market is loaded yet" in build((), TrackQuery(), None).body


def test_a_simulated_record_is_never_taken_for_a_real_one(cache: Cache) -> None:
    cache.track.put({**META, "origin": Origin.SIMULATED.value}, {("all", "all"): {"horizons": {"1": horizon()}}})
    part = build([sample_status("okx", "BTC", 0)], TrackQuery(), read_record(cache, TrackQuery()))
    assert "it says nothing about real ones" in part.body
    assert to_csv(read_record(cache, TrackQuery())).splitlines()[1].startswith(b"simulated,")
