"""The pages of the site and the look that goes with the visitor from one to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from dashboard.view import Palette, Theme, ViewError


class Entry(NamedTuple):
    """One page in the navigation."""

    path: str
    name: str
    hint: str


NAVIGATION: Final = (
    Entry("/", "Heatmap", "Estimated levels by price and time"),
    Entry("/markets", "Markets", "All markets in one table"),
    Entry("/tape", "Tape", "Liquidations as they happen"),
    Entry("/track-record", "Track record", "How the levels did against what was liquidated"),
    Entry("/method", "Method", "What is assumed, with every value"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """Colours of a page: they are part of every address, so that links keep them."""

    theme: Theme = Theme.DARK
    palette: Palette = Palette.REDGREEN

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Look:
        """Read the look among the parameters of an address.

        Raises
        ------
        ViewError
            Naming the value.
        """
        try:
            theme = Theme(given.get("theme", Theme.DARK))
        except ValueError:
            raise ViewError("theme", given["theme"][:80], "one of " + ", ".join(Theme)) from None
        try:
            return cls(theme, Palette(given.get("palette", Palette.REDGREEN)))
        except ValueError:
            raise ViewError("palette", given["palette"][:80], "one of " + ", ".join(Palette)) from None

    def query(self) -> str:
        """Return its part of an address, only what differs from the default."""
        default = Look()
        parts = {"theme": (self.theme, default.theme), "palette": (self.palette, default.palette)}
        return "&".join(f"{name}={value}" for name, (value, usual) in parts.items() if value is not usual)
