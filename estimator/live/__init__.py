"""Live venues: which markets, what arrives of them, and their past."""

from estimator.live.choice import make_venues
from estimator.live.pace import Pace
from estimator.live.source import LiveSource

__all__ = ["LiveSource", "Pace", "make_venues"]
