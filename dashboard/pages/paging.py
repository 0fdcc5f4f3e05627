"""Lists that grow, page by page: how many rows, and where the next page begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from dashboard.view import ViewError

PAGING: Final = ("limit", "cursor")  # names of the parameters


class Page(NamedTuple):
    """A page as it is sent, and the cursor of the one after it; None after the last."""

    body: bytes
    after: str | None


def read_limit(given: Mapping[str, str], default: int, most: int) -> int:
    """Read ``limit``, rows of a page.

    Raises
    ------
    ViewError
        Unless it is a whole number from 1 to `most`.
    """
    text = given.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= most):
        raise ViewError("limit", text[:80], f"a number from 1 to {most}")
    return int(text)


def cut(table: Mapping[str, Any], limit: int, cursor: str | None) -> dict[str, Any]:
    """Return a table of markets with those alone that follow the one whose ``id`` is the cursor, and ``next``.

    Raises
    ------
    ViewError
        If no market is of that id.
    """
    rows, begin = table["markets"], 0
    if cursor is not None:
        begin = next((i for i, row in enumerate(rows, 1) if row["id"] == cursor), 0)
        if not begin:
            raise ViewError("cursor", cursor[:80], "what an earlier answer to the same question gave as `next`")
    page = rows[begin : begin + limit]
    return {**table, "markets": page, "next": page[-1]["id"] if begin + limit < len(rows) else None}


def described(most: int, default: int) -> list[dict[str, Any]]:
    """Return the parameters as OpenAPI describes them."""
    limit = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    after = "`next` of an earlier answer to the same question: the page after it. The `Link` header has its address."
    return [
        {"name": "limit", "in": "query", "required": False, "schema": limit, "description": "Rows of a page."},
        {"name": "cursor", "in": "query", "required": False, "schema": {"type": "string"}, "description": after},
    ]
