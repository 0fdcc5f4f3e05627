"""The cache between the worker and the web: tiles, live columns, prints, statuses and rendered views in Redis.

Everything but the prints can be lost and is rebuilt from history. See `Cache`.
"""

from estimator.cache.choice import Choice
from estimator.cache.health import RecorderHealth, Rejected, StreamHealth, VenueHealth, WorkerHealth
from estimator.cache.status import MarketStatus, Progress
from estimator.cache.store import Cache

__all__ = [
    "Cache",
    "Choice",
    "MarketStatus",
    "Progress",
    "RecorderHealth",
    "Rejected",
    "StreamHealth",
    "VenueHealth",
    "WorkerHealth",
]
