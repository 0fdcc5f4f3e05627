/* The address is the view: query string <-> controls. What the values may be comes from dashboard/view.py (#schema). */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const callbacks = (window.dash_clientside = window.dash_clientside || {});
  callbacks.liqheat = callbacks.liqheat || {};

  const root = document.documentElement;
  const same = (a, b) => a.length === b.length && a.every((x) => b.includes(x));
  const list = (text, all) => (text === null || text === "all" ? all : text.split(",").filter((x) => all.includes(x)));

  /* The view of a query string, for the controls. Lenient: the server is asked with the text as it stands and names
     what is wrong in it. */
  function read(search, schema) {
    const given = new URLSearchParams(search);
    const tiers = Object.keys(schema.tiers);
    const view = { symbol: given.get("symbol") || home || schema.default_symbol };
    const venues = given.get("venues");
    view.venues = venues && venues !== "all" ? venues.split(",") : [];
    for (const [name, choices] of Object.entries(schema.choices)) {
      view[name] = choices.includes(given.get(name)) ? given.get(name) : schema.defaults[name];
    }
    view.tiers = list(given.get("tiers"), tiers);
    if (!view.tiers.length) view.tiers = tiers;
    view.panels = list(given.get("panels"), schema.panels);
    view.min = given.get("min") === null ? 0 : Number(given.get("min"));
    view.max = given.get("max") === null ? 1 : Number(given.get("max"));
    if (!(0 <= view.min && view.min < view.max && view.max <= 1)) [view.min, view.max] = [0, 1];
    const price = (given.get("price") || "").split(",").map(Number);
    view.price = price.length === 2 && price[0] > 0 && price[1] > price[0] ? price : null;
    return view;
  }

  /* The shortest query string of a view: the symbol always, the rest where it differs from the default. */
  function write(view, schema) {
    const tiers = Object.keys(schema.tiers);
    const parts = [["symbol", view.symbol]];
    if (view.venues.length) parts.push(["venues", [...view.venues].sort().join(",")]);
    if (view.range !== schema.defaults.range) parts.push(["range", view.range]);
    if (!same(view.tiers, tiers)) parts.push(["tiers", tiers.filter((t) => view.tiers.includes(t)).join(",")]);
    for (const name of ["side", "lens"]) if (view[name] !== schema.defaults[name]) parts.push([name, view[name]]);
    if (view.min > 0) parts.push(["min", String(view.min)]);
    if (view.max < 1) parts.push(["max", String(view.max)]);
    if (view.price) parts.push(["price", view.price.map(String).join(",")]);
    if (!same(view.panels, schema.panels)) {
      parts.push(["panels", schema.panels.filter((p) => view.panels.includes(p)).join(",") || "none"]);
    }
    for (const name of ["palette", "theme"]) if (view[name] !== schema.defaults[name]) parts.push([name, view[name]]);
    return parts.map(([name, value]) => `${name}=${encodeURIComponent(value).replace(/%2C/g, ",")}`).join("&");
  }

  /* An address without a coin shows the first market's; only the server knows which that is. */
  let home = null;
  liqheat.adopt = function (symbol) {
    home = symbol;
    const view = { ...liqheat.view, symbol };
    view.canonical = write(view, liqheat.schema);
    liqheat.view = view;
    callbacks.set_props("view", { data: view });
  };

  const triggers = () => (callbacks.callback_context.triggered || []).map((t) => t.prop_id.split(".")[0]);

  /* One callback for both directions: which one is told by what triggered it. */
  callbacks.liqheat.route = function (search, ...rest) {
    const schema = rest.pop();
    const still = callbacks.no_update;
    const from = triggers();
    const byAddress = !from.length || from.includes("url");
    const view = byAddress ? read(liqheat.asked(), schema) : chosen(rest, from, schema);
    // A control that was set to say what the address says already must not touch the address.
    if (!byAddress && write(view, schema) === liqheat.view.canonical) return Array(15).fill(still);
    view.query = byAddress ? liqheat.asked() : write(view, schema);
    view.canonical = write(view, schema);
    Object.assign(root.dataset, { theme: view.theme, palette: view.palette, side: view.side });
    liqheat.carry(view);
    liqheat.view = view;
    const [low, high] = view.price || ["", ""];
    liqheat.askAhead(view.query);
    if (!byAddress) {
      // The controls say it already, but for what one of them implies for another.
      const prices = from.includes("symbol") ? ["", ""] : [still, still];
      const [venues, tiers] = [liqheat.venuesShown(view), view.tiers];
      const controls = [still, venues, still, tiers, still, still, still, ...prices, still, still, still];
      return ["?" + view.query, ...controls, view, view.theme];
    }
    if (from.length && !liqheat.frozen) callbacks.set_props("price-high", { error: null });
    const scale = [Math.round(view.min * 100), Math.round(view.max * 100)];
    const controls = [
      view.symbol, liqheat.venuesShown(view), view.range, view.tiers, view.side, view.lens, scale, low, high,
      view.panels, view.palette, view.theme,
    ];
    return [still, ...controls, view, view.theme];
  };

  function chosen(values, from, schema) {
    const [coin, venues, range, tiers, side, lens, scale, low, high, panels, palette, theme] = values;
    const before = liqheat.view;
    const symbol = coin || before.symbol; // the field is empty while it does not know the coin of the address
    const view = { symbol, range, tiers, side, lens, panels, palette, theme };
    const other = symbol !== before.symbol;
    const inverted = !other && low > 0 && high > 0 && low >= high;
    callbacks.set_props("price-high", { error: inverted ? "not above From" : null });
    // Another coin trades elsewhere and at another price.
    view.venues = other ? [] : from.includes("venues") ? liqheat.venuesChosen(venues) : before.venues;
    view.price = inverted ? before.price : other || !(low > 0 && high > 0) ? null : [Number(low), Number(high)];
    if (!tiers.length) view.tiers = Object.keys(schema.tiers);
    [view.min, view.max] = scale.map((x) => x / 100);
    return view;
  }

  /* Every venue ticked is spelled as none named. */
  liqheat.offered = [];
  liqheat.venuesShown = (view) => (view.venues.length ? view.venues : liqheat.offered);
  liqheat.venuesChosen = (venues) => (!venues.length || same(venues, liqheat.offered) ? [] : venues);

  /* A range under the pointer may be the next one wanted. */
  document.addEventListener("pointerover", (event) => {
    const label = event.target.closest && event.target.closest("#range label");
    const name = label && label.textContent.trim();
    if (!name || !liqheat.schema || !liqheat.view || name === liqheat.view.range) return;
    if (liqheat.schema.choices.range.includes(name)) liqheat.askAhead(write({ ...liqheat.view, range: name }, liqheat.schema));
  });

  callbacks.liqheat.label = function (view, schema) {
    if (!view) return Array(10).fill(callbacks.no_update);
    liqheat.schema = schema;
    const count = (some, all, names) =>
      some.length === all.length ? "all" : some.length ? some.map((x) => names[x] || x).join(", ") : "none";
    const venues = view.venues.length ? view.venues.map(liqheat.venueName).join(", ") : "all";
    const price = view.price ? view.price.map(liqheat.format.price).join("–") : "auto";
    const tiers = count(view.tiers, Object.keys(schema.tiers), schema.tiers);
    const panels = view.panels.length === schema.panels.length ? "all" : `${view.panels.length} of ${schema.panels.length}`;
    return [
      venues, tiers, `${Math.round(view.min * 100)}–${Math.round(view.max * 100)} %`, price, panels,
      { redgreen: "red/green", colorblind: "safe", mono: "one" }[view.palette],
      ...liqheat.downloads(view),
    ];
  };

  /* The price window of the view: as zoomed on the chart, or automatic. */
  callbacks.liqheat.window = function () {
    const price = triggers()[0] === "price-zoom" ? liqheat.priceWindow() : null;
    callbacks.set_props("url", { search: "?" + write({ ...liqheat.view, price }, liqheat.schema) });
    return callbacks.no_update;
  };
})();
