"""Live venues: which markets, what arrives of them, and their past."""

from estimator.live.choice import VENUES, make_venues
from estimator.live.pace import Pace
from estimator.live.source import LiveSource

__all__ = ["VENUES", "LiveSource", "Pace", "make_venues"]
