/* A change of the price and what it would set off: a band between a mild and a harsh market, on the chart too. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const f = liqheat.format;
  const { el, money } = liqheat;
  const MOVED_MS = 120;
  const BEYOND = "beyond the known levels";
  const THIN = { 1: "as usual", 2: "twice as thin", 5: "five times as thin", 10: "ten times as thin" };

  const asked = { change: -3, stress: 1 };
  const said = el("output", { class: "number", for: "cascade-change" });
  const tell = () => (said.textContent = asked.change ? f.percent(asked.change / 100, 1) : "0 %");

  let moving = null;
  function move(event) {
    asked.change = Number(event.target.value);
    tell();
    event.target.setAttribute("aria-valuetext", said.textContent);
    clearTimeout(moving);
    moving = setTimeout(ask, MOVED_MS);
  }

  function ask() {
    if (!asked.change) {
      liqheat.draw("cascade", []);
      panel.forget();
    }
    panel.ask();
  }

  /* The shock, how far a mild market runs on, and how much farther a harsh one. */
  function bands(answer) {
    const { side, change, lower, upper } = answer.cascades[0];
    const start = answer.mark_price * (1 + change);
    const where = (end) => (end.beyond_known ? BEYOND : `to ${f.percent(end.change, 1)}`);
    const zone = (a, b) => ({ low: Math.min(a, b), high: Math.max(a, b), edge: true });
    liqheat.draw("cascade", [
      { price: start, cls: "shock", edge: true, label: `if ${f.percent(change, 1)}` },
      { ...zone(start, lower.price), cls: `cascade mild ${side}`, label: `mild: ${where(lower)}` },
      { ...zone(lower.price, upper.price), cls: `cascade harsh ${side}`, label: `harsh: ${where(upper)}` },
    ]);
  }

  const branching = (x) => `${x.toFixed(2)}${x > 1 ? " runs on" : ""}`;

  const known = (end, words) => (end.beyond_known ? "–" : words);

  function table({ side, lower, upper }) {
    const row = (name, title, cell) =>
      el("tr", {}, el("th", { scope: "row", title }, name), el("td", { class: "number", title }, cell(lower)), el("td", { class: "number", title }, cell(upper)));
    return el("table", { class: "ends" },
      el("thead", {}, el("tr", {}, el("td", {}), el("th", { scope: "col", title: `${lower.impact} impact` }, "mild"), el("th", { scope: "col", title: `${upper.impact} impact` }, "harsh"))),
      el("tbody", {},
        row("Runs to", "Price where it stops", (e) => (e.beyond_known ? `past ${f.price(e.price)}` : f.price(e.price))),
        row("Change", "From the mark", (e) => known(e, f.percent(e.change, 2))),
        row("Liquidates", `Estimated ${side}s, USD`, (e) => [e.beyond_known ? "≥ " : "", money(e.liquidated_usd, side)]),
        row("Amplification", "How many times the shock the whole move is", (e) => known(e, `${e.amplification.toFixed(2)} ×`)),
        row("Branching", "How many further liquidations one sets off where the move stops: near 0 it dies out, above 1 they keep one another going", (e) => known(e, branching(e.branching)))));
  }

  const brief = (end) => (end.beyond_known ? "not known" : f.percent(end.change, 1));

  function show(answer, out) {
    const found = answer.cascades[0];
    if (!found) {
      liqheat.draw("cascade", []);
      out.replaceChildren(el("p", { class: "empty" }, `It cannot be told: ${answer.missing.join("; ")}.`));
      return ["not known"];
    }
    const beyond = [found.lower, found.upper].filter((e) => e.beyond_known).length;
    out.replaceChildren(
      table(found),
      beyond ? el("p", { class: "beyond" }, `${beyond === 2 ? "Even the mild end" : "The harsh end"} runs beyond the known levels: what lies farther out is not known, nor is how far it runs.`) : "",
      el("p", { class: "note" }, `A band between two impact models, not a forecast. A day's volume ${f.usd(answer.daily_volume_usd)}, volatility ${(100 * answer.daily_volatility).toFixed(1)} %; levels estimated`,
        answer.origin === "live" ? "" : `, market ${answer.origin}`, `, as of ${f.clock(answer.as_of_ms, true)} UTC.`),
    );
    bands(answer);
    return [el("span", { class: "number" }, `${f.percent(found.change, 1)} → ${brief(found.lower)} … ${brief(found.upper)}`)];
  }

  const panel = liqheat.panel({
    id: "cascade",
    every: 15000,
    query: (about) => (asked.change ? `/api/v1/cascade?${about}&change=${asked.change / 100}&stress=${asked.stress}` : null),
    idle: "Move the slider away from 0.",
    build: (out) => {
      tell();
      const stress = el("select", { id: "cascade-stress", onchange: (event) => {
        asked.stress = Number(event.target.value);
        panel.ask();
      } }, ...Object.entries(THIN).map(([n, words]) => el("option", { value: n }, words)));
      return [
        el("div", { class: "slider" },
          el("label", { for: "cascade-change" }, "If the price moves by"), said,
          el("input", { type: "range", id: "cascade-change", min: "-15", max: "15", step: "0.5", value: String(asked.change), "aria-valuetext": said.textContent, oninput: move }),
          el("div", { class: "ends-of dim", "aria-hidden": "true" }, el("span", {}, "−15 %"), el("span", {}, "0"), el("span", {}, "+15 %"))),
        el("label", { class: "field inline" }, el("span", {}, "Harsh market"), stress),
        out,
      ];
    },
    show,
    clear: () => liqheat.draw("cascade", []),
    always: () => panel.isOpen(),
    refused: (answer) => `${answer.parameter} cannot be ${answer.value}: ${answer.accepted}.`,
  });
})();
