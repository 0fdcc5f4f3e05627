"""The state of a book between its steps, in a sixth of the space: rows of cells without the zeros at their ends."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from estimator.domain import Float64Array, Int64Array
from estimator.model.step import State


class Resting(NamedTuple):
    """A state without the empty bins around its rows; `wake` gives it back bit for bit.

    Parameters
    ----------
    kept : Float64Array, shape (n_kept,)
        What the rows of cells hold from the first to the last bin that is not zero, end to end.
    begin, end : Int64Array, shape (2 * n_bucket,)
        Those bins by row, the end exclusive.
    rest : State
        The state, its cells empty.
    """

    kept: Float64Array
    begin: Int64Array
    end: Int64Array
    rest: State

    @classmethod
    def of(cls, state: State) -> Self:
        """Pack a state, which is not to be used any more."""
        rows = _rows(state.cells)
        held = rows != 0.0
        some = held.any(axis=1)
        begin = np.where(some, held.argmax(axis=1), 0)
        end = np.where(some, rows.shape[1] - held[:, ::-1].argmax(axis=1), 0)
        kept = np.concatenate([row[b:e] for row, b, e in zip(rows, begin, end, strict=True)])
        empty = np.broadcast_to(np.zeros(()), state.cells.shape)  # a shape and no memory
        return cls(kept, begin, end, state._replace(cells=empty))

    def wake(self) -> State:
        """Make a state of its own."""
        cells = np.zeros(self.rest.cells.shape)
        at = 0
        for row, begin, end in zip(_rows(cells), self.begin.tolist(), self.end.tolist(), strict=True):
            row[begin:end] = self.kept[at : at + end - begin]
            at += end - begin
        small = {name: array.copy() for name, array in self.rest._asdict().items() if name != "cells"}
        return State(cells=cells, **small)


def _rows(cells: Float64Array) -> Float64Array:
    """View cells, shape (2, n_bucket, n_bins), as one row after the other."""
    return cells.reshape(-1, cells.shape[-1])
