/* What the panels draw over the chart: outlines of clusters, the band of a cascade, the levels of a position. It lies
   on a layer of its own, so that a moving slider does not draw the heatmap anew. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const LINE_PX = 15; // a label's height
  const layers = new Map();

  /* Marks of a layer: { low, high, cls, label, from } for a band, { price, cls, label } for a line. `from` is the part
     of the width a band begins at, `edge` whether a mark outside the prices on screen is told at their edge. */
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

  function shape({ mark, top, bottom }) {
    const left = `${(mark.from || 0) * 100}%`;
    if ("price" in mark) return node(`level ${mark.cls}`, { top: `${top}px`, left });
    return node(`zone ${mark.cls}`, { top: `${top}px`, height: `${Math.max(2, bottom - top)}px`, left });
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
    if (!box || !layout || !layout.yaxis) return;
    const { xaxis, yaxis } = layout;
    const at = scaleOf(yaxis);
    const px = (n) => `${n}px`;
    Object.assign(box.style, { left: px(xaxis._offset), top: px(yaxis._offset), width: px(xaxis._length), height: px(yaxis._length) });
    const marks = [...layers.values()].flat();
    const places = marks.map((mark) => place(mark, at, yaxis._length)).filter(Boolean);
    const labelled = places.filter((p) => p.label);
    for (const right of [false, true]) spread(labelled.filter((p) => Boolean(p.mark.right) === right), yaxis._length);
    box.replaceChildren(
      ...places.filter((p) => !p.outside).map(shape),
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

  /* Widen the prices on screen until a band is on it. */
  liqheat.reveal = function (low, high) {
    const gd = graph();
    const layout = (gd || {})._fullLayout;
    if (!layout || layout.yaxis.type === "log") return;
    const [bottom, top] = layout.yaxis.range;
    if (low >= bottom && high <= top) return;
    const room = 0.04 * (Math.max(top, high) - Math.min(bottom, low));
    window.Plotly.relayout(gd, { "yaxis.range": [low < bottom ? low - room : bottom, high > top ? high + room : top] });
  };
})();
