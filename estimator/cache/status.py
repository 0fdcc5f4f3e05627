"""What the worker says about its markets and about itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from estimator.domain import Gap, Origin
from estimator.errors import CorruptEntry
from estimator.model.calibration import Calibration


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the start of the worker is: the share done (0..1) and what is being done."""

    done: float
    text: str


@dataclass(frozen=True, slots=True)
class MarketStatus:
    """State of one market as last published.

    Parameters
    ----------
    exchange, symbol, base, contract, max_leverage
        As in `estimator.domain.Market`.
    origin, source
        Where its data comes from, and that in words.
    rank
        Order on the page, lowest first.
    as_of_ms, mark_price
        Time of the latest data and the mark price then.
    interval_ms
        Interval of the source's candles.
    first_ms, last_ms
        Close times of the first and the last closed column.
    provisional_until_ms
        Before this time the book still depends on how it was started.
    open_interest_base, long_short_ratio, funding_rate
        Latest values; None where the source has none.
    gaps
        Stretches without data.
    preset
        Mix of effective leverages in force.
    progress
        Share of the backfill done, 0..1.
    version
        Grows with every publish.
    funding_interval_ms
        What `funding_rate` is a fraction per; None where the source does not say. [ms]
    maintenance_margin_rate, maintenance_fee_rate
        Of the market's first tier, which the levels use: rate, and fee counted in it; None before the market has any.
    has_prints
        Whether its source has told of any liquidation: without, nothing is known about them.
    parameters_version
        Of what the latest closed column was made with.
    calibration, calibrated_ms
        What was fitted to it, and after when steps go by it; None where they go by the defaults.
    """

    exchange: str
    symbol: str
    base: str
    contract: str
    max_leverage: float
    origin: Origin
    source: str
    rank: int
    as_of_ms: int
    mark_price: float
    interval_ms: int
    first_ms: int
    last_ms: int
    provisional_until_ms: int
    open_interest_base: float | None
    long_short_ratio: float | None
    funding_rate: float | None
    gaps: tuple[Gap, ...]
    preset: str
    progress: float
    version: int
    funding_interval_ms: int | None = None
    maintenance_margin_rate: float | None = None
    maintenance_fee_rate: float | None = None
    has_prints: bool = False
    parameters_version: str = ""
    calibration: Calibration | None = None
    calibrated_ms: int | None = None

    @property
    def id(self) -> str:
        """``exchange:symbol``, the key of the market everywhere."""
        return f"{self.exchange}:{self.symbol}"

    @property
    def loaded(self) -> bool:
        """Whether it has columns; before, the market is only announced."""
        return self.last_ms > 0

    def to_json(self) -> bytes:
        """Encode as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, key: str, payload: bytes) -> MarketStatus:
        """Decode what `to_json` wrote.

        Raises
        ------
        CorruptEntry
            Naming `key` and what is wrong.
        """
        try:
            fields = json.loads(payload)
            fields["gaps"] = tuple(Gap(**gap) for gap in fields["gaps"])
            fields["origin"] = Origin(fields["origin"])
            if fields.get("calibration") is not None:
                fields["calibration"] = Calibration.from_fields(fields["calibration"])
            return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptEntry(f"{key}: {error}") from error
