/* Clusters of levels, ranked as magnets, with their outlines on the chart; and where a stop would go. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const f = liqheat.format;
  const { el, money } = liqheat;
  const SHOWN = 6;
  const OUTLINED = 12;
  const TYPED_MS = 300;

  const chosen = { outlines: true, marked: null, all: false, side: "long", liquidation: "", stopShown: false };

  const share = (x, places) => `${(100 * x).toFixed(places)} %`;
  const short = (x) => (x >= 10000 ? Math.round(x).toLocaleString("en-US") : f.price(x));
  const band = (c) => `${short(c.low)}–${short(c.high)}`;
  const keyOf = (c) => `${c.side} ${c.price}`;
  // While the price moves a cluster's middle does too: the marked one is the one that lies where it lay.
  const isMarked = (c) => chosen.marked && chosen.marked.side === c.side && chosen.marked.price >= c.low && chosen.marked.price <= c.high;

  /* ---- on the chart ---- */

  function outlines(answer) {
    const all = liqheat.unfiltered(["tiers"]);
    const marked = answer.clusters.filter(isMarked);
    const drawn = chosen.outlines ? answer.clusters.slice(0, OUTLINED).filter((c) => !isMarked(c)) : [];
    liqheat.draw("magnets", [
      ...drawn.map((c) => ({ low: c.low, high: c.high, cls: `outline ${c.side}`, now: true, right: true, label: `${f.usd(c.mass_usd)}${all && `, ${all}`}` })),
      ...marked.map((c) => ({ low: c.low, high: c.high, cls: `outline marked ${c.side}`, now: true, right: true, edge: true, label: `${c.side}s ${f.usd(c.mass_usd)}${all && `, ${all},`} ${f.percent(c.distance, 1)}` })),
    ]);
    const stop = chosen.stopShown && answer.stops[chosen.side];
    liqheat.draw("stop", stop && stop.price ? [{ price: stop.price, cls: "stop", edge: true, label: `stop ${f.price(stop.price)}` }] : []);
  }

  function mark(cluster) {
    chosen.marked = isMarked(cluster) ? null : { side: cluster.side, price: cluster.price };
    panel.redraw();
    if (chosen.marked) liqheat.reveal(cluster.low, cluster.high);
  }

  /* ---- the list ---- */

  function row(c, i) {
    const score = c.magnet_score === null ? "score not known" : `score ${share(c.magnet_score, 2)}`;
    const words = `${c.side}s between ${band(c)}, ${f.percent(c.distance, 1)} away, about ${f.usd(c.mass_usd)}`;
    const marked = Boolean(isMarked(c));
    return el("li", {},
      el("button", { type: "button", class: "magnet", "data-key": keyOf(c), "aria-pressed": String(marked), "aria-label": `${i + 1}: ${words}. Mark on the chart`, onclick: () => mark(c) },
        el("span", { class: "first" },
          el("i", { class: `dot ${c.side}`, "aria-hidden": "true" }), el("b", { class: "number" }, band(c)),
          el("span", { class: "number" }, f.percent(c.distance, 1)), money(c.mass_usd, c.side)),
        el("span", { class: "second dim" },
          el("span", { title: "Share of open interest" }, `${c.side}s · ${share(c.share_of_open_interest, 2)} OI`),
          el("span", { title: `Chance that a driftless random walk touches ${f.price(c.price)} within 24 h` }, `touch ${liqheat.chance(c.touch_probability)}`),
          el("span", { title: "Share of open interest × chance of being touched. Unproven." }, score))));
  }

  const nearest = (clusters, side) =>
    clusters.filter((c) => c.side === side).sort((a, b) => Math.abs(a.distance) - Math.abs(b.distance))[0];

  function near(clusters, side, where) {
    const c = nearest(clusters, side);
    return el("div", {}, el("span", { class: "dim" }, `Next ${where}`),
      c ? el("span", { class: "number" }, el("b", {}, f.price(c.price)), ` ${f.percent(c.distance, 1)} `, money(c.mass_usd, side)) : el("span", { class: "dim" }, "none stands out"));
  }

  function list(answer) {
    const { clusters } = answer;
    if (!clusters.length) return [el("p", { class: "empty" }, "No cluster stands out within 15 % of the price.")];
    const shown = chosen.all ? clusters : clusters.slice(0, SHOWN);
    const more = () => {
      chosen.all = !chosen.all;
      panel.redraw();
    };
    return [
      el("div", { class: "pairs" }, near(clusters, "short", "above"), near(clusters, "long", "below")),
      el("ol", { class: "magnets" }, ...shown.map(row)),
      clusters.length > SHOWN && el("button", { type: "button", class: "quiet", "data-key": "more", onclick: more }, chosen.all ? "Fewer" : `All ${clusters.length}`),
    ];
  }

  function show(answer, out) {
    const all = liqheat.unfiltered(["tiers", "side"]);
    out.replaceChildren(
      ...(all ? [el("p", { class: "note unfiltered" }, `Here: ${all}.`)] : []),
      ...list(answer).filter(Boolean),
      ...answer.missing.map((text) => el("p", { class: "note" }, `Not known: ${text}.`)),
      el("p", { class: "note" }, `Magnet score: share of open interest × chance of being touched in 24 h; ${answer.magnet}. Levels estimated`,
        answer.origin === "live" ? "" : `, market ${answer.origin}`, `, as of ${f.clock(answer.as_of_ms, true)} UTC.`),
    );
    outlines(answer);
    stop.replaceChildren(...stopWords(answer.stops[chosen.side], chosen.side));
    const [above, below] = ["short", "long"].map((side) => nearest(answer.clusters, side));
    return [above && el("span", { class: "number short" }, `▲ ${f.percent(above.distance, 1)} `), below && el("span", { class: "number long" }, `▼ ${f.percent(below.distance, 1)}`)].filter(Boolean);
  }

  /* ---- stop helper ---- */

  const stop = el("p", { class: "stop-words", "aria-live": "polite" });

  /* Where a stop goes and why, or why there is none; for the position calculator too. */
  function stopWords(told, side) {
    const c = told.cluster;
    const all = liqheat.unfiltered(["tiers"]);
    if (told.price === null) return [el("b", {}, "No stop is proposed: "), `${told.refused}.`];
    return [
      el("b", { class: "number" }, `Stop at ${f.price(told.price)}. `),
      `The nearest cluster of ${side}s against it, about ${f.usd(c.mass_usd)}${all && ` (${all})`} at ${band(c)}, ends at ${f.price(side === "long" ? c.low : c.high)}; ` +
        `the stop lies ${f.price(told.room)} beyond: a quarter of the hourly ATR, at least 0.1 % of the price.`,
    ];
  }
  liqheat.stopWords = stopWords;

  let typing = null;
  function helper() {
    const radio = (side) =>
      el("label", { class: "choice" }, el("input", { type: "radio", name: "stop-side", value: side, checked: side === chosen.side, onchange: () => {
        chosen.side = side;
        panel.redraw();
      } }), side);
    const typed = (event) => {
      clearTimeout(typing);
      chosen.liquidation = event.target.value;
      typing = setTimeout(panel.ask, TYPED_MS);
    };
    const onChart = (event) => {
      chosen.stopShown = event.target.checked;
      panel.redraw();
    };
    return el("fieldset", { class: "stop-helper" },
      el("legend", {}, "Stop helper"),
      el("div", { class: "fields" },
        el("div", { class: "choices", role: "radiogroup", "aria-label": "Side of the position" }, radio("long"), radio("short")),
        el("label", { class: "field" }, el("span", {}, "Own liquidation price, if any"),
          el("input", { type: "number", inputmode: "decimal", min: "0", step: "any", id: "stop-liquidation", oninput: typed }))),
      stop,
      el("label", { class: "check" }, el("input", { type: "checkbox", onchange: onChart }), "Stop on the chart"));
  }

  const panel = liqheat.panel({
    id: "magnets",
    every: 10000,
    query: (about) => `/api/v1/clusters?${about}${Number(chosen.liquidation) > 0 ? `&liquidation=${Number(chosen.liquidation)}` : ""}`,
    build: (out) => [
      el("label", { class: "check" }, el("input", { type: "checkbox", id: "outlines", checked: chosen.outlines, onchange: (event) => {
        chosen.outlines = event.target.checked;
        panel.redraw();
      } }), "Outline clusters on the chart"),
      out,
      helper(),
    ],
    show,
    clear: () => {
      stop.replaceChildren();
      liqheat.draw("magnets", []);
      liqheat.draw("stop", []);
    },
    always: () => chosen.outlines || chosen.stopShown || chosen.marked !== null,
    refused: (answer) => `${answer.parameter} cannot be ${answer.value}: ${answer.accepted}.`,
  });
})();
