/* What becomes of a position: worked out by this server, drawn on the chart, kept in this page and nowhere else. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const f = liqheat.format;
  const { el } = liqheat;
  const TYPED_MS = 300;
  const MOST_OTHERS = 16;
  const PRIVATE = "What is typed here stays in this page: not in its link, not stored. It goes to this server to be worked out, and to nobody else.";

  const typed = { side: "long", mode: "isolated", size: "10000", unit: "usd", backing: "10", by: "leverage" };
  const backings = { isolated: "10", cross: "1000" }; // a leverage, and the balance of an account
  let others = [];
  let form = null;

  /* ---- what is asked ---- */

  // Field of the form -> parameter of the route, and what a typed number is divided by.
  const PLAIN = { entry: ["entry"], add: ["add"], close: ["close", 100], close_price: ["close_price"], days: ["days"], funding: ["funding_8h", 100],
    rate: ["maintenance_rate", 100], fee: ["fee", 100], call: ["call", 100] };
  const FIELD = { quantity: "size", notional_usd: "size", leverage: "backing", margin: "backing", entry_price: "entry", extra_margin: "add",
    close_share: "close", funding_8h: "funding", funding_rate_8h: "funding", maintenance_rate: "rate" };
  const filled = (x) => x !== undefined && x !== "";
  const number = (x, by) => String(Number((Number(x) / (by || 1)).toPrecision(12)));

  function question() {
    if (!filled(typed.size) || !filled(typed.backing)) return null;
    const asked = new URLSearchParams({ symbol: liqheat.view.symbol, side: typed.side, mode: typed.mode });
    if (typed.venue) asked.set("venue", typed.venue);
    asked.set(typed.unit === "usd" ? "notional_usd" : "quantity", number(typed.size));
    asked.set(typed.mode === "cross" ? "margin" : typed.by, number(typed.backing));
    for (const [name, [parameter, by]] of Object.entries(PLAIN)) if (filled(typed[name])) asked.set(parameter, number(typed[name], by));
    if (filled(typed.tiers)) asked.set("tiers", typed.tiers.replace(/\s/g, ""));
    const whole = others.filter((o) => o.coin && filled(o.entry) && filled(o.quantity));
    if (typed.mode === "cross" && whole.length) {
      const spelled = (o) => [o.coin.toUpperCase(), o.side, number(o.entry), number(o.quantity), filled(o.mark) ? number(o.mark) : "", number(filled(o.rate) ? o.rate : 1, 100)].join(":");
      asked.set("others", whole.map(spelled).join(","));
    }
    return `/api/v1/position?${asked}`;
  }

  let typing = null;
  function later() {
    clearTimeout(typing);
    typing = setTimeout(panel.ask, TYPED_MS);
  }

  /* ---- the form ---- */

  function field(name, label, unit, more) {
    const input = el("input", { type: "number", inputmode: "decimal", step: "any", id: `position-${name}`, value: typed[name], ...more, oninput: (event) => {
      typed[name] = event.target.value;
      later();
    } });
    return el("label", { class: "field" }, el("span", {}, label, unit && el("span", { class: "dim" }, ` ${unit}`)), input);
  }

  function choice(name, label, options) {
    const radio = ([value, words]) =>
      el("label", { class: "choice" }, el("input", { type: "radio", name: `position-${name}`, value, checked: typed[name] === value, onchange: () => {
        if (name === "mode") changeMode(value);
        else typed[name] = value;
        later();
      } }), words);
    return el("div", { class: "choices", role: "radiogroup", "aria-label": label }, ...Object.entries(options).map(radio));
  }

  function select(name, label, options) {
    const made = el("select", { id: `position-${name}`, "aria-label": label, onchange: (event) => {
      typed[name] = event.target.value;
      if (name === "unit" || name === "by") arrange();
      later();
    } }, ...Object.entries(options).map(([value, words]) => el("option", { value, selected: typed[name] === value }, words)));
    return made;
  }

  const part = (title, ...content) => el("details", { class: "more" }, el("summary", {}, title), ...content);

  function build(out) {
    form = el("form", { class: "position-form", onsubmit: (event) => event.preventDefault() });
    form.append(
      el("div", { class: "fields" },
        choice("side", "Side", { long: "long", short: "short" }),
        choice("mode", "Margin", { isolated: "isolated", cross: "cross" }),
        el("label", { class: "field" }, el("span", {}, "Venue"), el("select", { id: "position-venue", onchange: (event) => {
          typed.venue = event.target.value;
          later();
        } })),
        field("entry", "Entry price", "", { placeholder: "at the mark", min: "0" }),
        el("div", { class: "joined" }, field("size", "Size", "", { min: "0" }), select("unit", "Unit of the size", { usd: "USD", coin: "coins" })),
        el("div", { class: "joined" }, field("backing", "Backed by", "", { min: "0" }), select("by", "Leverage or margin", { leverage: "× leverage", margin: "margin" }))),
      part("Change it: margin, part close, funding",
        el("div", { class: "fields" },
          field("add", "Add margin", "", { placeholder: "0" }),
          field("days", "Days of funding", "", { placeholder: "0", min: "0", max: "365" }),
          field("close", "Close", "%", { placeholder: "0", min: "0", max: "99.9" }),
          field("close_price", "Close at", "", { placeholder: "the mark", min: "0" }),
          field("funding", "Funding per 8 h", "%", { placeholder: "the venue's" }),
          field("call", "Margin call at", "% of equity", { placeholder: "80", min: "5", max: "100" }))),
      part("Rules of the venue",
        el("div", { class: "fields" },
          field("rate", "Maintenance rate", "%", { placeholder: "as the levels", min: "0" }),
          field("fee", "Fee to close", "%", { placeholder: "the venue's", min: "0" }),
          field("tiers", "Tiers, floor:rate by commas", "", { type: "text", placeholder: "0:0.004,50000:0.005", inputmode: "text" }))),
      el("div", { class: "others" }),
    );
    arrange();
    return [form, out, el("p", { class: "note" }, PRIVATE)];
  }

  function changeMode(mode) {
    backings[typed.mode] = typed.backing;
    Object.assign(typed, { mode, backing: backings[mode] });
    form.querySelector("#position-backing").value = typed.backing;
    arrange();
  }

  /* What belongs to the margin mode. */
  function arrange() {
    const cross = typed.mode === "cross";
    const label = form.querySelector("#position-backing").previousSibling;
    label.textContent = cross ? "Account balance" : "Backed by";
    form.querySelector("#position-by").hidden = cross;
    form.querySelector(".others").replaceChildren(...(cross ? otherPositions() : []));
  }

  function otherPositions() {
    const add = () => {
      others.push({ side: "long" });
      arrange();
      form.querySelector(".other:last-of-type input").focus();
    };
    return [
      el("p", { class: "legend-like" }, "Other positions of the account"),
      ...others.map(other),
      others.length < MOST_OTHERS && el("button", { type: "button", class: "quiet", onclick: add }, "Add a position"),
    ].filter(Boolean);
  }

  function other(one, i) {
    const cell = (name, words, more) =>
      el("label", { class: "field" }, el("span", {}, words), el("input", { type: "number", step: "any", inputmode: "decimal", id: `position-other-${i}-${name}`, value: one[name], ...more, oninput: (event) => {
        one[name] = event.target.value;
        later();
      } }));
    const side = el("select", { "aria-label": `Side of position ${i + 2}`, onchange: (event) => {
      one.side = event.target.value;
      later();
    } }, ...["long", "short"].map((s) => el("option", { value: s, selected: one.side === s }, s)));
    const remove = () => {
      others = others.filter((o) => o !== one);
      arrange();
      later();
    };
    return el("div", { class: "other", role: "group", "aria-label": `Position ${i + 2}` },
      cell("coin", "Coin", { type: "text", inputmode: "text", maxlength: "20" }), el("label", { class: "field" }, el("span", {}, "Side"), side),
      cell("quantity", "Size, coins", { min: "0" }), cell("entry", "Entry", { min: "0" }),
      cell("mark", "Mark", { min: "0", placeholder: "as known here" }), cell("rate", "Maintenance %", { min: "0", placeholder: "1" }),
      el("button", { type: "button", class: "quiet", "aria-label": `Remove position ${i + 2}`, onclick: remove }, "Remove"));
  }

  /* Venues of the coin; another coin has others. */
  function offerVenues() {
    const list = form.querySelector("#position-venue");
    const offered = liqheat.offered || [];
    if ([...list.options].map((o) => o.value).join() === ["", ...offered].join()) return;
    if (!offered.includes(typed.venue)) typed.venue = "";
    list.replaceChildren(el("option", { value: "" }, "largest open interest"), ...offered.map((v) => el("option", { value: v, selected: v === typed.venue }, liqheat.venueName(v))));
  }

  /* Prices of one coin say nothing of another. */
  let coin = null;
  function another() {
    for (const name of ["entry", "close_price"]) {
      typed[name] = "";
      form.querySelector(`#position-${name}`).value = "";
    }
    if (typed.unit === "coin") {
      Object.assign(typed, { unit: "usd", size: "10000" });
      form.querySelector("#position-unit").value = "usd";
      form.querySelector("#position-size").value = typed.size;
    }
  }

  let asked = null;
  function query() {
    if (coin !== null && coin !== liqheat.view.symbol) another();
    coin = liqheat.view.symbol;
    offerVenues();
    const bad = [...form.querySelectorAll("input")].find((input) => input.validity.badInput);
    const wanted = bad ? null : question();
    // What was refused stays marked until something else is asked.
    if (bad || wanted !== asked) for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    if (bad) bad.setAttribute("aria-invalid", "true");
    asked = wanted;
    return wanted;
  }

  /* Which of the other positions cannot be, and why. */
  function refusedOther({ value, accepted }) {
    const at = others.findIndex((o) => o.coin && value.toUpperCase().startsWith(`${o.coin.toUpperCase()}:${o.side.toUpperCase()}:`));
    if (at < 0) return `Other positions: possible is ${accepted}.`;
    const coin = others[at].coin.toUpperCase();
    const same = coin === liqheat.view.symbol.toUpperCase();
    const unknown = !same && !filled(others[at].mark) && /^[A-Z0-9]{1,20}$/.test(coin);
    form.querySelector(`#position-other-${at}-${unknown ? "mark" : "coin"}`).setAttribute("aria-invalid", "true");
    if (same) return `Position ${at + 2}: ${coin} is the coin of the position above; other positions are of other coins.`;
    if (unknown) return `Position ${at + 2}: this server does not know the mark price of ${coin}; type it.`;
    return `Position ${at + 2}: a coin is letters and digits.`;
  }

  function refused(answer) {
    if (answer.parameter === "others") return refusedOther(answer);
    const name = FIELD[answer.parameter] || answer.parameter;
    const input = form.querySelector(`#position-${name}`);
    const label = input ? input.closest(".field").firstChild.firstChild.textContent : answer.parameter;
    if (input) input.setAttribute("aria-invalid", "true");
    return `${label}: possible is ${answer.accepted}.`;
  }

  /* ---- the answer ---- */

  const amount = (x, unit) => `${x < 0 ? "−" : ""}${Math.abs(x).toLocaleString("en-US", { maximumFractionDigits: Math.abs(x) < 1 ? 6 : 2 })} ${unit}`;

  const row = (name, value, note, cls) =>
    el("div", { class: cls || "" }, el("dt", {}, name), el("dd", {}, el("b", { class: "number" }, value), note && el("span", { class: "dim" }, note)));

  function level(name, told, cls, days, none, side) {
    if (told.price === null) return row(name, "none", none, cls);
    const passed = side === "long" ? told.distance >= 0 : told.distance <= 0;
    const chance = passed ? "passed already" : `touched within ${days} d: ${liqheat.chance(told.touch_probability)}`;
    return row(name, f.price(told.price), `${f.percent(told.distance, 2)} · ${chance}`, cls);
  }

  function ratio(told) {
    const full = told.margin_ratio === null ? 1 : Math.min(1, told.margin_ratio);
    const words = told.margin_ratio === null ? "no equity left" : `${(100 * told.margin_ratio).toFixed(1)} %`;
    const state = full >= 1 ? "bad" : full >= told.margin_call.at_ratio ? "caution" : "good";
    return el("div", {}, el("dt", {}, "Margin ratio"), el("dd", {}, el("b", { class: "number" }, words),
      el("span", { class: `meter ${state}`, role: "meter", "aria-label": "Margin ratio", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(Math.round(100 * full)), title: "Maintenance margin over equity; liquidated at 100 %" }, el("i", { style: `width:${100 * full}%` }))));
  }

  function closing({ kind, first_share: first, text }, venue) {
    const how = { whole: "whole", partial: "in part first", unknown: "not known" }[kind];
    const part = kind === "partial" && first !== null ? `, ${(100 * first).toFixed(0)} %` : "";
    return row(`${liqheat.venueName(venue)} closes it`, `${how}${part}`, text, "wide");
  }

  function tier(at, known) {
    if (known === 1) return "Only the first maintenance tier is known: a large position is liquidated sooner than told here";
    return at < known ? `Tier ${at} of ${known}` : `Tier ${at}, the last of those given: higher ones are not known`;
  }

  let compared = false;
  function closings(told) {
    const others = Object.entries(told.closings).filter(([venue]) => venue !== told.position.exchange);
    if (!others.length) return "";
    const box = el("details", { class: "more", open: compared }, el("summary", { "data-key": "closings" }, "Other venues, with the same tiers"),
      el("dl", { class: "outcome" }, ...others.map(([venue, one]) => closing(one, venue))));
    box.addEventListener("toggle", () => (compared = box.open));
    return box;
  }

  function show(told, out) {
    const plan = told.position;
    const unit = told.unit === "coin" ? liqheat.view.symbol : plan.symbol.split("/")[1].split(":")[0];
    const days = told.horizon_days;
    const paid = told.funding >= 0 ? "paid" : "received";
    out.replaceChildren(
      told.liquidated ? el("p", { class: "alarm", role: "alert" }, "At the mark this position is liquidated already.") : "",
      ...told.warnings.map((text) => el("p", { class: "beyond" }, `${text}.`)),
      el("dl", { class: "outcome" },
        level("Liquidation", told.liquidation, "bad", days, "no price liquidates it", plan.side),
        level(`Margin call, ${Math.round(100 * told.margin_call.at_ratio)} %`, told.margin_call, "caution", days, "no price calls for margin", plan.side),
        level("Bankruptcy", told.bankruptcy, "", days, plan.others.length ? "not one price with other positions" : "no price does", plan.side),
        ratio(told),
        row("Leverage now", told.leverage === null ? "–" : `${told.leverage.toFixed(2)} ×`, `${amount(told.quantity, told.unit === "coin" ? "USD" : liqheat.view.symbol)} at ${f.price(told.mark_price)}`),
        row("Equity", amount(told.equity, unit), `margin ${amount(told.margin, unit)}, maintenance ${amount(told.maintenance_margin, unit)}`),
        plan.days ? row(`Funding, ${plan.days} d`, `${amount(Math.abs(told.funding), unit)} ${paid}`, `${f.percent(plan.funding_rate_8h, 4)} per 8 h throughout`) : "",
        plan.close_share ? row("Realised by closing", amount(told.realised, unit), "before fees") : "",
        closing(told.closing, plan.exchange)),
      closings(told),
      el("p", { class: "stop-words" }, ...liqheat.stopWords(told.stop, plan.side)),
      el("p", { class: "note" }, `${tier(told.tier, plan.brackets.length)}; ${plan.side} at ${f.price(plan.entry_price)}, mark as of ${f.clock(told.as_of_ms, true)} UTC`,
        told.origin === "live" ? "." : ` of a ${told.origin} market.`),
    );
    lines(told, plan);
    return [told.liquidation.price === null ? "never liquidated" : el("span", { class: "number" }, `liquidated at ${f.price(told.liquidation.price)}`)];
  }

  function lines(told, plan) {
    const line = (price, cls, words) => (price === null ? [] : [{ price, cls, edge: true, label: `${words} ${f.price(price)}` }]);
    liqheat.draw("position", [
      ...line(plan.entry_price, "entry", "entry"),
      ...line(told.margin_call.price, "call", "margin call"),
      ...line(told.liquidation.price, "liquidation", "liquidation"),
      ...line(told.bankruptcy.price, "bankruptcy", "bankruptcy"),
      ...line(told.stop.price, "stop", "stop"),
    ]);
  }

  const panel = liqheat.panel({
    id: "position",
    every: 15000,
    secret: true,
    query,
    idle: "Give a size and what backs it.",
    build,
    show,
    clear: () => liqheat.draw("position", []),
    always: () => panel.isOpen(),
    refused,
  });
})();
