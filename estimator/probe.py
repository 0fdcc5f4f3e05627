"""Asking the venues, all at once, whether they answer here: what ``--source auto`` decides by.

A plain request for the venue's time, without its client: it is answered in a fraction of a second, and a worker that
shows the simulated market needs no more to see when the venues are back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from estimator.errors import SettingsError
from estimator.units import venue_name

# Where each venue tells its time, as ccxt's `fetch_time` asks for it; a body makes it a POST.
QUESTIONS: Final[Mapping[str, tuple[str, dict[str, str] | None]]] = {
    "binance": ("https://fapi.binance.com/fapi/v1/time", None),
    "bybit": ("https://api.bybit.com/v5/market/time", None),
    "okx": ("https://www.okx.com/api/v5/public/time", None),
    "gate": ("https://api.gateio.ws/api/v4/spot/time", None),
    "bitget": ("https://api.bitget.com/api/v2/public/time", None),
    "hyperliquid": ("https://api.hyperliquid.xyz/info", {"type": "exchangeStatus"}),
}
_MOST_BYTES: Final = 64 << 10
_REGION: Final = frozenset({403, 451})
_PAUSE: Final = frozenset({418, 429})


async def ask_venues(
    names: Sequence[str], *, within_s: float, base: str | None = None
) -> AsyncGenerator[tuple[str, str | None], None]:
    """Yield each venue as it answers or fails, with why it is of no use here, in words; None where it answers.

    Parameters
    ----------
    names : sequence of str
        Keys of `QUESTIONS`.
    within_s : float
        How long an answer is waited for. [s]
    base : str, optional
        Address that stands in for all venues, with their hosts as folders.

    Raises
    ------
    SettingsError
        Naming a venue that is not known.
    """
    unknown = [name for name in names if name not in QUESTIONS]
    if unknown:
        raise SettingsError(f"LIQHEAT_VENUES: {unknown[0]!r} is not one of {', '.join(QUESTIONS)}")
    # Proxies are for the world, not for a server on this machine.
    async with aiohttp.ClientSession(trust_env=base is None) as session:
        tasks = [asyncio.ensure_future(_ask(session, name, within_s, base)) for name in names]
        try:
            for answered in asyncio.as_completed(tasks):
                yield await answered
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def in_words(problems: Mapping[str, str]) -> str:
    """Say why venues are of no use, those with the same trouble together: ``"Binance, OKX: no network; Bybit: …"``."""
    grouped: dict[str, list[str]] = {}
    for name, problem in problems.items():
        grouped.setdefault(problem, []).append(venue_name(name))
    return "; ".join(f"{', '.join(names)}: {problem}" for problem, names in grouped.items())


async def _ask(session: aiohttp.ClientSession, name: str, within_s: float, base: str | None) -> tuple[str, str | None]:
    url, body = QUESTIONS[name]
    if base is not None:
        parts = urlsplit(url)
        url = f"{base.rstrip('/')}/{parts.netloc}{parts.path}"
    try:
        async with asyncio.timeout(within_s):
            request = session.request("GET" if body is None else "POST", url, json=body, allow_redirects=False)
            async with request as answer:
                return name, _problem(answer.status, await _body(answer))
    except TimeoutError:
        return name, f"no answer within {within_s:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return name, _failure(error)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """Read it whole, up to `_MOST_BYTES`: nobody who answers for a venue says more."""
    body = b""
    async for part in answer.content.iter_any():
        body += part
        if len(body) > _MOST_BYTES:
            break
    return body


def _problem(status: int, body: bytes) -> str | None:
    if status in _REGION:
        return f"does not serve this region ({status})"
    if status in _PAUSE:
        return f"asks for a pause ({status})"
    if status >= 500:
        return f"is out of order ({status})"
    try:
        sound = status == 200 and isinstance(json.loads(body), (dict, list))
    except (ValueError, RecursionError):
        sound = False
    return None if sound else f"something else answers in its place ({status})"  # a portal, a proxy


def _failure(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no network, its name is not found"
    if isinstance(error, aiohttp.ClientSSLError):
        return "no secure connection, its certificate is not accepted here"
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return "the connection is refused" if refused else "no network, it cannot be reached"
    return "the connection broke off"
