"""Which assumptions hold at which step of a market."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

from estimator.errors import ParameterError
from estimator.model.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Schedule:
    """Assumptions of a market in the order in which they came into force.

    Parameters
    ----------
    first : Parameters
        From the beginning on.
    changes : tuple of (int, Parameters)
        Times, rising, and what holds for the steps that close later than that. [ms]
    """

    first: Parameters
    changes: tuple[tuple[int, Parameters], ...] = ()

    def __post_init__(self) -> None:
        times = [time_ms for time_ms, _ in self.changes]
        if sorted(set(times)) != times:
            raise ParameterError("changes", times, "times that rise")

    def at(self, close_ms: int) -> Parameters:
        """Return what holds for a step that closes at a time."""
        at = bisect_left(self.changes, close_ms, key=lambda change: change[0])
        return self.changes[at - 1][1] if at else self.first

    def then(self, time_ms: int, parameters: Parameters) -> Schedule:
        """Return the schedule with one more change at its end."""
        return replace(self, changes=(*self.changes, (time_ms, parameters)))


def continues(parameters: Parameters, first: Parameters) -> bool:
    """Whether a book of `first` can go on with `parameters`: same buckets, same lattice, same lean."""
    names = ("leverages", "bin_width", "n_bins", "ratio_lean")
    return all(getattr(parameters, name) == getattr(first, name) for name in names)
