"""How often venues are asked, and how long things are waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["open_interest", "long_short_ratio", "funding"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are asked for and how long they are waited for. [s]

    Parameters
    ----------
    open_interest_s, others_s : float
        One round over the markets of a venue.
    listing_s : float
        Wait for the list of markets at the start; a venue that is slower joins later.
    grace_s : float
        Wait for a closed candle on the stream before it is fetched.
    settle_s : float
        Wait for the journal to reach history.
    longest_s : float
        Longest pause before another try.
    listen_s : float
        How often it is looked whether streams are still heard.
    lag_s : float
        Between the first message of a connection and all that was asked for, and between a print and its message.
    account_s : float
        Between two accounts that are asked for their positions.
    positions_s : float
        How often observed positions are published.
    first_days, chunk_days : float
        Length of the past that is fetched first, and of the pieces of the rest. [days]
    """

    open_interest_s: float = 60.0
    others_s: float = 300.0
    listing_s: float = 10.0
    grace_s: float = 3.0
    settle_s: float = 60.0
    longest_s: float = 60.0
    listen_s: float = 0.25
    lag_s: float = 5.0
    account_s: float = 1.0
    positions_s: float = 5.0
    first_days: float = 2.0
    chunk_days: float = 4.0
