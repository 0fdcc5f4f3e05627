"""The chart as a picture of 1200 x 630, for link previews, ``/preview.png`` and the command line."""

from __future__ import annotations

import io
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from dashboard.colours import INK, scale, side_colours
from dashboard.frame import LENS_MARGIN, MAX_ROWS, ChartFrame, default_window
from dashboard.lens import FULL, Shading, shade, shade_grid
from dashboard.view import ViewState
from estimator.domain import Origin, Side
from estimator.model.grid import LiquidationGrid
from estimator.units import price_text, short_usd, utc_text, venue_name

WIDTH: Final = 1200
HEIGHT: Final = 630
MAX_COLUMNS: Final = 600
_LEFT, _TOP, _RIGHT, _BOTTOM = 24, 92, WIDTH - 118, HEIGHT - 52
_TEXT: Final = {size: ImageFont.load_default(size) for size in (16, 18, 22, 30)}
_BADGE: Final = ("#f5b301", "#141414")


class _Picture(NamedTuple):
    """What is drawn; candles have one row per column of the shading, null where there is none."""

    shading: Shading
    candles: pl.DataFrame
    window: tuple[float, float]
    mark_price: float
    view: ViewState
    title: str
    words: str
    badge: str


def draw_preview(frame: ChartFrame) -> bytes:
    """Draw a view as PNG: title, origin, heatmap, candles, price scale, what full colour means."""
    view, origin = frame.view, frame.statuses[0].origin
    venues = ", ".join(venue_name(s.exchange) for s in frame.statuses)
    return _draw(
        _Picture(
            shading=shade(frame),
            candles=frame.series,
            window=frame.window,
            mark_price=frame.mark_price,
            view=view,
            title=f"{view.symbol} liquidation heatmap, {view.range}",
            words=f"{venues} | levels ESTIMATED | as of {utc_text(frame.as_of_ms)} UTC{_look(view)}",
            badge="" if origin is Origin.LIVE else origin.value.upper(),
        )
    )


