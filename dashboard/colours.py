"""Colours of the chart: two sides, three palettes, two themes."""

from __future__ import annotations

from typing import Final, NamedTuple

from dashboard.view import Palette, Theme
from estimator.model.grid import DIFFUSE, TIERS

Ramp = tuple[str, str, str]  # colours at .35, .7 and full intensity; nothing at all is the background


class Ink(NamedTuple):
    """Everything of a theme that is not data."""

    background: str
    text: str
    muted: str
    line: str
    accent: str
    candle_up: str
    candle_down: str
    gap: str


INK: Final = {
    Theme.DARK: Ink(
        "#0b0e14", "#d7dce5", "#8a93a5", "#1d2330", "#6ea8fe", "#f4f6fa", "#9aa3b5", "rgba(138,147,165,0.14)"
    ),
    Theme.LIGHT: Ink(
        "#ffffff", "#1b212c", "#5d6675", "#e3e7ee", "#2563eb", "#2c3442", "#10141b", "rgba(93,102,117,0.14)"
    ),
}

# (long, short) for each palette and theme.
RAMPS: Final[dict[tuple[Palette, Theme], tuple[Ramp, Ramp]]] = {
    (Palette.REDGREEN, Theme.DARK): (("#06402f", "#0fae78", "#7dffcb"), ("#511821", "#dd3e47", "#ffa79b")),
    (Palette.REDGREEN, Theme.LIGHT): (("#bfe6d3", "#34a574", "#005c39"), ("#f8cdc8", "#df5450", "#8a0d15")),
    (Palette.COLORBLIND, Theme.DARK): (("#0a3560", "#2b8be0", "#a5d8ff"), ("#553006", "#e0861a", "#ffd699")),
    (Palette.COLORBLIND, Theme.LIGHT): (("#cbdff4", "#3f86d2", "#0a3a78"), ("#fbddb6", "#df8724", "#824000")),
    (Palette.MONO, Theme.DARK): (("#262c38", "#8590a4", "#ffffff"), ("#262c38", "#8590a4", "#ffffff")),
    (Palette.MONO, Theme.LIGHT): (("#dadde3", "#7b8493", "#0e1116"), ("#dadde3", "#7b8493", "#0e1116")),
}

# (long, short) of words and numbers: readable on every background of their theme, which shades of the picture are not.
_WORDS: Final = {
    (Palette.REDGREEN, Theme.DARK): ("#14b981", "#f0616a"),
    (Palette.REDGREEN, Theme.LIGHT): ("#0b7347", "#bf2833"),
    (Palette.COLORBLIND, Theme.DARK): ("#4a9fe8", "#e0861a"),
    (Palette.COLORBLIND, Theme.LIGHT): ("#1b5ca8", "#8f5009"),
    (Palette.MONO, Theme.DARK): (INK[Theme.DARK].text, INK[Theme.DARK].text),
    (Palette.MONO, Theme.LIGHT): (INK[Theme.LIGHT].text, INK[Theme.LIGHT].text),
}

_STOPS: Final = (0.35, 0.7, 1.0)


def scale(palette: Palette, theme: Theme) -> list[tuple[float, str]]:
    """Colour scale of signed codes: full long at 0, background at .5, full short at 1."""
    long_ramp, short_ramp = RAMPS[palette, theme]
    below = [(0.5 - stop / 2, colour) for stop, colour in zip(_STOPS, long_ramp, strict=True)]
    above = [(0.5 + stop / 2, colour) for stop, colour in zip(_STOPS, short_ramp, strict=True)]
    return [*reversed(below), (0.5, INK[theme].background), *above]


def side_colours(palette: Palette, theme: Theme) -> tuple[str, str]:
    """Plain colours of longs and shorts, for bars, rings and lines."""
    long_ramp, short_ramp = RAMPS[palette, theme]
    return long_ramp[1], short_ramp[1]


_TIERS: Final[dict[Theme, tuple[str, ...]]] = {
    # Rising leverage from cool to hot along one perceptual ramp, readable without telling red from green.
    Theme.DARK: ("#4c5aa8", "#2f86a6", "#29b088", "#8ed04f", "#f7e225"),
    Theme.LIGHT: ("#3a4390", "#23708e", "#1d9273", "#6da42c", "#d39b00"),
}
_TIERS_MONO: Final[dict[Theme, tuple[str, ...]]] = {
    Theme.DARK: ("#3b4252", "#5d6678", "#868fa2", "#b3bac8", "#eef1f6"),
    Theme.LIGHT: ("#c4c9d2", "#9aa1ae", "#717987", "#474e5b", "#14181f"),
}


def tier_colours(palette: Palette, theme: Theme) -> dict[str, str]:
    """Colour of every display tier; what nobody can know is grey."""
    ramp = (_TIERS_MONO if palette is Palette.MONO else _TIERS)[theme]
    return {**dict(zip((t.name for t in TIERS), ramp, strict=True)), DIFFUSE: INK[theme].muted}


def style_rules() -> str:
    """Write the colours of sides and tiers of every theme and palette as rules for a style sheet."""
    return "".join(_rule(palette, theme) for theme in Theme for palette in Palette)


def _rule(palette: Palette, theme: Theme) -> str:
    (long, short), (long_words, short_words) = side_colours(palette, theme), _WORDS[palette, theme]
    sides = {"long": long, "short": short, "long-words": long_words, "short-words": short_words}
    tiers = {f"tier-{at}": colour for at, colour in enumerate(tier_colours(palette, theme).values())}
    values = "".join(f"--{name}:{colour};" for name, colour in (sides | tiers).items())
    return f':root[data-theme="{theme}"][data-palette="{palette}"]{{{values}}}'
