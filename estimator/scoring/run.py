"""Running models over cases, in parallel, and putting what came out together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from typing import Final

from estimator.errors import ParameterError
from estimator.evaluation import books
from estimator.evaluation.baselines import Distance, Freshness, StaticLines, Uniform
from estimator.evaluation.density import DensityModel
from estimator.evaluation.levels import opens_only, volume_day, volume_week
from estimator.evaluation.mixtures import Mixture
from estimator.evaluation.units import Case, Scored, score

BASELINES: Final[tuple[DensityModel, ...]] = (
    Uniform(),
    StaticLines(),
    opens_only(),
    opens_only(wide=True),
    volume_day(),
    volume_day(wide=True),
    Distance(),
    Freshness(),
    books.label_leverage(),
)
_WIDE: Final = books.wide(background_share=0.1, name="wide")
OURS: Final[tuple[DensityModel, ...]] = (
    books.preset("balanced"),
    books.preset("positions"),
    books.preset("high-leverage"),
    books.smooth(),
    Mixture("smooth and opens-only", (books.smooth(), opens_only(wide=True)), (0.8, 0.2)),
    Mixture("smooth and freshness", (books.smooth(), Freshness()), (0.7, 0.3)),
    books.as_designed(),
    _WIDE,
    books.wide(background_share=0.0, name="wide, no background"),
    Mixture("wide and volume", (_WIDE, volume_week()), (0.5, 0.5)),
)
MODELS: Final = (*BASELINES, *OURS)


def run(
    models: Sequence[DensityModel],
    cases: Sequence[Case],
    executor: Executor,
    report: Callable[[float, str], None] = lambda _done, _what: None,
) -> list[Scored]:
    """Score every model on every case.

    Parameters
    ----------
    models : sequence of DensityModel
        With different names.
    cases : sequence of Case
    executor : Executor
        Where the work is done: threads do, the book lets them run side by side.
    report : callable
        Told the share done and what was done last.

    Returns
    -------
    list of Scored
        In the order of models, then cases, whatever finished first.

    Raises
    ------
    ParameterError
        If two models have one name.
    """
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ParameterError("models", names, "models with different names")
    pairs = [(model, case) for model in models for case in cases]
    futures = [executor.submit(score, model, case) for model, case in pairs]
    named = dict(zip(futures, pairs, strict=True))
    for n, future in enumerate(as_completed(futures), 1):
        model, case = named[future]
        report(n / len(futures), f"{model.name} on {case.name}")
    return [scored for future in futures for scored in future.result()]
