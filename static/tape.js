/* The tape: a stream of liquidations, newest first or sorted by a head, with totals of an hour and a day. */
(function () {
  "use strict";
  const { el, byId, remember, format: f } = window.liqheat;
  const liqheat = window.liqheat;
  const MOST_ROWS = 400; // while following; more only where the reader asked for older ones
  const DAY_MS = 864e5;
  const SILENCE_MS = 25000;
  const RETRY_MS = 2000;
  const BIG = [[1e6, "huge"], [1e5, "big"]];
  const now = {
    symbol: byId("symbol").dataset.chosen, venues: liqheat.chosenVenues(), side: byId("side").value, min: byId("min").value,
    source: null, asOf: 0, whole: false, paused: false, waiting: [], shown: false, heard: 0, more: 0,
  };
  const order = liqheat.sortable(byId("table"), () => changed({}));
  const VALUES = {
    time: (p) => p.time_ms, coin: (p) => p.symbol, venue: (p) => p.exchange, side: (p) => p.side, usd: (p) => p.notional_usd,
  };
  /* In any other order the table is of the last 24 hours. */
  const isNewestFirst = () => order.by === "time" && order.down;

  function filters(more) {
    const query = new URLSearchParams({ symbol: now.symbol, ...more });
    if (now.venues.length) query.set("venues", now.venues.join(","));
    if (now.side !== "both") query.set("side", now.side);
    if (Number(now.min) > 0) query.set("min_usd", String(Number(now.min)));
    return query;
  }
  const sorting = () => ({ sort: order.by, order: order.down ? "desc" : "asc" });

  /* ---- rows ---- */
  function row(print, fresh) {
    const look = liqheat.lookQuery(liqheat.look());
    const [base, rest] = print.symbol.split("/");
    const size = (BIG.find(([least]) => print.notional_usd >= least) || [0, ""])[1];
    const href = `/?symbol=${encodeURIComponent(base)}&venues=${encodeURIComponent(print.exchange)}${look ? "&" + look : ""}`;
    const at = new Date(print.time_ms);
    const made = el("tr", { class: `${print.side}-row ${size} ${fresh ? "fresh" : ""}`, "data-at": print.time_ms },
      el("td", { class: "number c-time", title: `${at.toISOString()} · ${f.local(print.time_ms)}` }, f.clock(print.time_ms, true),
        el("small", {}, f.day(print.time_ms))),
      el("th", { scope: "row", class: "c-coin" }, el("a", { href, title: `Heatmap of ${print.symbol}` }, el("b", {}, base), el("small", {}, rest.split(":")[0]))),
      el("td", { class: "c-venue" }, liqheat.venueName(print.exchange)),
      el("td", { class: `c-side ${print.side}` }, print.side === "long" ? "Long ▼" : "Short ▲"),
      el("td", { class: `number c-usd ${print.side}`, title: f.exact(print.notional_usd) }, f.usd(print.notional_usd)),
      el("td", { class: "number c-price", title: String(print.price) }, f.price(print.price)),
      el("td", { class: "number c-quantity", title: String(print.quantity_base) }, `${print.quantity_base.toPrecision(4)} ${base}`));
    made.print = print;
    return made;
  }
  const named = (columns, values) => Object.fromEntries(columns.map((name, i) => [name, values[i]]));

  /* Whether a row stands above another; of those alike the newer does. */
  function isAbove(one, other) {
    const [a, b] = [VALUES[order.by](one.print), VALUES[order.by](other.print)];
    return a === b ? one.print.time_ms >= other.print.time_ms : a < b !== order.down;
  }

  /* What comes takes its place in the order: newest first, that is mostly the top. Beyond the last row there may be others
     that are not shown, unless the table has them all. */
  function add(said) {
    const body = byId("rows");
    const made = said.rows.map((values) => row(named(said.columns, values), !said.first));
    now.asOf = said.as_of_ms;
    if (said.first) {
      body.replaceChildren(...made);
      [now.more, now.whole] = [0, made.length >= said.totals[said.totals.length - 1].count];
    } else {
      for (const one of made.reverse()) {
        const place = [...body.children].find((other) => isAbove(one, other)) || null;
        if (place || now.whole) body.insertBefore(one, place);
      }
    }
    if (!isNewestFirst()) for (const old of [...body.children]) if (old.print.time_ms <= now.asOf - DAY_MS) old.remove();
    for (; body.children.length > MOST_ROWS + now.more; now.whole = false) body.lastElementChild.remove();
    offerMore();
    empty();
  }
  function offerMore() {
    byId("older").hidden = isNewestFirst() ? !byId("rows").children.length : now.whole;
    byId("older").textContent = isNewestFirst() ? "Older" : "More";
    byId("scope").textContent = isNewestFirst() ? "" : "of the last 24 h";
  }
  function empty() {
    const none = !byId("rows").children.length;
    const words = now.basis === "none" ? "No venue here has told of any liquidation: nothing known is not nothing liquidated."
      : "No liquidation of the last 24 hours fits. The page waits for the next one.";
    liqheat.notice(none ? "Nothing on the tape" : null, words);
  }

  /* ---- totals ---- */
  function card(sum, origin) {
    const big = sum.largest;
    const name = sum.hours === 1 ? "Last hour" : `Last ${sum.hours} h`;
    if (!f.finite(sum.long_usd)) return el("section", { class: "card" }, el("h2", {}, name), el("div", { class: "dim" }, "liquidations not measured"));
    return el("section", { class: "card" },
      el("h2", {}, name, el("small", {}, `${sum.count.toLocaleString("en-US")} prints · ${origin === "simulated" ? "simulated" : "measured"}`)),
      el("div", { class: "pair" },
        el("span", { title: f.exact(sum.long_usd) }, "longs ", el("b", { class: "long" }, f.usd(sum.long_usd))),
        el("span", { title: f.exact(sum.short_usd) }, "shorts ", el("b", { class: "short" }, f.usd(sum.short_usd)))),
      liqheat.ratio(sum.long_usd, sum.short_usd) || el("span", { class: "ratio" }),
      el("div", { class: "dim", title: big ? `${f.exact(big.notional_usd)} at ${f.price(big.price)}, ${f.local(big.time_ms)}` : null },
        big ? ["largest ", el("b", { class: big.side }, f.usd(big.notional_usd)), ` ${big.side} ${big.symbol.split("/")[0]}, ${liqheat.venueName(big.exchange)} ${f.day(big.time_ms)} ${f.clock(big.time_ms)} UTC`] : "none"));
  }
  function byVenue(sum) {
    const cell = (x, cls) => el("td", { class: `number ${cls}`, title: f.finite(x) ? f.exact(x) : "not measured" }, f.usd(x));
    return el("section", { class: "card wide" },
      el("table", { class: "small" },
        el("caption", {}, `By venue, ${sum.hours} h`),
        el("thead", {}, el("tr", {}, ...["Venue", "Longs", "Shorts"].map((t) => el("th", { scope: "col" }, t)))),
        el("tbody", {}, sum.venues.map((v) => el("tr", {}, el("th", { scope: "row" }, liqheat.venueName(v.exchange)), cell(v.long_usd, "long"), cell(v.short_usd, "short"))))));
  }

  /* ---- the stream ---- */
  function take(said) {
    now.heard = Date.now();
    now.basis = said.basis;
    liqheat.banner(said.banner, said.origin);
    byId("basis").textContent = { measured: "prints as the venues tell them: some send all, some a sample", simulated: "prints of a simulated market", none: "no prints known" }[said.basis];
    byId("sums").replaceChildren(...said.totals.map((t) => card(t, said.origin)), byVenue(said.totals[said.totals.length - 1]));
    if (now.paused && !said.first) {
      now.waiting.push(said);
    } else {
      if (said.first) now.waiting = [];
      add(said);
    }
    now.shown = true;
    liqheat.state("shown");
    words();
  }
  function words() {
    const waiting = now.waiting.reduce((n, said) => n + said.rows.length, 0);
    const name = now.paused ? "paused" : !now.source || !now.heard ? "connecting" : Date.now() - now.heard > SILENCE_MS ? "quiet" : "live";
    byId("link").dataset.link = name;
    const text = { paused: `paused, ${waiting} new`, connecting: "connecting", quiet: `nothing new since ${f.clock(now.heard, true)}`, live: "following" }[name];
    if (byId("link-words").textContent !== text) byId("link-words").textContent = text;
    byId("pause").setAttribute("aria-pressed", String(now.paused));
    byId("pause").textContent = now.paused ? "Resume" : "Pause";
  }

  function follow() {
    stop();
    byId("csv").href = `/api/v1/liquidations?${filters({ range: isNewestFirst() ? "30d" : "24h", ...sorting(), limit: 5000, format: "csv" })}`;
    now.source = new EventSource(`/api/v1/liquidations/stream?${filters(sorting())}`);
    now.source.addEventListener("prints", (event) => take(JSON.parse(event.data)));
    now.source.onerror = () => {
      // The browser tries lost connections again by itself; an answer that is no stream ends it.
      now.heard = 0;
      if (now.source && now.source.readyState === EventSource.CLOSED) explain();
      else if (now.shown) liqheat.state("stale");
      words();
    };
    words();
  }
  function stop() {
    if (now.source) now.source.close();
    [now.source, now.heard] = [null, 0];
  }
  /* What the server has against it, which an EventSource does not tell. */
  async function explain() {
    stop();
    let go = true;
    try {
      await liqheat.ask(`/api/v1/liquidations?${filters({ limit: 1 })}`);
    } catch (error) {
      go = liqheat.trouble(error, now.shown);
    }
    if (go) setTimeout(() => !document.hidden && !now.source && follow(), RETRY_MS);
  }

  /* Where the rows shown end: newest first, after those of the last one's time; else after those up to the time of the data. */
  function cursor() {
    const times = [...byId("rows").children].map((r) => r.print.time_ms);
    if (!isNewestFirst()) return `${now.asOf}.${times.filter((at) => at <= now.asOf).length}`;
    const last = times[times.length - 1];
    return `${last}.${times.filter((at) => at === last).length}`;
  }
  async function older() {
    const button = byId("older");
    const { source } = now;
    button.disabled = true;
    const asked = filters({ range: isNewestFirst() ? "1y" : "24h", ...sorting(), limit: 100, cursor: cursor() });
    try {
      const page = await liqheat.ask(`/api/v1/liquidations?${asked}`);
      if (source === now.source) { // else something else was asked for meanwhile
        byId("rows").append(...page.rows.map((values) => row(named(page.columns, values), false)));
        now.more += page.rows.length;
        now.whole = now.whole || !page.next;
        offerMore();
        button.hidden = !page.next;
      }
    } catch (error) {
      button.textContent = `${button.textContent.split(":")[0]}: the server does not answer, try again`;
    }
    button.disabled = false;
  }

  function changed(changes) {
    Object.assign(now, changes);
    remember({ symbol: now.symbol === "all" ? null : now.symbol, venues: now.venues.join(","), side: now.side === "both" ? null : now.side, min_usd: Number(now.min) > 0 ? String(Number(now.min)) : null });
    [now.shown, now.paused, now.waiting] = [false, false, []];
    liqheat.state("loading");
    follow();
  }

  async function offer() {
    const answer = await liqheat.insist("/api/v1/markets?detail=offer", () => now.shown);
    if (!answer) return;
    const coins = [...new Set(answer.markets.map((m) => m.base))];
    const choice = byId("symbol");
    choice.replaceChildren(el("option", { value: "all" }, "all"), ...coins.map((c) => el("option", { value: c }, c)));
    choice.value = coins.includes(now.symbol) ? now.symbol : "all";
    const venues = () => [...new Set(answer.markets.filter((m) => now.symbol === "all" || m.base === now.symbol).map((m) => m.exchange))];
    const chips = () => liqheat.venueChips(venues(), now.venues, (chosen) => changed({ venues: chosen }));
    chips();
    choice.addEventListener("change", () => {
      now.symbol = choice.value;
      changed({ venues: now.venues.filter((v) => venues().includes(v)) });
      chips();
    });
    follow();
  }

  byId("side").addEventListener("change", (event) => changed({ side: event.target.value }));
  byId("min").addEventListener("change", (event) => changed({ min: event.target.value }));
  byId("older").addEventListener("click", older);
  byId("pause").addEventListener("click", () => {
    now.paused = !now.paused;
    if (!now.paused) now.waiting.splice(0).forEach(add);
    words();
  });
  // A page nobody sees needs no stream; browsers have few connections to a site.
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : now.source || follow()));
  setInterval(words, 1000);
  offer();
})();
