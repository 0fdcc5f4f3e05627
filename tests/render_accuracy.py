"""The tables and plots of `docs/accuracy.md`, from `docs/accuracy.json`.

``liqheat score --data FOLDER --out FOLDER`` makes the scores; ``python -m tests.render_accuracy FOLDER/scores.json``
takes them over and rewrites the page, without an argument it only rewrites it.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from estimator.scoring.plots import bits_svg, calibration_svg
from estimator.scoring.report import TITLES, markdown, ordered

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = DOCS / "accuracy.md"
SCORES: Final = DOCS / "accuracy.json"
BITS: Final = DOCS / "images" / "accuracy-bits.svg"
CALIBRATION: Final = DOCS / "images" / "accuracy-calibration.svg"

# What the method was designed with: bits on positions, on events 1 h and 4 h, and partial ranks of totals.
DESIGN: Final[dict[str, tuple[float, float, float, float, float]]] = {
    "static": (-3.30, -0.29, -0.86, 0.01, 0.03),
    "opens-only": (0.09, 0.20, 0.11, 0.34, 0.30),
    "volume 1 d": (-0.03, 0.23, 0.21, 0.43, 0.42),
    "distance": (0.14, 0.22, 0.18, 0.02, 0.02),
    "freshness": (0.15, 0.29, 0.20, 0.38, 0.37),
    "label-leverage": (0.10, 0.21, 0.18, 0.43, 0.42),
    "wide, no background": (0.14, 0.28, 0.25, 0.43, 0.42),
    "wide": (0.14, 0.31, 0.27, 0.42, 0.42),
    "wide and volume": (0.17, 0.31, 0.27, 0.41, 0.42),
    "as designed": (0.08, 0.30, 0.27, 0.42, 0.42),
}
_COLUMNS: Final = (
    ("positions", "positions", "bits"),
    ("prints 1 h", "prints 1 h", "bits"),
    ("prints 4 h", "prints 4 h", "bits"),
    ("totals, longs", "totals 1 h", "partial rank, long"),
    ("totals, shorts", "totals 1 h", "partial rank, short"),
)


def read_scores() -> dict[str, Any]:
    """Read the scores the page is made of."""
    scores: dict[str, Any] = json.loads(SCORES.read_text())
    return scores


def render_comparison(scores: dict[str, Any]) -> str:
    """Return the design's table beside ours, design first."""

    def rows() -> Iterator[str]:
        yield "| model | " + " | ".join(title for title, _, _ in _COLUMNS) + " |"
        yield "|---|" + "---|" * len(_COLUMNS)
        for model, design in DESIGN.items():
            ours = [scores[kind]["models"][model][metric][0] for _, kind, metric in _COLUMNS]
            cells = (f"{a:.2f} / {b:.2f}".replace("-", "−") for a, b in zip(design, ours, strict=True))
            yield f"| {model} | {' | '.join(cells)} |"

    return "\n".join(rows())


def rewritten(page: str, scores: dict[str, Any]) -> str:
    """Return the page with its marked parts as the scores have them.

    Raises
    ------
    ValueError
        If a part is not marked exactly once.
    """
    parts = {"comparison": render_comparison(scores)}
    parts |= {kind: markdown({kind: found}).split("\n", 2)[2].strip() for kind, found in scores.items()}
    for name, part in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        found = re.findall(f"{re.escape(begin)}.*?{re.escape(end)}", page, flags=re.DOTALL)
        if len(found) != 1:
            raise ValueError(f"{begin} … {end}: found {len(found)} times, expected once ({TITLES.get(name, name)})")
        page = page.replace(found[0], f"{begin}\n\n{part}\n\n{end}")
    return page


def main() -> None:
    """Take over scores if given, and rewrite the page and its plots."""
    if len(sys.argv) > 1:
        shutil.copyfile(sys.argv[1], SCORES)
    scores = read_scores()
    PAGE.write_text(rewritten(PAGE.read_text(), scores))
    BITS.write_text(bits_svg(scores, ordered))
    CALIBRATION.write_text(calibration_svg(scores))


if __name__ == "__main__":
    main()
