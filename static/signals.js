/* Combined readings of the last full hour and the phase of the market, each with its inputs in words. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const f = liqheat.format;
  const { el } = liqheat;

  const NAMES = { overheated_long: "Overheated longs", short_squeeze: "Short squeeze", crowded: "Crowded on both sides", washout: "Washout" };
  const HOLDS = { true: ["holds", "✓"], false: ["does not hold", "✗"], null: ["not known", "?"] };
  const opened = new Set();
  const first = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  function input(one) {
    const [words, sign] = HOLDS[one.passed];
    return el("li", { "data-holds": String(one.passed), title: words }, el("span", { class: "sign", "aria-label": words, role: "img" }, sign), first(one.text));
  }

  function condition(one) {
    if (one.inputs.length === 1) return input(one.inputs[0]);
    const [words, sign] = HOLDS[one.passed];
    return el("li", { "data-holds": String(one.passed) }, el("span", { class: "sign", "aria-label": words, role: "img" }, sign),
      one.any_of ? "One of these" : "All of these", el("ul", {}, ...one.inputs.map(input)));
  }

  function part(key, head, state, words, ...content) {
    const box = el("details", { class: "reading", open: opened.has(key), "data-active": state },
      el("summary", { "data-key": key }, el("span", {}, head), el("span", { class: "verdict" }, words)), ...content);
    box.addEventListener("toggle", () => (box.open ? opened.add(key) : opened.delete(key)));
    return box;
  }

  const passed = (conditions) => conditions.filter((c) => c.passed).length;

  function reading(one) {
    const verdict = one.active === null ? "not known" : one.active ? "yes" : "no";
    const count = `${verdict} · ${passed(one.conditions)} of ${one.conditions.length}`;
    return part(one.name, NAMES[one.name] || one.name, verdict, count,
      el("p", {}, one.text.split(". ")[0].replace(/\.?$/, ".")),
      one.since_ms && el("p", { class: "dim" }, `Since ${f.day(one.since_ms)} ${f.clock(one.since_ms)} UTC.`),
      el("ul", { class: "conditions" }, ...one.conditions.map(condition)),
      one.ends.length > 0 && one.active !== false && el("p", { class: "dim" }, "It is over once:"),
      one.ends.length > 0 && one.active !== false && el("ul", { class: "conditions" }, ...one.ends.map(condition)));
  }

  function phase(told) {
    const since = told.since_ms ? `since ${f.day(told.since_ms)} ${f.clock(told.since_ms)} UTC` : "";
    const name = told.phase === null ? "not known" : told.phase === "none" ? "none of the four" : told.phase;
    return [
      el("p", { class: "phase" }, el("span", { class: "dim" }, "Cycle phase "), el("b", {}, first(name)), el("span", { class: "dim" }, since && ` ${since}`)),
      part("phase", "Why this phase", "", `${told.tests.length} tests`, el("p", {}, told.text),
        ...told.tests.map((test) => el("div", { class: "test" },
          el("b", {}, `${first(test.name)}: ${test.active === null ? "not known" : test.active ? "holds" : "does not hold"}`),
          el("ul", { class: "conditions" }, ...test.conditions.map(condition))))),
    ];
  }

  function show(answer, out) {
    const known = answer.readings.some((r) => r.conditions.some((c) => c.passed !== null));
    out.replaceChildren(
      ...(known ? [] : [el("p", { class: "empty" }, "Too few hours are known for most of these readings.")]),
      ...phase(answer.phase),
      ...answer.readings.map(reading),
      el("p", { class: "note" }, `Hour to ${f.clock(answer.as_of_ms)} UTC, ${f.day(answer.as_of_ms)}. Readings, not forecasts: they rest on estimated levels`,
        answer.origin === "live" ? "." : ` of a ${answer.origin} market.`),
    );
    const active = answer.readings.filter((r) => r.active).map((r) => NAMES[r.name] || r.name);
    return [answer.phase.phase === null ? "phase not known" : answer.phase.phase === "none" ? "no phase" : answer.phase.phase, active.length ? ` · ${active.join(", ")}` : ""];
  }

  liqheat.panel({
    id: "signals",
    every: 60000,
    query: (about) => `/api/v1/signals?${about}`,
    build: (out) => [out],
    show,
    clear: () => {},
    always: () => false,
    refused: (answer) => `${answer.parameter} cannot be ${answer.value}: ${answer.accepted}.`,
  });
})();
