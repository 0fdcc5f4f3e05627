"""The shared sets mean what their readers take them for, and scoring them tells good models from bad ones."""

from __future__ import annotations

import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dashboard.cli import app
from estimator.domain import HOUR_MS, Float64Array
from estimator.errors import InputError, ParameterError
from estimator.evaluation.baselines import Distance, StaticLines, Uniform
from estimator.evaluation.books import preset
from estimator.evaluation.positions import position_truth
from estimator.evaluation.units import Case
from estimator.scoring import sets
from estimator.scoring.cases import read_cases
from estimator.scoring.report import as_json, terminal_tables, write_report
from estimator.scoring.run import run
from estimator.scoring.summary import Report, summarise
from tests.render_accuracy import BITS, CALIBRATION, PAGE, read_scores, rewritten

MARKET_DATA = Path(os.environ.get("LIQHEAT_MARKET_DATA", Path(__file__).parents[4] / "shared" / "market"))
needs_data = pytest.mark.skipif(not MARKET_DATA.is_dir(), reason="the shared market data is not here")


def correlations(coin: str) -> list[float]:
    """Correlation of hourly changes of open interest with the return of the hour before and of the same."""
    past = sets.read_past(MARKET_DATA, "hyperliquid", coin)
    change, moved = np.diff(np.log(past.steps.contracts)), np.diff(np.log(past.close))
    return [float(np.corrcoef(change[1:], m)[0, 1]) for m in (moved[:-1], moved[1:])]


@needs_data
def test_open_interest_of_hyperliquid_keeps_no_trace_of_the_price() -> None:
    assert np.abs(correlations("HYPE")).max() < 0.2


@needs_data
@pytest.mark.parametrize("coin", sets.OKX_MARGIN)
def test_triggers_of_okx_lie_in_their_hours_and_bankruptcy_prices_often_do_not(coin: str) -> None:
    path = sets.read_path(MARKET_DATA, "okx", coin)

    def inside(*, at_trigger: bool) -> float:
        prints = sets.read_okx_prints(MARKET_DATA, coin, at_trigger=at_trigger)
        hour = np.searchsorted(path.start_ms, prints.time_ms, side="right") - 1
        known = prints.time_ms < path.start_ms[-1] + HOUR_MS
        return float(np.mean((prints.price >= path.low[hour])[known] & (prints.price <= path.high[hour])[known]))

    assert inside(at_trigger=True) > 0.95
    assert inside(at_trigger=False) < 0.75


@needs_data
def test_contracts_of_okx_are_counted_in_coins() -> None:
    usd = {c: sets.read_okx_prints(MARKET_DATA, c, at_trigger=False).usd.sum() for c in sets.OKX_MARGIN}
    assert usd == pytest.approx({"BTC": 9.18e6, "SOL": 3.91e6, "DOGE": 4.82e6}, rel=0.01)


@needs_data
def test_positions_of_an_account_in_two_lists_count_once() -> None:
    for snapshot in sets.read_snapshots(MARKET_DATA)["BTC"]:
        assert len(np.unique(snapshot.trader)) == len(snapshot.trader)
        losing = np.where(snapshot.is_long, 1, -1) * (snapshot.mark - snapshot.liquidation_price)
        assert (losing[np.isfinite(losing)] > 0).all()


@needs_data
def test_a_reader_that_is_given_less_of_the_future_reads_the_same_past(tmp_path: Path) -> None:
    until = "2026-01-15"
    for kind in ("bybit/BTC/candles_1h", "hyperliquid/BTC/open_interest_1h", "hyperliquid/BTC/funding"):
        (source,) = (MARKET_DATA / "finm33150" / kind).glob("*.csv.gz")
        head, *rows = gzip.decompress(source.read_bytes()).decode().splitlines()
        place = tmp_path / "finm33150" / kind
        place.mkdir(parents=True)
        kept = [row for row in rows if row < until]
        assert 0 < len(kept) < len(rows)
        (place / "cut.csv").write_text("\n".join([head, *kept]))
    whole, cut = (sets.read_past(folder, "hyperliquid", "BTC") for folder in (MARKET_DATA, tmp_path))
    first = whole.until(len(cut.steps))
    assert len(cut.steps) > 7000
    assert np.array_equal(first.steps.close_ms, cut.steps.close_ms)
    assert np.array_equal(first.steps.candle, cut.steps.candle)
    assert np.array_equal(first.steps.contracts, cut.steps.contracts)
    assert np.array_equal(first.known["funding_rate"], cut.known["funding_rate"], equal_nan=True)


@pytest.fixture(scope="module")
def positions() -> Report:
    """Ethereum's positions scored with a few models."""
    past = sets.read_past(MARKET_DATA, "hyperliquid", "ETH")
    truth = position_truth("hyperliquid ETH", past, sets.read_snapshots(MARKET_DATA)["ETH"])
    models = (Uniform(), StaticLines(), Distance(), preset("balanced"))
    with ThreadPoolExecutor(2) as executor:
        return summarise(run(models, [Case("ETH", past, (truth,))], executor))


def bits(report: Report, model: str) -> Float64Array:
    return np.array(report["positions"]["models"][model]["bits"])


@needs_data
def test_static_lines_lose_to_knowing_nothing_and_the_book_does_not(positions: Report) -> None:
    assert np.all(bits(positions, "static") < -2)
    assert bits(positions, "balanced")[0] > 0
    assert np.abs(bits(positions, "uniform")).max() < 0.1


@needs_data
def test_a_gain_is_the_difference_of_the_bits(positions: Report) -> None:
    gain = positions["positions"]["models"]["balanced"]["gain"]["distance"]
    assert gain[0] == pytest.approx(bits(positions, "balanced")[0] - bits(positions, "distance")[0])
    assert gain[1] < gain[0] < gain[2]


@needs_data
def test_a_report_is_written_whole_and_twice_the_same(positions: Report, tmp_path: Path) -> None:
    paths = write_report(positions, tmp_path / "new")
    assert json.loads(paths[0].read_text())["positions"]["n"]["sources"] == ["hyperliquid ETH"]
    assert "| static | −3." in paths[1].read_text()
    assert all(p.read_text().startswith("<svg") for p in paths[2:])
    assert paths[0].read_text() == as_json(positions)
    assert [table.row_count for table in terminal_tables(positions)] == [4]


def test_the_book_is_calibrated_on_the_book_that_the_simulated_market_hides(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["score", "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert "label-leverage" in result.stdout
    models = json.loads((tmp_path / "scores.json").read_text())["simulated"]["models"]
    assert 0.7 <= models["balanced"]["calibration slope"] <= 1.3
    assert models["balanced"]["bits"][1] > 0 > models["static"]["bits"][2]


def test_two_models_of_one_name_are_refused() -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(ParameterError, match="different names"):
        run((Uniform(), Uniform()), [], executor)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"open_interest_1h|candles_1h"):
        read_cases(tmp_path, simulated=False)
    result = CliRunner().invoke(app, ["score", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_the_page_on_accuracy_says_what_its_scores_say() -> None:
    page = PAGE.read_text()
    assert rewritten(page, read_scores()) == page, "run python -m tests.render_accuracy"
    assert BITS.read_text().count("<circle") > 50
    assert CALIBRATION.read_text().count("<polyline") > 20
    with pytest.raises(ValueError, match="expected once"):
        rewritten(page.replace("<!-- end totals 1 h -->", ""), read_scores())
