/* The cross-hair and the reading under it: price, time, density of both sides, distance from the mark; rows below alike. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const NEAR_PX = 4; // closer than this a hand does not choose between prints
  const REACH_PX = 5;
  const TYPES = {
    i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array,
  };

  /* Values of an array of a figure, which may be {dtype, bdata, shape}. Decoded once. */
  const decoded = new WeakMap();
  function values(array) {
    if (!array || !array.bdata) return array || [];
    if (!decoded.has(array)) {
      const text = atob(array.bdata);
      const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
      decoded.set(array, new TYPES[array.dtype || "u1"](bytes.buffer));
    }
    return decoded.get(array);
  }
  liqheat.values = values;

  const toMs = (x) => liqheat.toMs(x);

  /* Index of the last edge at or below a value, -1 outside. */
  function cell(edges, x) {
    if (!(x >= edges[0] && x < edges[edges.length - 1])) return -1;
    let low = 0;
    let high = edges.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (edges[middle] <= x) low = middle;
      else high = middle;
    }
    return low;
  }

  /* Everything a reading needs, taken from an answer once. */
  const prepared = new WeakMap();
  function prepare(answer) {
    if (prepared.has(answer)) return prepared.get(answer);
    const { figure, readings } = answer;
    const heat = figure.data.find((t) => t.type === "heatmap");
    const bubbles = figure.data.filter((t) => t.type === "scatter" && t.mode === "markers");
    const candles = figure.data.find((t) => t.type === "candlestick");
    const made = heat && {
      edges: values(heat.y),
      start: toMs(heat.x0) - heat.dx / 2,
      step: heat.dx,
      close: candles ? byColumn(candles, toMs(heat.x0), heat.dx) : [],
      density: readings.density && { ...readings.density, codes: values({ ...readings.density, dtype: "u1" }) },
      bubbles,
    };
    if (made && made.density) [, made.columns] = shapeOf(made.density.shape);
    prepared.set(answer, made);
    return made;
  }

  /* Closes by column; where there is no candle there is none. */
  function byColumn(candles, first, step) {
    const close = [];
    values(candles.close).forEach((price, i) => (close[Math.round((toMs(candles.x[i]) - first) / step)] = price));
    return close;
  }

  /* Lowest and highest estimate of a cell by other assumptions, as factors on the one shown. */
  function bandAt(readings, row, column, columns) {
    const band = readings.band;
    if (!band || !band.low) return null;
    if (!band.bytes) band.bytes = [band.low, band.high].map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
    const [low, high] = band.bytes.map((codes) => codes[row * columns + column] / 255);
    return [low, high ? 1 / high : Infinity];
  }

  const shapeOf = (shape) => (typeof shape === "string" ? shape.split(",").map(Number) : shape);

  /* Density of a cell in USD per bin. */
  function usdAt(made, row, column) {
    const d = made.density;
    const code = d ? d.codes[row * made.columns + column] : 0;
    return code ? Math.exp(d.log_min + code * d.log_step) : 0;
  }

  const axesOf = (liqheat.axesOf = (layout) => Object.keys(layout).filter((k) => /^yaxis\d*$/.test(k)).map((k) => layout[k]));
  const within = (axis, px) => px >= axis._offset && px <= axis._offset + axis._length;

  /* The nearest; of those right under the pointer, the largest. */
  function nearestPrint(gd, made, x, y) {
    const { xaxis, yaxis } = gd._fullLayout;
    let best = null;
    for (const trace of made.bubbles) {
      const [times, prices, sizes, usd] = [trace.x, trace.y, trace.marker.size, trace.customdata].map(values);
      for (let i = 0; i < times.length; i++) {
        const dx = xaxis._offset + xaxis.c2p(toMs(times[i])) - x;
        const dy = yaxis._offset + yaxis.d2p(prices[i]) - y;
        const far = Math.max(NEAR_PX, Math.hypot(dx, dy));
        if (far > Math.max(REACH_PX, sizes[i] / 2)) continue;
        if (!best || far < best.far || (far === best.far && usd[i] > best.usd)) best = { far, usd: usd[i], trace, i };
      }
    }
    return best;
  }

  const plain = (words) => String(words).replace(/[&<]/g, (c) => (c === "&" ? "&amp;" : "&lt;")); // a coin's name is the address's
  const line = (name, value, cls, title) =>
    `<div><span>${plain(name)}</span><span class="number ${cls || ""}">${title ? `<b>${plain(value)}</b>` : plain(value)}</span></div>`;

  function reading(gd, x, y) {
    const answer = liqheat.answer();
    const made = answer && prepare(answer);
    const layout = gd._fullLayout;
    if (!made || !layout || !layout.xaxis || !within(layout.xaxis, x)) return null;
    const axis = axesOf(layout).find((a) => within(a, y));
    if (!axis) return null;
    const time = layout.xaxis.p2c(x - layout.xaxis._offset);
    const f = liqheat.format;
    const at = Math.floor((time - made.start) / made.step);
    const column = at >= 0 && at < made.columns ? at : -1;
    const out = { axis, time, rows: [], tag: null };
    if (axis._id === "y") {
      const price = axis.p2d(y - axis._offset);
      out.tag = f.price(price);
      readPrice(out, answer.readings, made, { price, column });
      const print = nearestPrint(gd, made, x, y);
      if (print) out.rows.unshift(...readPrint(print));
    } else {
      readRows(out, answer.figure, axis._id, column);
    }
    return out;
  }

  function readPrice(out, readings, made, { price, column }) {
    const f = liqheat.format;
    const row = cell(made.edges, price);
    const mark = readings.mark_price;
    out.rows.push(line("Price", f.price(price), "", true));
    if (mark) out.rows.push(line("From mark", f.percent(price / mark - 1)));
    if (row < 0 || column < 0) return;
    const bin = Math.log(made.edges[row + 1] / made.edges[row]);
    const usd = (usdAt(made, row, column) * 0.001) / bin;
    const close = made.close[column];
    const short = price > (Number.isFinite(close) ? close : mark);
    const side = short ? "Shorts" : "Longs";
    if (liqheat.view.side === (short ? "long" : "short")) return void out.rows.push(line(side, "not shown", "dim"));
    out.rows.push(line(`${side} at risk`, usd ? `≈ ${f.usd(usd)} / 0.1 %` : "none", short ? "short" : "long", true));
    const band = usd && bandAt(readings, row, column, made.columns);
    if (band) out.rows.push(line("by other assumptions", `${f.usd(usd * band[0])} to ${f.usd(usd * band[1])}`));
  }

  function readPrint({ trace, i }) {
    const f = liqheat.format;
    const usd = values(trace.customdata)[i];
    const [time, price] = [toMs(values(trace.x)[i]), values(trace.y)[i]];
    const long = /long/i.test(trace.name);
    return [
      line(long ? "Long liquidated" : "Short liquidated", f.exact(Array.isArray(usd) ? usd[0] : usd), long ? "long" : "short", true),
      line("at", `${f.price(price)} · ${f.clock(time, true)} UTC`),
    ];
  }

  function readRows(out, figure, id, column) {
    for (const trace of figure.data) {
      if (trace.yaxis !== id) continue;
      const y = column < 0 ? NaN : values(trace.y)[column];
      if (Number.isFinite(y)) out.rows.push(line(...rowWords(trace, y)));
    }
  }

  /* A row's name and its number with the unit. */
  function rowWords({ meta: row, name }, y) {
    const f = liqheat.format;
    if (row === "liq") return [name, f.usd(Math.abs(y)), /^long/i.test(name) ? "long" : "short", true];
    if (row === "funding") return ["Funding", f.percent(y, 4), "", true];
    if (row === "rsi") return ["RSI 14", y.toFixed(1), "", true];
    if (row === "lsr") return ["Long accounts per short", y.toFixed(2), "", true];
    return ["Open interest", `${Math.round(y).toLocaleString("en-US")} ${liqheat.view.symbol}`, "", true];
  }

  /* Beside the pointer, or in the far upper corner where there is no room; in a small frame small, and out of the way. */
  const isFrame = () => document.documentElement.dataset.page === "embed";
  const SMALL = "font-size:10px;line-height:1.25;padding:3px 6px;min-width:0;";
  function place(layer, x, y, bottom, main) {
    const width = layer.clientWidth;
    const buttons = layer.parentElement.querySelector(".zoom").getBoundingClientRect().width; // 0 where there are none
    const corner = x > width / 2 ? `left:${buttons ? buttons + 12 : 4}px;` : "right:4px;";
    if (width < 500 && isFrame()) {
      const foot = main._offset + main._length;
      return `${SMALL}${corner}${y < main._offset + main._length / 2 ? `top:${foot - 2}px;transform:translateY(-100%)` : "top:4px"}`;
    }
    if (width < 500) return `top:4px;${corner}`;
    const top = Math.max(4, Math.min(y + 14, bottom - 130));
    return `top:${top}px;${x > width * 0.6 ? `right:${width - x + 14}px` : `left:${x + 14}px`}`;
  }

  let pointer = null; // where on the page the mouse or a finger reads; null while the keys do

  /* The reading moved by keys. */
  liqheat.showCross = function (gd, layer, x, y) {
    pointer = null;
    show(gd, layer, x, y);
  };
  liqheat.pointed = () => pointer !== null;

  function show(gd, layer, x, y) {
    const found = reading(gd, x, y);
    layer.hidden = !found;
    if (!found) return;
    const f = liqheat.format;
    const { xaxis } = gd._fullLayout;
    const when = `${f.day(found.time)} ${f.clock(found.time)} UTC`;
    const there = new Date(found.time);
    const local = `${String(there.getHours()).padStart(2, "0")}:${String(there.getMinutes()).padStart(2, "0")} local`;
    const foot = xaxis._offset + xaxis._length;
    const bottom = Math.max(...axesOf(gd._fullLayout).map((a) => a._offset + a._length));
    layer.innerHTML =
      `<i class="v" style="left:${x}px"></i><i class="h" style="top:${y}px;right:auto;width:${foot}px"></i>` +
      (found.tag ? `<span class="tag" style="left:${foot + 1}px;right:0;top:${y - 9}px">${found.tag}</span>` : "") +
      `<span class="tag" style="left:${Math.max(2, Math.min(foot - 120, x - 60))}px;top:${bottom + 3}px">${when}</span>` +
      `<div class="card" style="${place(layer, x, y, bottom, gd._fullLayout.yaxis)}">` +
      found.rows.join("") + line(when, local, "dim") + "</div>";
  }

  liqheat.attachCross = function (gd) {
    const box = gd.closest(".plot");
    const layer = box.querySelector(".cross");
    layer.hidden = true;
    let frame = 0;
    const again = () => {
      if (!pointer) return;
      const rect = box.getBoundingClientRect();
      if (liqheat.dragging) layer.hidden = true;
      else show(gd, layer, pointer.x - rect.left - window.scrollX, pointer.y - rect.top - window.scrollY);
    };
    const at = (event) => {
      pointer = { x: event.pageX, y: event.pageY };
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(again);
    };
    const leave = () => {
      cancelAnimationFrame(frame);
      pointer = null;
      layer.hidden = true;
    };
    box.addEventListener("pointermove", (event) => event.pointerType === "mouse" && at(event));
    box.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
    const touch = () => window.matchMedia("(hover: none)").matches;
    box.addEventListener("click", (event) => touch() && !event.target.closest(".zoom") && at(event));
    document.addEventListener("click", (event) => touch() && !box.contains(event.target) && leave());
    // Another price or time may lie under the place that is pointed at.
    gd.on("plotly_relayout", () => (touch() ? leave() : again()));
    gd.on("plotly_afterplot", again);
    box.addEventListener("pointerdown", (event) => (liqheat.dragging = event.pointerType === "mouse"));
    window.addEventListener("pointerup", () => (liqheat.dragging = false));
  };
})();
