"""Faults a venue server can be told to show, over REST and over sockets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = Any


@dataclass
class Fault:
    """One thing that goes wrong, `times` times, where `path` occurs in the path of a request (REST faults).

    Attributes
    ----------
    status : int, optional
        Answer with this status and `body` instead.
    headers : dict
    body : str, optional
    latency_s : float
    cut_at : float, optional
        Send only this share of the JSON, with the right status.
    drop : bool
        Cut the connection in the middle of the body.
    edit : callable, optional
        Changes the payload: schema drift, absurd values, rows out of order or twice.
    """

    path: str = ""
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    latency_s: float = 0.0
    cut_at: float | None = None
    drop: bool = False
    edit: Callable[[Json], Json] | None = None


@dataclass
class Faults:
    """What goes wrong next.

    Attributes
    ----------
    rest : list of Fault
        Each is used up after its `times`.
    silent : bool
        Sockets stay open and say nothing.
    refuse_sockets : bool
        New sockets are refused.
    rewrite : callable, optional
        Turns the messages of one event into others: duplicates, out of order, absurd values, text that is no JSON.
    """

    rest: list[Fault] = field(default_factory=list)
    silent: bool = False
    refuse_sockets: bool = False
    rewrite: Callable[[list[Json]], list[Json]] | None = None

    def add(self, **what: Any) -> Fault:
        """Add a REST fault."""
        self.rest.append(Fault(**what))
        return self.rest[-1]

    def next_for(self, path: str) -> Fault | None:
        """Use up one fault for a path."""
        for fault in self.rest:
            if fault.times > 0 and fault.path in path:
                fault.times -= 1
                return fault
        return None
