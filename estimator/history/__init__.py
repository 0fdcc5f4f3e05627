"""The durable truth: Delta tables of what was observed and published, and the way of the journal into them."""

from estimator.history.calibrations import Calibrations
from estimator.history.columns import columns_frame, columns_grid
from estimator.history.published import Published, PublishedStatus
from estimator.history.recorder import Recorder, RecorderStatus
from estimator.history.store import Compacted, History
from estimator.history.tables import TABLE_NAMES, TABLES, TableName, with_market

__all__ = [
    "TABLES",
    "TABLE_NAMES",
    "Calibrations",
    "Compacted",
    "History",
    "Published",
    "PublishedStatus",
    "Recorder",
    "RecorderStatus",
    "TableName",
    "columns_frame",
    "columns_grid",
    "with_market",
]
