"""The tables of `docs/accuracy-research.md`: ideas for a better estimate, scored against one base.

``python -m tests.render_research FOLDER`` scores every idea on the shared sets (about ten minutes on two cores) and
rewrites the marked parts of the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from estimator.evaluation import books
from estimator.evaluation.baselines import Distance, Freshness
from estimator.evaluation.books import Book
from estimator.evaluation.density import DensityModel
from estimator.evaluation.levels import opens_only, volume_week
from estimator.evaluation.mixtures import LogPool, Mixture
from estimator.evaluation.units import Case, Part
from estimator.model.parameters import LEVERAGES, SHARES
from estimator.scoring.cases import read_cases
from estimator.scoring.run import run
from estimator.scoring.summary import Report, summarise

PAGE: Final = Path(__file__).parents[1] / "docs" / "accuracy-research.md"
BASE: Final = books.smooth()
_DESIGNED: Final = books.as_designed().parameters
_BALANCED: Final = books.preset("balanced")
BITS: Final = ("positions", "fills 1 h", "fills 4 h", "prints 1 h", "prints 4 h", "triggers 1 h", "triggers 4 h")
RANKS: Final = tuple((f"totals 1 {unit}", side) for unit in ("h", "d") for side in ("long", "short"))
PARTS: Final[tuple[Part, ...]] = ("tune", "report")


def _but(name: str, **changed: Any) -> Book:
    return Book(name, replace(BASE.parameters, **changed))


IDEAS: Final[dict[str, tuple[DensityModel, ...]]] = {
    "steps": (
        books.as_designed(),
        Book("high leverage spread", replace(_DESIGNED, sigmas=BASE.parameters.sigmas)),
        Book("leverage follows volatility", replace(_DESIGNED, volatility_scaling=1.0)),
        Book("both", replace(_DESIGNED, sigmas=BASE.parameters.sigmas, volatility_scaling=1.0)),
        BASE,
        _BALANCED,
    ),
    "spread": (
        _but("sigma .1", sigmas=(0.1,) * 12),
        _but("sigma .15", sigmas=(0.15,) * 12),
        _but("sigma .2", sigmas=(0.2,) * 12),
        _but("sigma .4", sigmas=(0.4,) * 12),
        _but("sigma .8", sigmas=(0.8,) * 12),
        _but("sigma .4 from 25x, else .05", sigmas=(0.4,) * 5 + (0.05,) * 7),
        _but("sigma .4 from 25x, else .1", sigmas=(0.4,) * 5 + (0.1,) * 7),
        _BALANCED,
    ),
    "volatility": (
        _but("no scaling", volatility_scaling=0.0),
        _but("scaling .5", volatility_scaling=0.5),
        _but("scaling 1.5", volatility_scaling=1.5),
        _but("scaling 2", volatility_scaling=2.0),
        _but("usual 2 % a day", usual_volatility=0.02),
        _but("usual 3 % a day", usual_volatility=0.03),
        _but("memory 7 days", volatility_days=7.0),
        _but("memory 30 days", volatility_days=30.0),
        _but("memory 90 days", volatility_days=90.0),
        _but("memory 365 days", volatility_days=365.0),
        _but("prior of a day", volatility_prior_days=1.0),
        _but("shares of `positions`", shares=SHARES["positions"]),
        _but("shares of `high-leverage`", shares=SHARES["high-leverage"]),
    ),
    "closing": (
        _but("churn 0", churn=0.0),
        _but("churn .15", churn=0.15),
        _but("churn .6", churn=0.6),
        _but("tau 12 h", tau_hours=(12.0,) * 12),
        _but("tau 24 h", tau_hours=(24.0,) * 12),
        _but("tau 96 h", tau_hours=(96.0,) * 12),
        _but("tau 240 h", tau_hours=(240.0,) * 12),
        _but("tau 48 h · √(10/L)", tau_hours=tuple(48.0 * (10 / leverage) ** 0.5 for leverage in LEVERAGES)),
        _but("tau 48 h · 10/L", tau_hours=tuple(480.0 / leverage for leverage in LEVERAGES)),
        _but("sink .1", sink_share=0.1),
        _but("sink .5", sink_share=0.5),
        _but("sink 1000 h", sink_tau_hours=1000.0),
        _but("no background", background_share=0.0),
        _but("background .05", background_share=0.05),
        _but("background .3", background_share=0.3),
    ),
    "mixtures": (
        Mixture("freshness .3", (BASE, Freshness()), (0.7, 0.3)),
        Mixture("freshness .5", (BASE, Freshness()), (0.5, 0.5)),
        Mixture("volume of a week .5", (BASE, volume_week()), (0.5, 0.5)),
        Mixture("opens-only .2", (BASE, opens_only(wide=True)), (0.8, 0.2)),
        LogPool("pool: freshness .3", (BASE, Freshness()), (0.7, 0.3)),
        LogPool("pool: freshness .5", (BASE, Freshness()), (0.5, 0.5)),
        LogPool("pool: freshness .3, distance .3", (BASE, Freshness(), Distance()), (0.5, 0.3, 0.3)),
        LogPool("pool: distance .3", (BASE, Distance()), (0.8, 0.3)),
        LogPool("pool: itself .8", (BASE,), (0.8,)),
    ),
}  # fmt: skip


def split(case: Case) -> Case:
    """Return the case with the two parts of every truth beside it, so that a model runs once for all three."""
    parts = [replace(t.part(p), kind=f"{t.kind} {p}") for t in case.truths for p in PARTS]
    return replace(case, truths=(*case.truths, *(t for t in parts if t.units)))


def score_ideas(folder: Path) -> Report:
    """Score every idea once."""
    models = {m.name: m for group in IDEAS.values() for m in group}
    cases = [split(case) for case in read_cases(folder)]
    with ThreadPoolExecutor(2) as executor:
        return summarise(run(list(models.values()), cases, executor), over=(BASE.name,))


def render(report: Report, names: list[str]) -> Iterator[str]:
    """Yield the lines of one table: bits of both parts, and beneath them the gain over the base with its interval."""
    kinds = (*BITS, "simulated")
    yield f"| | {' | '.join((*kinds, *(f'{kind}, {side}s' for kind, side in RANKS)))} |"
    yield "|---|" + "---|" * (len(kinds) + len(RANKS))
    for name in names:
        parts = [" / ".join(_bits(report, k, name, part) for part in PARTS) for k in kinds]
        ranks = [" / ".join(_rank(report, f"{kind} {part}", name, side) for part in PARTS) for kind, side in RANKS]
        yield f"| **{name}** | {' | '.join([*parts, *ranks])} |"
        if name != BASE.name:
            gains = [report[k]["models"][name]["gain"][BASE.name] for k in kinds]
            texts = ["{} [{}, {}]".format(*map(_two, gain)) for gain in gains]
            yield f"| more than {BASE.name} | {' | '.join(texts)} |{' |' * len(RANKS)}"


def _bits(report: Report, kind: str, name: str, part: str) -> str:
    return _two(report[f"{kind} {part}"]["models"][name]["bits"][0])


def _rank(report: Report, kind: str, name: str, side: str) -> str:
    return _two(report[kind]["models"][name][f"partial rank, {side}"][0])


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def rewritten(page: str, tables: dict[str, str]) -> str:
    """Return the page with these tables between their marks."""
    for name, table in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        head, rest = page.split(begin)
        page = f"{head}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    return page


def main() -> None:
    """Score, and rewrite the page."""
    report = score_ideas(Path(sys.argv[1]))
    tables = {group: "\n".join(render(report, [m.name for m in models])) for group, models in IDEAS.items()}
    PAGE.write_text(rewritten(PAGE.read_text(), tables))


if __name__ == "__main__":
    main()