def draw_grid(grid: LiquidationGrid, candles: pl.DataFrame, *, title: str) -> bytes:
    """Draw a grid and the candles it was estimated from as PNG, without a cache.

    Parameters
    ----------
    grid : LiquidationGrid
        The last `MAX_COLUMNS` columns that fit are drawn: of a longer grid every second, third, ….
    candles : polars.DataFrame
        ``time`` (interval start), ``open high low close``.
    title : str
    """
    grid = grid.coarsen(1, -(-len(grid.time) // MAX_COLUMNS))
    rows = _candles_of(grid, candles)
    closes = rows["close"].fill_null(strategy="forward").fill_null(strategy="backward").to_numpy()
    window = default_window(rows, float(closes[-1]))
    low, high = window[0] * np.exp(-LENS_MARGIN), window[1] * np.exp(LENS_MARGIN)
    factor = max(1, -(-int(np.log(high / low) / grid.bin_width) // MAX_ROWS))
    view = ViewState("BTC")  # lens, palette and theme of the default view; its symbol is not drawn
    last_ms = int(grid.time[-1].astype("datetime64[ms]").astype(np.int64))
    return _draw(
        _Picture(
            shading=shade_grid(grid.crop(low, high).coarsen(factor), closes, window, view),
            candles=rows,
            window=window,
            mark_price=float(closes[-1]),
            view=view,
            title=f"{title} liquidation heatmap",
            words=f"levels ESTIMATED | as of {utc_text(last_ms)} UTC{_look(view)}",
            badge="",
        )
    )


def _look(view: ViewState) -> str:
    """Name the lens, and the handles where they are moved."""
    whole = (view.min, view.max) == (0, 1)
    return f" | {view.lens.value}" + ("" if whole else f", intensity {100 * view.min:.0f} to {100 * view.max:.0f} %")


def _candles_of(grid: LiquidationGrid, candles: pl.DataFrame) -> pl.DataFrame:
    """Merge the candles that start after one column and before the next."""
    close_ms = grid.time.astype("datetime64[ms]").astype(np.int64)
    start_ms = candles["time"].dt.epoch("ms").to_numpy()
    column = np.searchsorted(close_ms, start_ms, side="right")
    first = close_ms[0] - (close_ms[1] - close_ms[0] if len(close_ms) > 1 else 0)
    within = (column < len(close_ms)) & (start_ms >= first)
    merged = (
        candles.with_columns(column=pl.Series(column))
        .filter(pl.Series(within))
        .group_by("column", maintain_order=True)
        .agg(pl.first("open"), pl.max("high"), pl.min("low"), pl.last("close"))
    )
    axis = pl.DataFrame({"column": np.arange(len(close_ms))})
    return axis.join(merged, on="column", how="left", maintain_order="left").drop("column").cast(pl.Float64)


def _draw(picture: _Picture) -> bytes:
    ink = INK[picture.view.theme]
    image = Image.new("RGB", (WIDTH, HEIGHT), ink.background)
    image.paste(_heatmap(picture), (_LEFT, _TOP))
    draw = ImageDraw.Draw(image)
    _draw_candles(draw, picture)
    _draw_prices(draw, picture)
    _draw_title(draw, picture)
    _draw_legend(draw, picture)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=6)
    return out.getvalue()


def _heatmap(picture: _Picture) -> Image.Image:
    """Cells as one image, prices evenly spaced as on the chart."""
    height, width = _BOTTOM - _TOP, _RIGHT - _LEFT
    low, high = picture.window
    codes = picture.shading.codes
    prices = low + (np.arange(height) + 0.5) / height * (high - low)
    rows = np.clip(np.searchsorted(picture.shading.price_edges, prices) - 1, 0, codes.shape[1] - 1)
    columns = np.arange(width) * len(codes) // width
    cells = codes.T[rows][:, columns].astype(np.int16) + FULL
    return Image.fromarray(_lookup(picture.view)[cells][::-1])


def _lookup(view: ViewState) -> NDArray[np.uint8]:
    """Colour of every signed code, shape (2 * FULL + 1, 3)."""
    stops = scale(view.palette, view.theme)
    at = np.array([position for position, _ in stops])
    colours = np.array([ImageColor.getrgb(colour)[:3] for _, colour in stops], dtype=np.float64)
    codes = np.arange(2 * FULL + 1) / (2 * FULL)
    return np.column_stack([np.interp(codes, at, colours[:, c]) for c in range(3)]).round().astype(np.uint8)


def _y(picture: _Picture, price: float) -> float:
    low, high = picture.window
    return min(max(_BOTTOM - (price - low) / (high - low) * (_BOTTOM - _TOP), _TOP), _BOTTOM)


def _draw_candles(draw: ImageDraw.ImageDraw, picture: _Picture) -> None:
    ink = INK[picture.view.theme]
    width = (_RIGHT - _LEFT) / picture.candles.height
    for index, (opened, high, low, close) in enumerate(
        picture.candles.select("open", "high", "low", "close").iter_rows()
    ):
        if None in (opened, high, low, close):
            continue
        x = _LEFT + (index + 0.5) * width
        colour = ink.candle_up if close >= opened else ink.candle_down
        draw.line((x, _y(picture, high), x, _y(picture, low)), fill=colour, width=1)
        top, bottom = sorted((_y(picture, opened), _y(picture, close)))
        draw.rectangle((x - width * 0.3, top, x + width * 0.3, bottom), fill=colour)
    mark = _y(picture, picture.mark_price)
    draw.line((_LEFT, mark, _RIGHT, mark), fill=ink.accent, width=1)


def _draw_prices(draw: ImageDraw.ImageDraw, picture: _Picture) -> None:
    ink = INK[picture.view.theme]
    low, high = picture.window
    step = _round_step((high - low) / 6)
    decimals = len(f"{step:.12f}".rstrip("0").partition(".")[2])
    for price in np.arange(np.ceil(low / step) * step, high, step).tolist():
        y = _y(picture, price)
        if abs(y - _y(picture, picture.mark_price)) < 22:
            continue  # the mark's own label stands here
        draw.line((_RIGHT, y, _RIGHT + 6, y), fill=ink.muted)
        draw.text((_RIGHT + 12, y), f"{price:,.{decimals}f}", fill=ink.muted, font=_TEXT[16], anchor="lm")
    y = _y(picture, picture.mark_price)
    draw.rectangle((_RIGHT + 6, y - 13, WIDTH - 6, y + 13), fill=ink.accent)
    draw.text((_RIGHT + 12, y), price_text(picture.mark_price), fill=ink.background, font=_TEXT[18], anchor="lm")


def _round_step(rough: float) -> float:
    power = 10.0 ** np.floor(np.log10(rough))
    return float(min((s * power for s in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough)))


def _draw_title(draw: ImageDraw.ImageDraw, picture: _Picture) -> None:
    ink = INK[picture.view.theme]
    draw.text((_LEFT, 20), picture.title, fill=ink.text, font=_TEXT[30])
    draw.text((_LEFT, 60), picture.words, fill=ink.muted, font=_TEXT[18])
    if picture.badge:
        width = draw.textlength(picture.badge, font=_TEXT[30])
        draw.rectangle((WIDTH - 52 - width, 16, WIDTH - 24, 58), fill=_BADGE[0])
        draw.text((WIDTH - 38, 37), picture.badge, fill=_BADGE[1], font=_TEXT[30], anchor="rm")


def _draw_legend(draw: ImageDraw.ImageDraw, picture: _Picture) -> None:
    ink, shading = INK[picture.view.theme], picture.shading
    colours = side_colours(picture.view.palette, picture.view.theme)
    y, x = HEIGHT - 28, float(_LEFT)
    for side, usd, colour in zip(Side, (shading.long_full, shading.short_full), colours, strict=True):
        text = _legend(picture.view, side, usd, shading.unit)
        draw.rectangle((x, y - 8, x + 16, y + 8), fill=colour)
        draw.text((x + 24, y), text, fill=ink.muted, font=_TEXT[16], anchor="lm")
        x += 24 + draw.textlength(text, font=_TEXT[16]) + 28
    draw.text((WIDTH - 24, y), "liqheat", fill=ink.text, font=_TEXT[22], anchor="rm")


def _legend(view: ViewState, side: Side, usd: float, unit: str) -> str:
    if view.side.value not in (side.value, "both"):
        return f"{side}s not shown"
    return f"{side}s: full colour = {short_usd(usd)} {unit}" if usd > 0 else f"{side}s: none in this window"
