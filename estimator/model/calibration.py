"""Assumptions that were fitted to one market, and what they are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from estimator.model.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Calibration:
    """Assumptions fitted to one market; a part of the data was held out and tells what they are worth.

    Parameters
    ----------
    parameters : Parameters
    first_ms, last_ms : int
        The data they come from, the held-out part included. [ms]
    cut_ms : int
        Where the held-out part begins. [ms]
    fitted, held : int
        Prints fitted to, and held out.
    before, after : float
        Score of the default and of the fit on the held-out part. [bits over uniform]
    gain_low, gain_high : float or None
        95 % interval of their difference; None where it has none. [bits]
    """

    parameters: Parameters
    first_ms: int
    last_ms: int
    cut_ms: int
    fitted: int
    held: int
    before: float
    after: float
    gain_low: float | None
    gain_high: float | None

    @property
    def gain(self) -> float:
        """What the fit scores above the default where it was not fitted. [bits]"""
        return self.after - self.before

    def to_json(self) -> str:
        """Encode as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Decode what `to_json` wrote; raises as `from_fields`."""
        return cls.from_fields(json.loads(text))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Calibration:
        """Make it of its fields as JSON has them.

        Raises
        ------
        ParameterError
            If a value is outside its domain.
        TypeError, KeyError
            If it was written by another version of this program.
        """
        given: dict[str, Any] = fields["parameters"]
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return cls(**{**fields, "parameters": Parameters(**values)})
