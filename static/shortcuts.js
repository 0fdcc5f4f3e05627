/* What single keys do on the heatmap's page; the help sheet lists it. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  if (document.documentElement.dataset.page === "embed") return;
  const ZOOM = 0.8;
  const choose = (control, value) => window.dash_clientside.set_props(control, { value });

  /* The next of the choices of a control of the view. */
  function next(name) {
    const { [name]: choices } = liqheat.schema.choices;
    choose(name, choices[(choices.indexOf(liqheat.view[name]) + 1) % choices.length]);
  }
  function toggleRow(name) {
    const { panels } = liqheat.view;
    choose("panels", panels.includes(name) ? panels.filter((p) => p !== name) : [...panels, name]);
  }
  function togglePanel(id) {
    const panel = document.getElementById(id);
    const summary = panel.querySelector("summary");
    panel.open = !panel.open || document.activeElement !== summary;
    summary.focus();
    summary.scrollIntoView({ block: "nearest" });
  }
  /* What is typed into the coin field takes the place of the coin in it: on coming there, and after a choice. */
  const isCoinField = (target) => target.id === "symbol";
  function selectCoin({ target }) {
    if (!isCoinField(target)) return;
    const { value } = target;
    target.select();
    setTimeout(() => target.value === value && target.select(), 0); // the browser may yet put the caret under the pointer
  }
  document.addEventListener("focusin", selectCoin);
  document.addEventListener("click", selectCoin);
  document.addEventListener("keydown", ({ target, key }) => {
    if (isCoinField(target) && key.length === 1 && !target.dataset.expanded) target.select();
  }, true);

  const openMenu = (label) => document.getElementById(label).closest("button").click();
  function findCoin() {
    const field = document.getElementById("symbol");
    field.focus();
    field.click();
  }

  const chosen = (keys, words, does, shown) => ({ keys: [].concat(keys), words, shown, does: (key) => liqheat.view && liqheat.schema && does(key) });
  const each = (does, entries) => entries.map(([key, words, name]) => chosen(key, words, () => does(name)));
  if (!liqheat.frozen) {
    liqheat.shortcuts("View", [
      chosen("12345678".split(""), "Range, from 12 hours to a year", (key) => choose("range", liqheat.schema.choices.range[Number(key) - 1]), ["1", "…", "8"]),
      chosen("c", "Coin", findCoin),
      chosen("v", "Venues", () => openMenu("venues-label")),
      chosen("n", "Next lens", () => next("lens")),
      chosen("s", "Both sides, longs, shorts", () => next("side")),
      chosen("e", "Leverage tiers", () => openMenu("tiers-label")),
      chosen("k", "Next colours", () => next("palette")),
      chosen("t", "Dark or light", () => next("theme")),
    ]);
    liqheat.shortcuts("Rows under the chart", each(toggleRow, [
      ["l", "Liquidations", "liq"], ["f", "Funding", "funding"], ["r", "RSI", "rsi"], ["a", "Long/short accounts", "lsr"], ["o", "Open interest", "oi"],
    ]));
    liqheat.shortcuts("Panels", each(togglePanel, [
      ["m", "Magnets and stop", "magnets"], ["g", "Signals and phase", "signals"], ["w", "Cascade what-if", "cascade"], ["p", "Position calculator", "position"],
    ]));
  }
  liqheat.shortcuts("Chart", [
    { keys: ["x"], words: "To the chart: the reading at the price of now", does: () => document.querySelector(".plot").focus({ preventScroll: true }) },
    { keys: ["Arrows"], shown: ["←", "→", "↑", "↓"], words: "On the chart: move the reading; with Shift, further" },
    { keys: ["Home", "End"], words: "On the chart: the first column, the last" },
    { keys: ["PageUp", "PageDown"], shown: ["Page ↑", "Page ↓"], words: "On the chart: higher prices, lower prices" },
    { keys: ["+", "="], shown: ["+"], words: "Fewer prices", does: () => liqheat.zoomBy(ZOOM) },
    { keys: ["-"], shown: ["−"], words: "More prices", does: () => liqheat.zoomBy(1 / ZOOM) },
    { keys: ["0"], words: "The whole view again", does: () => liqheat.showAll() },
  ]);
})();
