"""Faults a venue server can be told to show, over REST and over sockets."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Json = Any
Rewrite = Callable[[list[Json]], list[Json]]


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
    muddle : callable, optional
        Makes such a function for each socket, where it remembers what was sent: no venue sends what it said on another
        socket, where it would overtake what comes there.
    """

    rest: list[Fault] = field(default_factory=list)
    silent: bool = False
    refuse_sockets: bool = False
    rewrite: Rewrite | None = None
    muddle: Callable[[], Rewrite] | None = None
    _muddles: dict[int, Rewrite] = field(default_factory=dict)

    def rewritten(self, socket: object, messages: list[Json]) -> list[Json]:
        """Return what a socket sends in place of messages."""
        if self.muddle is None:
            self._muddles.clear()
            return self.rewrite(messages) if self.rewrite else messages
        if id(socket) not in self._muddles:
            self._muddles[id(socket)] = self.muddle()
        return self._muddles[id(socket)](messages)

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


def wounded(payload: Json, luck: random.Random) -> Json:
    """Return a copy that is not what a venue documents: a field is gone, renamed, or of another type."""
    changed = copy.deepcopy(payload)
    places = [(holder, key) for holder, key in _places(changed) if not isinstance(holder[key], (dict, list))]
    if not places:
        return {"code": -1, "msg": "maintenance"}
    holder, key = luck.choice(places)
    if isinstance(holder, dict) and luck.random() < 0.6:
        value = holder.pop(key)
        if luck.random() < 0.5:
            holder[f"{key}V2"] = value
    else:
        kinds: tuple[Json, ...] = (
            None,
            {},
            [],
            "n/a",
            True,
        )  # another type, for nobody can tell that a right one is wrong
        holder[key] = luck.choice([kind for kind in kinds if type(kind) is not type(holder[key])])
    return changed


def absurd(payload: Json, price: float, luck: random.Random) -> Json | None:
    """Return a copy in which every price is one that cannot be; None where it has none."""
    changed = copy.deepcopy(payload)
    wrong = luck.choice((lambda _: 0.0, lambda p: -p, lambda p: 1000 * p, lambda p: p / 1000, lambda _: float("nan")))
    places = [(holder, key) for holder, key in _places(changed) if _is_near(holder[key], price)]
    for holder, key in places:
        value = wrong(float(holder[key]))
        holder[key] = str(value) if isinstance(holder[key], str) else value
    return changed if places else None


def muddled(luck: random.Random, price_of: Callable[[Json], float]) -> Callable[[list[Json]], list[Json]]:
    """Make a `Faults.rewrite`: messages come twice, late, cut, absurd or wounded, beside those that are right."""
    earlier: list[Json] = []
    wrong: dict[str, Callable[[Json], Json]] = {
        "twice": lambda message: message,
        "late": lambda message: luck.choice(earlier or [message]),
        "cut": lambda message: json.dumps(message)[: luck.randrange(1, 40)],
        "no json": lambda _: luck.choice(("", "hello", "<html>", "\u0000", "[", "null", "3")),
        "absurd": lambda message: absurd(message, price_of(message), luck),
        "wounded": lambda message: wounded(message, luck),
        "nothing": lambda _: None,
    }

    def rewrite(messages: list[Json]) -> list[Json]:
        sent = list(messages)
        for message in messages:
            kind = luck.choice(list(wrong))
            beside = wrong[kind](message)
            if beside is not None:
                first = 1 if kind in ("twice", "late") else 0  # a copy is not told from its first
                sent.insert(luck.randrange(first, len(sent) + 1), beside)
        earlier.extend(messages)
        del earlier[:-50]
        return sent

    return rewrite


def _places(at: Json) -> Iterator[tuple[Any, Any]]:
    """Every value inside, as what holds it and where."""
    for key in list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ():
        yield at, key
        yield from _places(at[key])


def _is_near(value: Json, price: float) -> bool:
    try:
        return not isinstance(value, bool) and 0.5 * price < float(value) < 2 * price
    except (TypeError, ValueError):
        return False
