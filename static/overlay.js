/* What the panels draw over the chart: outlines of clusters, the band of a cascade, the levels of a position. It lies
   on a layer of its own, so that a moving slider does not draw the heatmap anew. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const LINE_PX = 15; // a label's height
  const LONGEST = 0.28; // of the width, a band of now
  const layers = new Map();

  /* Marks of a layer: { low, high, cls, label, now } for a band, { price, cls, label } for a line. `now` is whether a
     band is of now alone, `edge` whether a mark outside the prices on screen is told at their edge. */
  liqheat.draw = function (name, marks) {
    if (!marks.length && !layers.has(name)) return;
    if (marks.length) layers.set(name, marks);
    else layers.delete(name);
    paint();
  };

  const graph = () => document.querySelector("#chart .js-plotly-plot");

  /* Height of a price inside the plot, 0 at its top. */
  function scaleOf(axis) {
    const log = axis.type === "log";
    const [low, high] = axis.range;
    return (price) => axis._length * (1 - ((log ? Math.log10(price) : price) - low) / (high - low));
  }

  function node(cls, style, text) {
    const made = document.createElement("div");
    made.className = cls;
    Object.assign(made.style, style);
    if (text) made.textContent = text;
    return made;
  }

  /* -> where a mark and its label go; null where nothing of it is on screen */
  function place(mark, at, height) {
    const [top, bottom] = "price" in mark ? [at(mark.price), at(mark.price)] : [at(mark.high), at(mark.low)];
    const outside = bottom < 0 ? "▲" : top > height ? "▼" : "";
    if (outside && !mark.edge) return null;
    const middle = Math.min(height - LINE_PX, Math.max(0, (Math.max(0, top) + Math.min(height, bottom)) / 2 - LINE_PX / 2));
    return { mark, top, bottom, outside, label: mark.label && `${outside}${outside && " "}${mark.label}`, y: middle };
  }

  /* -> where on the time axis a band of now begins and ends, and its newest column; null where that is out of view */
  function timesOf({ xaxis }) {
    const { data } = liqheat.answer().figure;
    const heat = data.find((t) => t.type === "heatmap");
    const candles = data.find((t) => t.type === "candlestick");
    if (!heat) return null;
    const columns = liqheat.values(heat.z).length / (liqheat.values(heat.y).length - 1);
    const [from, to] = xaxis.range.map(liqheat.toMs);
    const end = liqheat.toMs(heat.x0) + (columns - 0.5) * heat.dx;
    if (end - heat.dx / 2 < from || end - heat.dx / 2 > to) return null;
    const [lows, highs] = candles ? [candles.low, candles.high].map((prices) => liqheat.values(prices)) : [[], []];
    const px = (time) => (xaxis._length * (time - from)) / (to - from);

    /* A level cannot be older than the last candle that went through its prices. */
    return function (low, high) {
      let i = lows.length - 1;
      while (i >= 0 && !(lows[i] <= high && highs[i] >= low)) i--;
      const touched = i < 0 ? 0 : px(liqheat.toMs(candles.x[i]) - heat.dx / 2);
      const last = Math.min(xaxis._length, px(end));
      return { left: `${Math.max(0, touched, px(end) - LONGEST * xaxis._length)}px`, right: `${xaxis._length - last}px` };
    };
  }

  function shape({ mark, top, bottom }, times) {
    if ("price" in mark) return node(`level ${mark.cls}`, { top: `${top}px`, left: 0 });
    const across = mark.now ? times(mark.low, mark.high) : { left: 0 };
    return node(`zone ${mark.cls}`, { top: `${top}px`, height: `${Math.max(2, bottom - top)}px`, ...across });
  }

  /* Labels of a side below one another, where they would lie on one another. */
  function spread(places, height) {
    const priceOf = ({ mark }) => ("price" in mark ? mark.price : mark.high);
    const sorted = [...places].sort((a, b) => a.y - b.y || priceOf(b) - priceOf(a));
    sorted.forEach((one, i) => i && (one.y = Math.max(one.y, sorted[i - 1].y + LINE_PX)));
    for (let i = sorted.length - 1, floor = height - LINE_PX; i >= 0; i--, floor = sorted[i + 1].y - LINE_PX) {
      sorted[i].y = Math.min(sorted[i].y, floor);
    }
  }

  function paint() {
    const box = document.querySelector(".plot .overlay");
    const layout = (graph() || {})._fullLayout;
    if (!box || !layout || !layout.yaxis || !liqheat.answer()) return;
    const { xaxis, yaxis } = layout;
    const at = scaleOf(yaxis);
    const px = (n) => `${n}px`;
    Object.assign(box.style, { left: px(xaxis._offset), top: px(yaxis._offset), width: px(xaxis._length), height: px(yaxis._length) });
    const times = timesOf(layout);
    const marks = [...layers.values()].flat().filter((mark) => times || !mark.now);
    const places = marks.map((mark) => place(mark, at, yaxis._length)).filter(Boolean);
    const labelled = places.filter((p) => p.label);
    for (const right of [false, true]) spread(labelled.filter((p) => Boolean(p.mark.right) === right), yaxis._length);
    box.replaceChildren(
      ...places.filter((p) => !p.outside).map((p) => shape(p, times)),
      ...labelled.map((p) => node(`tag ${p.mark.cls} ${p.mark.right ? "right" : ""}`, { top: px(p.y) }, p.label)),
    );
  }

  /* Once for every chart that is made. */
  liqheat.attachOverlay = function (gd) {
    for (const moved of ["plotly_afterplot", "plotly_relayouting", "plotly_relayout"]) gd.on(moved, paint);
    gd.on("plotly_afterplot", () => liqheat.wakePanels());
    paint();
    liqheat.wakePanels();
  };

  /* Widen the prices on screen until a band is on it, and go to the newest column, at which it is. */
  liqheat.reveal = function (low, high) {
    const gd = graph();
    const layout = (gd || {})._fullLayout;
    if (!layout || layout.yaxis.type === "log") return;
    const [bottom, top] = layout.yaxis.range;
    if (!timesOf(layout)) window.Plotly.relayout(gd, { "xaxis.range": liqheat.newest() });
    if (low >= bottom && high <= top) return;
    const room = 0.04 * (Math.max(top, high) - Math.min(bottom, low));
    const range = [low < bottom ? low - room : bottom, high > top ? high + room : top];
    liqheat.widen(...range);
    window.Plotly.relayout(gd, { "yaxis.range": range });
  };
})();
