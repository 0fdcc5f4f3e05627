"""Words in the colour of a side can be read on every background of their theme, in every palette."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from dashboard.app import STATIC
from dashboard.colours import INK, style_rules
from dashboard.view import Palette, Theme

READABLE: Final = 4.5  # WCAG 2.2, 1.4.3: contrast of small text
BACKGROUNDS: Final = ("back", "plot", "raised", "accent-back")


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def variables(theme: Theme) -> dict[str, str]:
    """Colours the style sheet gives a theme."""
    (rule,) = re.findall(
        rf':root\[data-theme="{theme}"\] {{(.*?)}}', Path(STATIC, "liqheat.css").read_text(), re.DOTALL
    )
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", rule))


def test_contrast_is_that_of_the_definition() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", Theme)
@pytest.mark.parametrize("palette", Palette)
def test_words_of_a_side_can_be_read_wherever_they_stand(theme: Theme, palette: Palette) -> None:
    (rule,) = re.findall(rf':root\[data-theme="{theme}"\]\[data-palette="{palette}"\]{{(.*?)}}', style_rules())
    words = dict(re.findall(r"--(long-words|short-words):(#[0-9a-f]{6});", rule))
    assert set(words) == {"long-words", "short-words"}
    known = variables(theme)
    for name in BACKGROUNDS:
        assert all(contrast(colour, known[name]) >= READABLE for colour in words.values()), name


@pytest.mark.parametrize("theme", Theme)
def test_other_words_can_be_read_too(theme: Theme) -> None:
    known = variables(theme)
    for words in ("text", "dim", "accent", "caution", "good", "bad"):
        assert all(contrast(known[words], known[name]) >= READABLE for name in BACKGROUNDS), words
    assert contrast(known["warn"], known["warn-text"]) >= READABLE
    assert contrast(INK[theme].muted, INK[theme].background) >= READABLE
