"""Tables whose heads sort: what stands over a column, the order an address names, rows put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any, Final, Generic, NamedTuple, TypeVar, overload

from dashboard.view import ViewError

SORTING: Final = ("sort", "order")  # names of the parameters

Row = TypeVar("Row")
Value = TypeVar("Value")


class Column(NamedTuple, Generic[Value]):
    """A column of a table.

    Parameters
    ----------
    key : str
        Its name in addresses.
    label, unit, hint : str
        What stands over it.
    value : Value
        What rows are sorted by, as the table reads it; None where the column is no order.
    kind : str
        ``text`` sorts upward at first, ``number`` downward.
    """

    key: str
    label: str
    unit: str
    hint: str
    value: Value
    kind: str = "number"


class Order(NamedTuple):
    """The order of rows: by which column, and whether what is largest comes first."""

    key: str
    descending: bool

    @property
    def word(self) -> str:
        """As addresses spell the direction."""
        return "desc" if self.descending else "asc"

    def arrange(self, rows: Iterable[Row], value: Callable[[Row], Any]) -> list[Row]:
        """Sort rows by a value of theirs; those without one come last either way."""
        told = [(value(row), row) for row in rows]
        known = sorted((t for t in told if t[0] is not None), key=lambda t: t[0], reverse=self.descending)
        return [row for _, row in (*known, *(t for t in told if t[0] is None))]


def first_order(column: Column[Any]) -> Order:
    """Return the order that choosing a column gives at first."""
    return Order(column.key, column.kind == "number")


def next_order(column: Column[Any], now: Order | None) -> Order:
    """Return the order that choosing a column gives now: the other way round where it sorts already."""
    return Order(column.key, not now.descending) if now and now.key == column.key else first_order(column)


@overload
def read_order(given: Mapping[str, str], columns: Iterable[Column[Any]]) -> Order | None: ...


@overload
def read_order(given: Mapping[str, str], columns: Iterable[Column[Any]], default: str) -> Order: ...


def read_order(given: Mapping[str, str], columns: Iterable[Column[Any]], default: str | None = None) -> Order | None:
    """Read ``sort`` and ``order``; None where no column is named and none is the default.

    Raises
    ------
    ViewError
        Naming the parameter and the value.
    """
    offered = {c.key: c for c in columns if c.value is not None}
    sort, word = given.get("sort", default), given.get("order")
    if word not in (None, "asc", "desc"):
        raise ViewError("order", word[:80], "asc or desc")
    if sort is None:
        return None
    if sort not in offered:
        raise ViewError("sort", sort[:80], "one of " + ", ".join(offered))
    return first_order(offered[sort]) if word is None else Order(sort, word == "desc")


def described(columns: Iterable[Column[Any]], default: str | None = None) -> list[dict[str, Any]]:
    """Return the parameters as OpenAPI describes them."""
    keys = {"type": "string", "enum": [c.key for c in columns if c.value is not None]}
    by = keys if default is None else {**keys, "default": default}
    return [
        {"name": "sort", "in": "query", "required": False, "schema": by, "description": "Column."},
        {
            "name": "order", "in": "query", "required": False, "schema": {"type": "string", "enum": ["asc", "desc"]},
            "description": "By default as the page sorts at first: numbers downward, names upward.",
        },
    ]  # fmt: skip


def head(column: Column[Any], now: Order | None, address: Callable[[Order], str] | None = None) -> str:
    """Return the head of a column, which says how it sorts.

    Parameters
    ----------
    column : Column
    now : Order, optional
        In which the rows are.
    address : callable, optional
        Of the table in another order, where heads are links; else they are buttons for a script.
    """
    unit = f'<span class="unit">{escape(column.unit)}</span>' if column.unit else ""
    name, title = escape(column.label) + unit, escape(column.hint)
    if column.value is None:
        return f'<th scope="col" class="c-{column.key}" title="{title}">{name}</th>'
    stands = ("descending" if now.descending else "ascending") if now and now.key == column.key else "none"
    control = (
        f'<button type="button" title="{title}">{name}</button>'
        if address is None
        else f'<a href="{escape(address(next_order(column, now)))}" title="{title}">{name}</a>'
    )
    return (
        f'<th scope="col" aria-sort="{stands}" data-key="{column.key}" data-kind="{column.kind}" '
        f'class="c-{column.key}">{control}</th>'
    )
