"""The chart as a picture of 1200 x 630, for link previews and ``/preview.png``."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from dashboard.colours import INK, scale, side_colours
from dashboard.frame import ChartFrame
from dashboard.lens import FULL, Shading, shade
from dashboard.units import price_text, short_usd, utc_text
from estimator.domain import Origin

WIDTH: Final = 1200
HEIGHT: Final = 630
_LEFT, _TOP, _RIGHT, _BOTTOM = 24, 92, WIDTH - 118, HEIGHT - 52
_TEXT: Final = {size: ImageFont.load_default(size) for size in (16, 18, 22, 30)}

Rgb = tuple[int, int, int]


def draw_preview(frame: ChartFrame) -> bytes:
    """Draw a view as PNG: title, origin, heatmap, candles, price scale, what full colour means."""
    shading = shade(frame)
    ink = INK[frame.view.theme]
    image = Image.new("RGB", (WIDTH, HEIGHT), ink.background)
    image.paste(_heatmap(frame, shading), (_LEFT, _TOP))
    draw = ImageDraw.Draw(image)
    _draw_candles(draw, frame)
    _draw_prices(draw, frame)
    _draw_words(draw, frame, shading)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=False, compress_level=6)
    return out.getvalue()


def _heatmap(frame: ChartFrame, shading: Shading) -> Image.Image:
    """Cells as one image, prices evenly spaced as on the chart."""
    height, width = _BOTTOM - _TOP, _RIGHT - _LEFT
    low, high = frame.window
    prices = low + (np.arange(height) + 0.5) / height * (high - low)
    rows = np.clip(np.searchsorted(shading.price_edges, prices) - 1, 0, shading.codes.shape[1] - 1)
    columns = np.arange(width) * len(frame.time_ms) // width
    cells = shading.codes.T[rows][:, columns].astype(np.int16) + FULL
    return Image.fromarray(_lookup(frame)[cells][::-1], "RGB")


def _lookup(frame: ChartFrame) -> NDArray[np.uint8]:
    """Colour of every signed code, shape (2 * FULL + 1, 3)."""
    stops = scale(frame.view.palette, frame.view.theme)
    at = np.array([position for position, _ in stops])
    colours = np.array([ImageColor.getrgb(colour)[:3] for _, colour in stops], dtype=np.float64)
    codes = np.arange(2 * FULL + 1) / (2 * FULL)
    return np.column_stack([np.interp(codes, at, colours[:, c]) for c in range(3)]).round().astype(np.uint8)


def _y(frame: ChartFrame, price: float) -> float:
    low, high = frame.window
    return _BOTTOM - (price - low) / (high - low) * (_BOTTOM - _TOP)


def _draw_candles(draw: ImageDraw.ImageDraw, frame: ChartFrame) -> None:
    ink = INK[frame.view.theme]
    width = (_RIGHT - _LEFT) / len(frame.time_ms)
    rows = frame.series.select("open", "high", "low", "close").iter_rows()
    for index, (opened, high, low, close) in enumerate(rows):
        if None in (opened, high, low, close):
            continue
        x = _LEFT + (index + 0.5) * width
        colour = ink.candle_up if close >= opened else ink.candle_down
        draw.line((x, _clamp(_y(frame, high)), x, _clamp(_y(frame, low))), fill=colour, width=1)
        top, bottom = sorted((_clamp(_y(frame, opened)), _clamp(_y(frame, close))))
        draw.rectangle((x - width * 0.35, top, x + width * 0.35, max(bottom, top + 1)), fill=colour)
    mark = _clamp(_y(frame, frame.mark_price))
    draw.line((_LEFT, mark, _RIGHT, mark), fill=ink.accent, width=1)


def _clamp(y: float) -> float:
    return min(max(y, _TOP), _BOTTOM)


def _draw_prices(draw: ImageDraw.ImageDraw, frame: ChartFrame) -> None:
    ink = INK[frame.view.theme]
    low, high = frame.window
    step = _round_step((high - low) / 6)
    for price in np.arange(np.ceil(low / step) * step, high, step):
        y = _y(frame, float(price))
        draw.line((_RIGHT, y, _RIGHT + 6, y), fill=ink.muted)
        draw.text((_RIGHT + 12, y), price_text(float(price)), fill=ink.muted, font=_TEXT[16], anchor="lm")
    y = _clamp(_y(frame, frame.mark_price))
    draw.rectangle((_RIGHT + 6, y - 13, WIDTH - 6, y + 13), fill=ink.accent)
    draw.text((_RIGHT + 12, y), price_text(frame.mark_price), fill=ink.background, font=_TEXT[18], anchor="lm")


def _round_step(rough: float) -> float:
    power = 10.0 ** np.floor(np.log10(rough))
    return float(min((s * power for s in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough)))


def _draw_words(draw: ImageDraw.ImageDraw, frame: ChartFrame, shading: Shading) -> None:
    view, ink = frame.view, INK[frame.view.theme]
    lead = frame.statuses[0]
    long_colour, short_colour = side_colours(view.palette, view.theme)
    draw.text((_LEFT, 20), f"{view.symbol} liquidation heatmap, {view.range}", fill=ink.text, font=_TEXT[30])
    venues = ", ".join(s.exchange for s in frame.statuses)
    words = f"{venues} | levels ESTIMATED | as of {utc_text(frame.as_of_ms)} UTC"
    draw.text((_LEFT, 60), words, fill=ink.muted, font=_TEXT[18])
    if lead.origin is not Origin.LIVE:
        badge = f" {lead.origin.value.upper()} "
        width = draw.textlength(badge, font=_TEXT[30])
        draw.rectangle((WIDTH - 24 - width - 12, 16, WIDTH - 24, 58), fill="#f5b301")
        draw.text((WIDTH - 30, 37), badge, fill="#141414", font=_TEXT[30], anchor="rm")
    y = HEIGHT - 28
    x: float = _LEFT
    full = (("longs", shading.long_full, long_colour), ("shorts", shading.short_full, short_colour))
    for name, usd, colour in full:
        text = f"{name}: full colour = {short_usd(usd)} per 0.1 %"
        draw.rectangle((x, y - 8, x + 16, y + 8), fill=colour)
        draw.text((x + 24, y), text, fill=ink.muted, font=_TEXT[16], anchor="lm")
        x += 24 + draw.textlength(text, font=_TEXT[16]) + 28
    draw.text((WIDTH - 24, y), "liqheat", fill=ink.text, font=_TEXT[22], anchor="rm")
