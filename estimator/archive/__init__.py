"""Binance's public archive into history: zipped CSV files with checksums, from the web or from a folder.

Layout, below a base address or folder (``um`` USD-M, ``cm`` COIN-M; each zip has a ``.CHECKSUM`` beside it)::

    data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-15.zip
    data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-01-15.zip
    data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-01.zip

Everything is checked before anything is stored: the checksum, the zip's own, the columns, every value and time. Old
files have no header line, new ones have.
"""

from __future__ import annotations

from estimator.archive.backfill import Imported, backfill, import_day
from estimator.archive.fetch import BINANCE, Archive
from estimator.archive.layout import ArchiveFile, Kind, archive_symbol, plan

__all__ = [
    "BINANCE",
    "Archive",
    "ArchiveFile",
    "Imported",
    "Kind",
    "archive_symbol",
    "backfill",
    "import_day",
    "plan",
]
