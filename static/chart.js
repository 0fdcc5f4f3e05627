/* Fetches the chart of the view, fits it to the screen and keeps it moving. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const callbacks = (window.dash_clientside = window.dash_clientside || {});
  callbacks.liqheat = callbacks.liqheat || {};
  const still = () => callbacks.no_update;

  const SETTLE_MS = 300;
  const FOLLOW_MS = 2000; // a chart at most this often while prices stream in
  const SILENCE_MS = 9000; // after this long without a word the page asks by itself
  const QUIET_MS = 30000;
  const RETRY_MS = 2000;
  const FRESH_MS = 5000; // how long an answer asked for ahead may wait to be wanted
  const PATIENCE_MS = 20000; // for an answer: a connection may have gone without a word
  const ROW = { wide: 50, narrow: 48, gap: 17 }; // the gap above a row holds its title
  const EMPTY_ROW = 2;
  const LEAST_USD = 0.005; // what is written as more than nought
  const LEAST = { main: 190, row: 26 }; // in a frame: below these, rows drop out

  const now = { query: null, etag: null, flight: null, again: false, loaded: 0, heard: 0, answer: null, revision: 0, zoomed: {}, held: "" };

  /* Component description for a property that takes children. */
  liqheat.h = (type, props, ...children) => {
    const flat = children.flat().filter((c) => c !== null && c !== undefined && c !== false);
    return { namespace: "dash_html_components", type, props: { ...props, children: flat.length === 1 ? flat[0] : flat } };
  };

  const nudge = () => callbacks.set_props("nudge", { data: Date.now() });
  const plot = () => document.querySelector(".plot");
  const graph = (id) => document.querySelector(`#${id} .js-plotly-plot`);
  const mark = (state) => plot() && (plot().dataset.state = state);

  function request(query) {
    const flight = new AbortController();
    const signal = AbortSignal.any([flight.signal, AbortSignal.timeout(PATIENCE_MS)]);
    const response = fetch(liqheat.chartOf(query), { signal, cache: "no-cache" });
    response.catch(() => {}); // told where it is awaited
    return { query, flight, response, at: Date.now() };
  }

  /* Ask as soon as a control has moved, while Dash is still passing the change on. */
  let ahead = null;
  const waits = (query) => ahead && ahead.query === query && Date.now() - ahead.at < FRESH_MS;
  liqheat.askAhead = (query) => {
    if (waits(query)) return;
    if (ahead) ahead.flight.abort();
    ahead = request(query);
  };
  function taken(query, other) {
    // What is shown already is asked for again to see what is new.
    const found = other && waits(query) ? ahead : request(query);
    if (ahead && ahead !== found) ahead.flight.abort();
    ahead = null;
    return found;
  }

  /* -> [chart figure, readings, notice]; the map follows once the chart is painted */
  callbacks.liqheat.load = async function (view) {
    const nothing = [still(), still(), still()];
    if (!view) return nothing;
    const other = view.query !== now.query;
    if (!other && now.flight) {
      now.again = true;
      return nothing;
    }
    if (now.flight) now.flight.abort();
    const { flight, response: asked } = taken(view.query, other);
    now.flight = flight;
    if (other) mark("loading");
    try {
      const response = await asked;
      const etag = response.headers.get("ETag");
      if (response.ok && !other && etag && etag === now.etag) {
        now.loaded = Date.now();
        mark("shown");
        return settled([still(), still(), null]);
      }
      const answer = await response.json();
      if (flight.signal.aborted) return nothing;
      if (!response.ok && !other && [429, 503].includes(response.status)) {
        retry();
        mark("stale");
        return settled([still(), still(), old(answer.reason || answer.error)]);
      }
      if (!response.ok) {
        return settled([still(), still(), failed(response.status, answer, view)]);
      }
      if (answer.readings.symbol !== view.symbol) liqheat.adopt(answer.readings.symbol);
      const held = `${answer.readings.symbol} ${view.range} ${view.price || ""}`;
      if (held !== now.held) Object.assign(now, { held, zoomed: {}, revealed: null }); // a zoom is of these alone
      const { canonical } = liqheat.view.query === view.query ? liqheat.view : view;
      Object.assign(now, { query: view.query, canonical, etag, answer, loaded: Date.now(), mapDue: true });
      document.documentElement.dataset.banner = answer.readings.banner || liqheat.frozen ? "yes" : "";
      mark("shown");
      if (!liqheat.frozen) liqheat.follow(answer.readings.symbol);
      return settled([fit(answer.figure), answer.readings, null]);
    } catch (error) {
      if (flight.signal.aborted) return nothing;
      retry();
      mark(now.query !== null ? "stale" : "failed");
      return settled([still(), still(), unreachable()]);
    }

    function settled(result) {
      if (now.flight === flight) now.flight = null;
      if (now.again) {
        now.again = false;
        setTimeout(nudge, FOLLOW_MS);
      }
      return result;
    }
  };

  let retrying = null;
  function retry() {
    clearTimeout(retrying);
    retrying = setTimeout(nudge, RETRY_MS);
  }

  /* What to say when there is no chart: a value that cannot be shown, a worker that is still starting, a cache gone. */
  function failed(status, answer, view) {
    const h = liqheat.h;
    now.query = null;
    mark("failed");
    if (status === 422) {
      liqheat.follow(null); // a stream that is asked for what is not on offer is refused, with all other coins of it
      const rest = new URLSearchParams(view.query);
      rest.delete(answer.parameter);
      return h("Div", { className: "notice-body" },
        h("H2", {}, "This link asks for something that cannot be shown"),
        h("P", {}, h("Code", {}, `${answer.parameter}=${answer.value}`), ` is not possible. ${accepted(answer.accepted)}.`),
        h("A", { className: "button", href: `${location.pathname}?${rest}` }, `Leave out ${answer.parameter}`));
    }
    retry();
    const done = liqheat.format.finite(answer.progress) ? Math.round(answer.progress * 100) : null;
    return h("Div", { className: "notice-body" },
      h("H2", {}, done === null ? "No data at the moment" : `Reading history: ${done} %`),
      done !== null && h("Progress", { max: 100, value: String(done) }),
      h("P", {}, answer.reason || answer.error || `The server answered ${status}.`),
      h("P", { className: "dim" }, "This page goes on by itself."));
  }

  const accepted = (words) => (/^no such/.test(words) ? `There is ${words}` : `Accepted: ${words}`);

  const SILENT = "the server does not answer";
  const unreachable = () =>
    now.query !== null ? old(SILENT)
      : liqheat.h("Div", { className: "notice-body" }, liqheat.h("H2", {}, "The server does not answer"), "Trying again…");
  const old = (reason) => {
    const which = liqheat.view.canonical === now.canonical ? "" : "not of the view chosen, but of the one before, ";
    return liqheat.h("Div", { className: "notice-line" },
      `Old: ${reason}. The chart is ${which}as of ${liqheat.format.clock(now.answer.readings.as_of_ms, true)} UTC.`);
  };

  /* ---- size: pixels belong to the browser, so rows are laid out here ---- */

  const narrow = () => window.innerWidth < 760;
  const touch = () => window.matchMedia("(hover: none)").matches;
  const embedded = () => document.documentElement.dataset.page === "embed";

  function heights(rows, empty) {
    const box = plot();
    const footer = document.querySelector(".footer");
    const top = box ? box.getBoundingClientRect().top + window.scrollY : 150;
    now.top = top;
    const free = window.innerHeight - top - (embedded() && footer ? footer.offsetHeight : 30);
    if (embedded()) {
      // A frame has the size its page gave it: nothing may need scrolling.
      const shown = Math.max(0, Math.min(rows, Math.floor((free - LEAST.main) / (LEAST.row + ROW.gap))));
      const row = Math.max(LEAST.row, Math.min(ROW.wide, (free * 0.5) / Math.max(1, shown) - ROW.gap));
      return { row, shown, main: Math.max(120, Math.floor(free - shown * (row + ROW.gap))) };
    }
    const row = narrow() ? ROW.narrow : ROW.wide;
    const least = narrow() ? Math.min(420, window.innerHeight * 0.5) : 360;
    const below = rows * ROW.gap + (rows - empty) * row + empty * EMPTY_ROW;
    return { row, shown: rows, main: Math.round(narrow() ? least : Math.max(least, free - below)) };
  }

  /* Rows there is no height for. */
  function without(layout, data, keys) {
    const ids = keys.map((k) => k.replace("axis", ""));
    const tops = keys.map((k) => layout[k].domain[1]);
    const kept = (item) => !ids.includes(item.yref) && !(item.yref === "paper" && tops.includes(item.y));
    for (const key of keys) delete layout[key];
    layout.annotations = (layout.annotations || []).filter(kept);
    layout.shapes = (layout.shapes || []).filter(kept);
    return data.filter((t) => !ids.includes(t.yaxis));
  }

  const GRID = "rgba(128,140,160,.16)"; // lies over the picture of the levels

  const numbers = (axis, range) => range.map((end) => (axis === "x" ? liqheat.toMs(end) : end));
  const written = (axis, range) => (axis === "x" ? range.map((ms) => new Date(ms).toISOString().slice(0, -1)) : range);

  /* What the chart holds: beyond it nothing is loaded, which would look like prices without levels. */
  function whole(axis) {
    const [low, high] = numbers(axis, now.answer.figure.layout[`${axis}axis`].range);
    const [least, most] = (axis === "y" && now.revealed) || [low, high];
    return [Math.min(low, least), Math.max(high, most)];
  }

  /* A range moved, and if need be narrowed, into the whole. */
  const bounded = (liqheat.bounded = function (axis, range) {
    const [low, high] = whole(axis);
    const [from, to] = numbers(axis, range);
    const span = Math.min(to - from, high - low);
    const start = Math.min(Math.max(from, low), high - span);
    return [start, start + span];
  });
  const isWhole = (axis, [from, to]) => to - from > 0.999 * (whole(axis)[1] - whole(axis)[0]);

  /* As much time as is on screen, to its end. */
  liqheat.newest = function () {
    const [from, to] = numbers("x", graph("chart")._fullLayout.xaxis.range);
    const [, end] = whole("x");
    return written("x", [end - (to - from), end]);
  };

  /* What the reader has zoomed to stays while the whole moves on. */
  function keptRange(axis) {
    const gd = now.zoomed[axis] && graph("chart");
    return gd && gd._fullLayout ? written(axis, bounded(axis, gd._fullLayout[`${axis}axis`].range)) : null;
  }

  function fit(figure) {
    const layout = { ...figure.layout };
    const keys = Object.keys(layout).filter((k) => /^yaxis\d*$/.test(k) && !layout[k].overlaying);
    keys.sort((a, b) => (layout[b].domain || [0, 1])[1] - (layout[a].domain || [0, 1])[1]);
    const isEmpty = (key) => layout[key].showticklabels === false;
    const { row, shown, main } = heights(keys.length - 1, keys.filter(isEmpty).length);
    const rest = without(layout, figure.data, keys.splice(1 + shown));
    const margin = { l: 0, r: narrow() ? 52 : 62, t: narrow() || embedded() ? 6 : 18, b: 34 };
    const inner = main - margin.t - margin.b;
    const sizes = keys.map((key, i) => (i ? (isEmpty(key) ? EMPTY_ROW : row) : inner));
    const total = sizes.reduce((sum, size) => sum + size + ROW.gap, -ROW.gap);
    const moved = new Map();
    let top = total;
    keys.forEach((key, i) => {
      const height = sizes[i];
      const domain = [Math.max(0, (top - height) / total), top / total];
      moved.set((layout[key].domain || [0, 1])[1], domain[1]);
      const line = i && isEmpty(key) ? { showline: false } : {}; // Plotly draws none so short
      layout[key] = { ...layout[key], domain, automargin: false, showspikes: false, gridcolor: GRID, ...line };
      top -= height + ROW.gap;
    });
    layout.annotations = (layout.annotations || []).map((a) => {
      // Row titles move with their rows; the mark's label goes to the other prices, in the margin.
      if (a.yref === "paper" && moved.has(a.y)) return { ...a, y: moved.get(a.y) };
      return a.name === "mark" ? { ...a, xanchor: "left", yanchor: "middle" } : a;
    });
    const anchor = keys[keys.length - 1].replace("axis", "");
    layout.xaxis = { ...layout.xaxis, anchor, showspikes: false, gridcolor: GRID, range: keptRange("x") || layout.xaxis.range };
    layout.yaxis.range = keptRange("y") || layout.yaxis.range;
    const width = plot() ? plot().clientWidth : undefined;
    Object.assign(layout, { margin, width, height: total + margin.t + margin.b, autosize: false, hovermode: false });
    if (touch()) {
      // A finger scrolls the page and taps for a reading.
      layout.dragmode = false;
      for (const key of [...keys, "xaxis"]) layout[key] = { ...layout[key], fixedrange: true };
    }
    layout.uirevision = `${now.held} ${now.revision}`;
    layout.meta = { query: now.canonical, etag: now.etag };
    now.main = { inner, margin };
    setTimeout(watchPlot, 0);
    const heat = figure.data.find((t) => t.type === "heatmap");
    if (heat) layout.images = [liqheat.sheet(heat, inner * Math.min(2, window.devicePixelRatio || 1))];
    const data = liqheat.light(rest).map((t) => (narrow() ? smaller(t) : t));
    return { ...figure, data, layout };
  }

  /* Rings that do not hide the candles of a small chart. */
  function smaller(trace) {
    if (trace.mode !== "markers" || !trace.marker) return trace;
    const size = Array.from(liqheat.values(trace.marker.size), (s) => s * 0.55);
    return { ...trace, marker: { ...trace.marker, size, line: { ...trace.marker.line, width: 1 } } };
  }

  /* Money of a hover in the page's words; of the formats Plotly has, none says B for billions and three digits. */
  function worded(trace) {
    if (!trace.hovertemplate) return trace;
    const usd = Array.from(liqheat.values(trace.x));
    const customdata = usd.map(liqheat.format.usd);
    // Of a tier that has nothing at a price nothing is said.
    return trace.type === "bar" ? { ...trace, customdata, x: usd.map((x) => (x < LEAST_USD ? null : x)) } : { ...trace, customdata };
  }

  /* The map stands beside the heatmap with its prices at the same height. */
  function fitMap(figure) {
    const box = document.querySelector(".map-box");
    const beside = !narrow() && now.main;
    const margin = { l: 10, r: 10, t: beside ? now.main.margin.t : 20, b: 34 };
    const height = beside ? now.main.inner + margin.t + margin.b : 380;
    const { layout } = figure;
    const xaxis2 = { ...layout.xaxis2, tickfont: { ...layout.xaxis2.tickfont, size: 9 } };
    const range = keptRange("y") || layout.yaxis.range;
    const yaxis = { ...layout.yaxis, range, uirevision: String(range), showticklabels: !beside, side: "right", ticklabelposition: "inside" };
    const size = { width: box ? box.clientWidth : 280, height, autosize: false, showlegend: false };
    const shown = liqheat.measuredShown();
    const data = figure.data.filter((t) => t.meta !== "measured" || shown).map(worded);
    const annotations = layout.annotations.filter((a) => a.name !== "measured" || shown);
    return { ...figure, data, layout: { ...layout, xaxis2, yaxis, margin, annotations, ...size } };
  }

  /* The outline of measured positions, which can be switched off; that is kept in the browser. */
  const MEASURED = "liqheat-measured";
  let outlined = null;
  liqheat.measuredShown = function () {
    if (outlined !== null) return outlined;
    try {
      return localStorage.getItem(MEASURED) !== "off";
    } catch (error) {
      return true; // a browser that keeps nothing
    }
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("#measured-layer");
    if (!button || !now.answer) return;
    outlined = !liqheat.measuredShown();
    try {
      if (outlined) localStorage.removeItem(MEASURED);
      else localStorage.setItem(MEASURED, "off");
    } catch (error) {
      // until the page is left
    }
    button.setAttribute("aria-pressed", String(outlined));
    callbacks.set_props("map", { figure: fitMap(now.answer.map) });
  });

  function refit() {
    if (!now.answer) return;
    now.mapDue = true;
    callbacks.set_props("chart", { figure: fit(now.answer.figure) });
  }

  let resizing = null;
  window.addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(refit, 120);
  });

  /* What stands above the chart may have grown by a line. */
  liqheat.settle = () =>
    setTimeout(() => {
      const top = plot().getBoundingClientRect().top + window.scrollY;
      if ((!narrow() || embedded()) && Math.abs(top - now.top) > 2) refit();
    }, 60);

  /* ---- what the chart tells ---- */

  function painted(gd) {
    const { query, etag } = (gd.layout && gd.layout.meta) || {};
    if (query === undefined) return;
    if (now.mapDue) callbacks.set_props("map", { figure: fitMap(now.answer.map) });
    now.mapDue = false;
    liqheat.tellHeight(liqheat.view.panels.length);
    Object.assign(plot().dataset, { shown: query, etag: etag || "", painted: Math.round(performance.now()) });
  }

  function watchPlot() {
    const gd = graph("chart");
    if (!gd || !gd.on) return void setTimeout(watchPlot, 60);
    if (gd.dataset.watched) return;
    gd.dataset.watched = "yes";
    gd.on("plotly_afterplot", () => painted(gd));
    if (gd._fullLayout) painted(gd);
    gd.on("plotly_relayout", (change) => {
      const moved = ["x", "y"].filter((axis) => Object.keys(change).some((k) => k.startsWith(`${axis}axis.`)));
      const out = {};
      for (const axis of moved) {
        const range = numbers(axis, gd._fullLayout[`${axis}axis`].range);
        const inside = bounded(axis, range);
        now.zoomed[axis] = !isWhole(axis, inside);
        if (Math.abs(inside[0] - range[0]) + Math.abs(inside[1] - range[1]) > 0.001 * (range[1] - range[0])) out[`${axis}axis.range`] = written(axis, inside);
      }
      if (Object.keys(out).length) return void window.Plotly.relayout(gd, out); // which is told in its turn
      if (moved.includes("y")) followZoom();
    });
    gd.on("plotly_doubleclick", liqheat.showAll);
    liqheat.attachCross(gd);
    liqheat.attachKeys(gd);
    liqheat.attachOverlay(gd);
  }

  /* Forget every zoom: a new revision drops what the user has changed. */
  liqheat.showAll = function () {
    Object.assign(now, { zoomed: {}, revealed: null, revision: now.revision + 1 });
    refit();
  };

  /* Prices beyond the whole that something drawn over the chart lies at. */
  liqheat.widen = (low, high) => {
    const [least, most] = now.revealed || [low, high];
    now.revealed = [Math.min(low, least), Math.max(high, most)];
  };

  function followZoom() {
    const gd = graph("chart");
    const map = graph("map");
    if (map && map._fullLayout) window.Plotly.relayout(map, { "yaxis.range": [...gd._fullLayout.yaxis.range] });
  }

  /* Prices of the heatmap's window as it is zoomed. */
  liqheat.priceWindow = function () {
    const gd = graph("chart");
    if (!gd || !gd._fullLayout) return null;
    const axis = gd._fullLayout.yaxis;
    const ends = axis.range.map((r) => axis.r2p && Number(axis.type === "log" ? 10 ** r : r)).sort((a, b) => a - b);
    return ends.map((p) => Number(p.toPrecision(5)));
  };

  liqheat.answer = () => now.answer;

  /* ---- live ---- */

  /* What the server tells moves the price at once; the chart follows at its own pace. */
  liqheat.told = (markets) => {
    now.heard = Date.now();
    callbacks.set_props("live", { data: { heard: now.heard, markets } });
  };
  callbacks.liqheat.pulse = function (live, readings) {
    const fresh = (callbacks.callback_context.triggered || []).some((t) => t.prop_id.startsWith("live"));
    if (fresh && readings && live.markets.some((m) => isNews(m, readings))) follow();
    return liqheat.priceTag(fresh ? live.markets : [], readings);
  };

  /* What is told first, as a stream opens, the chart shows already. */
  function isNews(market, readings) {
    const shown = readings.venues.find((v) => v.market === market.market);
    return shown ? market.as_of_ms > shown.as_of_ms : !liqheat.view.venues.length; // one that joins, or one left out
  }

  let following = null;
  function follow() {
    if (following || document.hidden) return;
    // Not at once: the server's list of markets may be a quarter of a second old.
    const wait = Math.max(SETTLE_MS, now.loaded + FOLLOW_MS - Date.now());
    following = setTimeout(() => {
      following = null;
      if (!liqheat.dragging) nudge();
    }, wait);
  }

  /* Nothing told for long: ask. While the server tells that nothing moves, ask now and then whether that is so. */
  setInterval(() => {
    if (document.hidden || !liqheat.view || now.flight || liqheat.frozen) return;
    if (Date.now() - now.loaded > (Date.now() - now.heard > SILENCE_MS ? RETRY_MS * 2 : QUIET_MS)) nudge();
  }, 3000);
  document.addEventListener("visibilitychange", () => !document.hidden && liqheat.view && !liqheat.frozen && nudge());

  // The page's code is still loading; its chart can be on the way already.
  liqheat.askAhead(liqheat.asked());
})();
