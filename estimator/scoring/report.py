"""The report of a scoring run: JSON, and tables in Markdown and for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.table import Table

from estimator.scoring.plots import bits_svg, calibration_svg
from estimator.scoring.run import BASELINES, OURS
from estimator.scoring.summary import GATES, Report, is_total

NAMES: Final = (*(m.name for m in OURS), *(m.name for m in BASELINES))

TITLES: Final = {
    "positions": "Real positions on Hyperliquid",
    "fills 1 h": "Liquidations at their fills, 1 h ahead",
    "fills 4 h": "Liquidations at their fills, 4 h ahead",
    "prints 1 h": "OKX's liquidations at the bankruptcy price, 1 h ahead",
    "prints 4 h": "OKX's liquidations at the bankruptcy price, 4 h ahead",
    "triggers 1 h": "OKX's liquidations at their trigger, 1 h ahead",
    "triggers 4 h": "OKX's liquidations at their trigger, 4 h ahead",
    "totals 1 h": "Hourly totals of BTC by side",
    "totals 1 d": "Daily totals of five coins by side",
    "simulated": "The simulated market's hidden book",
}


class Value(NamedTuple):
    """How a column of a table is found and written."""

    title: str
    key: str
    digits: int
    interval: bool = False


_CELLS: Final = (
    Value("bits over uniform", "bits", 2, interval=True),
    Value("caught in the top 10 %", "capture", 2, interval=True),
    Value("calibration slope", "calibration slope", 2),
    Value("KS", "ks", 2),
    Value("Spearman", "spearman", 2),
    Value("Wasserstein", "wasserstein", 4),
    Value("side error, log2", "side error", 2),
    Value("side right", "side accuracy", 2),
    Value("sharpness, bits", "sharpness", 2),
)
_SHORT: Final = _CELLS[:3]
_TOTALS: Final = (
    Value("partial rank, longs", "partial rank, long", 2, interval=True),
    Value("partial rank, shorts", "partial rank, short", 2, interval=True),
    Value("slope, longs", "calibration slope, long", 2),
    Value("slope, shorts", "calibration slope, short", 2),
    Value("side error, log2", "side error", 2),
    Value("side right", "side accuracy", 2),
)


class Grid(NamedTuple):
    """A table as text: a heading per column and rows, the first column a name."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def score_table(report: Report, kind: str, columns: tuple[Value, ...] | None = None) -> Grid:
    """Tabulate the scores of every model on one kind of truth."""
    columns = _TOTALS if is_total(kind) else columns or _CELLS
    models = report[kind]["models"]
    rows = [(name, *(_text(models[name], c) for c in columns)) for name in ordered(models)]
    return Grid(("model", *(c.title for c in columns)), rows)


def gain_table(report: Report, kind: str) -> Grid:
    """Tabulate what our models gain over the baselines worth beating, in bits."""
    models = report[kind]["models"]
    gates = [g for g in GATES if g in models]
    ours = [m for m in ordered(models) if m not in {b.name for b in BASELINES}]
    rows = [(m, *(_interval(models[m]["gain"][g], 2) for g in gates)) for m in ours]
    return Grid(("bits more than", *gates), rows)


def ordered(models: dict[str, Any]) -> list[str]:
    """Order models for people: unknown ones first, then ours, then the baselines."""
    known = [name for name in NAMES if name in models]
    return [*(name for name in models if name not in known), *known]


def _text(model: dict[str, Any], column: Value) -> str:
    found = model.get(column.key)
    if found is None:
        return "–"
    if isinstance(found, Sequence):
        return _interval(found, column.digits) if column.interval else _number(found[0], column.digits)
    return _number(found, column.digits)


def _number(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def _interval(found: Sequence[float | None], digits: int) -> str:
    value, low, high = (_number(v, digits) for v in found)
    return value if low == "–" else f"{value} [{low}, {high}]"


def markdown(report: Report) -> str:
    """Write all tables, a section per kind of truth."""
    return "\n".join(line for kind in report for line in _section(report, kind)).strip() + "\n"


def _section(report: Report, kind: str) -> Iterator[str]:
    n = report[kind]["n"]
    yield f"### {TITLES.get(kind, kind)}\n"
    yield (
        f"{n['items']} observations in {n['units']} columns and sides, {n['blocks']} blocks "
        f"({n['effective blocks']:g} effective): {', '.join(n['sources'])}.\n"
    )
    yield from _lines(score_table(report, kind))
    yield ""
    if not is_total(kind):
        yield from _lines(gain_table(report, kind))
        yield ""


def _lines(grid: Grid) -> Iterator[str]:
    yield f"| {' | '.join(grid.head)} |"
    yield "|" + "---|" * len(grid.head)
    yield from (f"| {' | '.join(row)} |" for row in grid.rows)


def terminal_tables(report: Report) -> Iterator[Table]:
    """Yield one table per kind of truth with what fits a terminal; the rest is in the files."""
    for kind in report:
        grid = score_table(report, kind, _SHORT)
        table = Table(*grid.head, title=TITLES.get(kind, kind), title_justify="left")
        for row in grid.rows:
            table.add_row(*row)
        yield table


def as_json(report: Report) -> str:
    """Write the report as JSON, a line per model: four digits, null for what is not a number."""
    kinds = []
    for kind, found in _plain(report).items():
        models = ",\n".join(f"{json.dumps(name)}: {json.dumps(scores)}" for name, scores in found["models"].items())
        kinds.append(f'{json.dumps(kind)}: {{"n": {json.dumps(found["n"])}, "models": {{\n{models}\n}}}}')
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write JSON, Markdown and the plots into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = json.loads(as_json(report))
    parts: dict[str, Callable[[], str]] = {
        "scores.json": lambda: as_json(report),
        "scores.md": lambda: markdown({kind: plain[kind] for kind in report}),
        "bits.svg": lambda: bits_svg(plain, ordered),
        "calibration.svg": lambda: calibration_svg(plain),
    }
    for name, make in parts.items():
        (folder / name).write_text(make(), encoding="utf-8")
    return [folder / name for name in parts]
