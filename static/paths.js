/* Lighter drawings of a figure: the map of levels as one picture, candles and bars as one path per colour. Plotly draws
   a node for every candle and bar and a rectangle for every cell, which is most of the time a change of view takes. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const BODY = 0.35; // of a column, to either side of its middle
  const BAR = 0.42;

  const toMs = (x) => (typeof x === "number" ? x : Date.parse(/Z|[+-]\d\d:?\d\d$/.test(x) ? x : x + "Z"));
  liqheat.toMs = toMs;
  const toUtc = (ms) => new Date(ms).toISOString().slice(0, -1); // Plotly takes a number for the reader's own time

  /* Colours of the codes -127..127, as the canvas wants them. */
  function colours(scale) {
    const stops = scale.map(([at, hex]) => [at, [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))]);
    const table = new Uint32Array(256);
    for (let code = -127; code <= 127; code++) {
      const at = (code + 127) / 254;
      const next = Math.max(1, stops.findIndex(([stop]) => stop >= at));
      const [[from, a], [to, b]] = [stops[next - 1], stops[next]];
      const [red, green, blue] = a.map((x, i) => Math.round(x + ((b[i] - x) * (at - from)) / (to - from)));
      table[code & 255] = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }
    return table;
  }

  /* Bins run evenly in the logarithm, pixels in the price: the bins that each line of pixels covers, from the top. */
  function covered(edges, height) {
    const [low, high] = [edges[0], edges[edges.length - 1]];
    const lines = [];
    let bin = edges.length - 2;
    for (let line = 0; line < height; line++) {
      const bottom = high - ((line + 1) * (high - low)) / height;
      const first = bin;
      while (bin > 0 && edges[bin] > bottom) bin--;
      // A bin belongs to the line that holds its middle; a line without a middle shows the bin it lies in.
      const top = bottom + (high - low) / height;
      let [from, to] = [first, first];
      for (let k = first; k >= bin; k--) {
        const middle = (edges[k] + edges[k + 1]) / 2;
        if (middle > top) [from, to] = [k - 1, k - 1];
        else if (middle >= bottom) to = k;
      }
      lines.push([Math.max(0, Math.min(from, to)), Math.max(from, to, 0)]);
    }
    return lines;
  }

  /* The picture of a heatmap trace as an image of the layout; `pixels` is the height it will have on screen. */
  liqheat.sheet = function (heat, pixels) {
    const codes = liqheat.values(heat.z);
    const edges = liqheat.values(heat.y);
    const rows = edges.length - 1;
    const columns = codes.length / rows;
    const height = Math.round(pixels >= 1.5 * rows ? pixels : 2 * rows);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [columns, height];
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, height);
    const out = new Uint32Array(image.data.buffer);
    const table = colours(heat.colorscale);
    covered(edges, height).forEach(([from, to], line) => {
      for (let column = 0; column < columns; column++) {
        let code = codes[from * columns + column];
        for (let k = from + 1; k <= to; k++) {
          const other = codes[k * columns + column];
          if (Math.abs(other) > Math.abs(code)) code = other;
        }
        out[line * columns + column] = table[code & 255];
      }
    });
    context.putImageData(image, 0, 0);
    return {
      source: canvas.toDataURL("image/png"), xref: "x", yref: "y", layer: "below", sizing: "stretch",
      x: toUtc(toMs(heat.x0) - heat.dx / 2), sizex: columns * heat.dx, xanchor: "left",
      y: edges[rows], sizey: edges[rows] - edges[0], yanchor: "top",
    };
  };

  const path = (trace, x, y, more) => ({
    type: "scatter", mode: "lines", name: trace.name, x, y, yaxis: trace.yaxis, fill: "toself", hoverinfo: "skip",
    showlegend: false, ...more,
  });
  const flat = { simplify: false };

  /* A candle from its low up the left of the body to its high and back down the right. */
  function candles(trace, step) {
    const [open, high, low, close] = ["open", "high", "low", "close"].map((n) => liqheat.values(trace[n]));
    const half = step * BODY;
    const parts = { increasing: [[], []], decreasing: [[], []] };
    open.forEach((start, i) => {
      const middle = toMs(trace.x[i]);
      const [left, at, right] = [middle - half, middle, middle + half].map(toUtc);
      const [bottom, top] = [Math.min(start, close[i]), Math.max(start, close[i])];
      const [x, y] = parts[close[i] >= start ? "increasing" : "decreasing"];
      x.push(at, at, left, left, at, at, at, right, right, at, null);
      y.push(low[i], bottom, bottom, top, top, high[i], top, top, bottom, bottom, null);
    });
    return Object.entries(parts).filter(([, [x]]) => x.length).map(([way, [x, y]]) =>
      path(trace, x, y, { line: { ...flat, ...trace[way].line }, fillcolor: trace[way].fillcolor, meta: "candles" }));
  }

  function bars(trace) {
    const half = trace.dx * BAR;
    const first = toMs(trace.x0);
    const values = liqheat.values(trace.y);
    const [x, y] = [[], []];
    values.forEach((value, i) => {
      if (!value || !Number.isFinite(value)) return;
      const at = first + i * trace.dx;
      const [left, right] = [at - half, at + half].map(toUtc);
      x.push(left, left, right, right, left, null);
      y.push(0, value, value, 0, 0, null);
    });
    // Nothing at all is a line at nought, which also holds the axis.
    if (!x.length) [x[0], x[1], y[0], y[1]] = [toUtc(first), toUtc(first + trace.dx * values.length), 0, 0];
    return [path(trace, x, y, { line: { ...flat, width: 0.5, color: trace.marker.color }, fillcolor: trace.marker.color })];
  }

  /* Traces that look the same and draw sooner; the heatmap itself is `liqheat.sheet`. */
  liqheat.light = function (data) {
    const heat = data.find((t) => t.type === "heatmap");
    return data.flatMap((trace) => {
      if (trace.type === "heatmap") return [];
      if (trace.type === "candlestick") return candles(trace, heat.dx);
      if (trace.type === "bar") return bars(trace);
      return [trace];
    });
  };
})();
