"""How the API describes its answers: an example of every form, the shape it shows, and errors."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("examples.json")  # real answers, cut short: see tests/render_openapi.py
EXAMPLES: Final[dict[str, dict[str, Any]]] = json.loads(FILE.read_text())
JSON: Final = "application/json"
_TYPES: Final = ((bool, "boolean"), (int, "number"), (float, "number"), (str, "string"), (dict, "object"))
_TEXTS: Final = ("text/csv", "text/event-stream")


def shape(example: Any, varies: Collection[str] = ()) -> dict[str, Any]:
    """Return the schema of an object like the example: its fields, and what they hold where they hold something.

    Parameters
    ----------
    example : dict
    varies : collection of str
        Fields that are there in some answers only.
    """
    return {
        "type": "object",
        "required": [name for name in example if name not in varies],
        "properties": {name: _held(value) for name, value in example.items()},
    }


def _held(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"type": "array"}
    kind = next((name for known, name in _TYPES if isinstance(value, known)), None)
    return {} if kind is None else {"type": [kind, "null"]}


def answers(path: str, description: str, *also: str, varies: Collection[str] = ()) -> dict[str, Any]:
    """Describe the good answer of a route, in every form there is an example of.

    Parameters
    ----------
    path : str
    description : str
    *also : str
        Media types of further forms, which are no text: their example is an address.
    varies : collection of str
        See `shape`.
    """
    examples = EXAMPLES.get(path, {} if also else {JSON: {}})
    content = {media_type: _form(media_type, example, varies) for media_type, example in examples.items()}
    return {
        "description": description,
        "content": content | {media_type: _bytes(path, media_type) for media_type in also},
    }


def _form(media_type: str, example: Any, varies: Collection[str]) -> dict[str, Any]:
    schema = {"type": "string"} if media_type in _TEXTS else shape(example, varies)
    return {"schema": schema, "example": example}


def _bytes(path: str, media_type: str) -> dict[str, Any]:
    address = path if "{" in path else f"{path}?symbol=BTC&range=7d"
    example = {"summary": f"As this server answers with `Accept: {media_type}`", "externalValue": address}
    return {"schema": {"type": "string", "format": "binary"}, "examples": {"now": example}}


def error(description: str, example: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Describe an error: what it means, what it says, and the headers it carries."""
    schema = {"type": "object", "required": ["error"], "properties": {name: _held(v) for name, v in example.items()}}
    said: dict[str, Any] = {"description": description, "content": {JSON: {"schema": schema, "example": example}}}
    if headers:
        text = {"type": "string"}
        said["headers"] = {n.replace("_", "-"): {"schema": text, "description": t} for n, t in headers.items()}
    return said


_RETRY: Final = "Seconds after which to ask again."
NOT_CHANGED: Final[dict[str, Any]] = {"description": "Not changed since the ETag given."}
NOT_READ: Final = error(
    "A body that is no JSON.", {"error": "There was an error parsing the body", "path": "/api/v1/snapshots"}
)
NOT_FOUND: Final = error(
    "There is none.", {"error": "there is no such snapshot", "path": f"/api/v1/snapshots/{'0' * 32}"}
)
NOT_EMBEDDED: Final = error(
    "Not an address of this site that can be embedded.",
    {"error": "not an address of this site that can be embedded", "path": "/oembed"},
)
NOT_ACCEPTABLE: Final = error(
    "No form there is that the Accept header takes.",
    {
        "error": "Accept: got 'application/pdf', expected application/json, text/csv", "parameter": "Accept",
        "value": "application/pdf", "accepted": "application/json, text/csv",
    },
)  # fmt: skip
NOT_SHOWN: Final = error(
    "A value that cannot be shown: `parameter`, `value`, `accepted`.",
    {
        "error": "range: got '9h', expected one of 12h, 24h, 3d, 7d, 30d, 90d, 180d, 1y", "parameter": "range",
        "value": "9h", "accepted": "one of 12h, 24h, 3d, 7d, 30d, 90d, 180d, 1y",
    },
)  # fmt: skip
TOO_MANY: Final = error(
    "More than one client may ask.",
    {
        "error": "too many requests to work something out: 600 a minute from one address", "limit": "computed",
        "retry_s": 37,
    },
    Retry_After=_RETRY, RateLimit_Policy="The limit: `q` requests in `w` seconds.",
    RateLimit="What is left of it: `r` requests for `t` seconds.",
)  # fmt: skip
NOT_YET: Final = error(
    "Not yet, or too much at once: `reason` and, while the worker starts, `progress` (0..1).",
    {"error": "BTC is being loaded", "reason": "BTC is being loaded", "progress": 0.25},
    Retry_After=_RETRY,
)
