"""What was fitted to a market, and what it goes by from when on."""

from __future__ import annotations

from typing import Final, NamedTuple

import polars as pl

from estimator.domain import TIME
from estimator.errors import CorruptHistory, ParameterError
from estimator.history.store import History
from estimator.history.tables import with_market
from estimator.model.calibration import Calibration
from estimator.model.parameters import Parameters
from estimator.model.schedule import Schedule, continues

FITTED: Final = "fitted"  # for the record
OFFERED: Final = "offered"  # for the worker of the market to put in force
IN_FORCE: Final = "in force"  # for steps that close later than this


class Change(NamedTuple):
    """A calibration and its time: when it was fitted, or from when on it holds. [ms]"""

    time_ms: int
    calibration: Calibration


class Calibrations:
    """Table ``parameters`` of a history: calibrations are offered, and the worker of a market puts them in force.

    Only the worker knows which steps are published, so only it can say from when on something holds. It says so before
    it goes by it: a restart finds the same.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def keep(self, market_id: str, fitted_ms: int, calibration: Calibration, *, offer: bool) -> None:
        """Keep what was fitted to a market, and offer it to its worker."""
        self._add(market_id, fitted_ms, OFFERED if offer else FITTED, calibration)

    def put_in_force(self, market_id: str, from_ms: int, calibration: Calibration) -> None:
        """Say that a market goes by a calibration in the steps that close later than a time."""
        self._add(market_id, from_ms, IN_FORCE, calibration)

    def changes(self, market_id: str | None = None) -> dict[str, list[Change]]:
        """Return what came into force, in order of time, by market.

        Raises
        ------
        CorruptHistory
            If a calibration does not decode.
        """
        return _by_market(self._rows(market_id).filter(state=IN_FORCE))

    def due(self) -> dict[str, Calibration]:
        """Return by market the latest calibration offered, where it is not what came into force last."""
        rows = self._rows(None)
        offered = rows.filter(state=OFFERED).group_by("exchange", "symbol", maintain_order=True).last()
        last = rows.filter(state=IN_FORCE).group_by("exchange", "symbol", maintain_order=True).last()
        news = offered.join(last, on=["exchange", "symbol", "parameters_version"], how="anti", maintain_order="left")
        return {market_id: found[-1].calibration for market_id, found in _by_market(news).items()}

    def schedule(self, market_id: str, first: Parameters) -> tuple[Schedule, Calibration | None]:
        """Return what a market goes by when, and the calibration in force; one that cannot follow `first` is left out.

        Other buckets than those of `first` are those of another version of this program: it has to be fitted anew.
        """
        found = [c for c in self.changes(market_id).get(market_id, []) if continues(c.calibration.parameters, first)]
        schedule = Schedule(first, tuple((c.time_ms, c.calibration.parameters) for c in found))
        return schedule, found[-1].calibration if found else None

    def _rows(self, market_id: str | None) -> pl.DataFrame:
        rows = self._history.read_all("parameters")
        return rows if market_id is None else rows.filter(_id() == market_id)

    def _add(self, market_id: str, time_ms: int, state: str, calibration: Calibration) -> None:
        row = {
            "time": [time_ms],
            "state": [state],
            "parameters_version": [calibration.parameters.version],
            "calibration": [calibration.to_json()],
        }
        frame = pl.DataFrame(row).with_columns(pl.col("time").cast(TIME))
        self._history.append("parameters", with_market(market_id, frame))


def _id() -> pl.Expr:
    return pl.concat_str("exchange", "symbol", separator=":")


def _by_market(rows: pl.DataFrame) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for market_id, time_ms, text in rows.select(_id(), pl.col("time").dt.epoch("ms"), "calibration").iter_rows():
        try:
            change = Change(time_ms, Calibration.from_json(text))
        except (TypeError, KeyError, ValueError, ParameterError) as error:
            raise CorruptHistory(f"parameters of {market_id}: {error}") from error
        found.setdefault(market_id, []).append(change)
    return found
