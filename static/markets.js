/* The table of markets: fetched every few seconds, filtered and sorted here. */
(function () {
  "use strict";
  const { el, byId, remember, format: f } = window.liqheat;
  const liqheat = window.liqheat;
  const REFRESH_MS = 5000;
  const STALE_MS = 120000; // as on the server
  const table = byId("table");
  const heads = [...table.querySelectorAll("th[data-key]")];
  const now = {
    answer: null, find: byId("find").value, venues: liqheat.chosenVenues(), by: byId("by").value, timer: null, turn: 0,
  };
  const order = liqheat.sortable(table, draw);
  const rows = new Map(); // market id -> its row

  /* ---- one cell each: [text, smaller text, exact words, class] ---- */
  const NOT = "not known";
  const away = (price, mark) => f.percent(price / mark - 1);
  const signed = (x, places) => (f.finite(x) ? [f.percent(x, places), null, null, x > 0 ? "up" : x < 0 ? "down" : ""] : ["–", null, NOT]);
  const money = (x, cls, why) => (f.finite(x) ? [f.usd(x), null, f.exact(x), cls] : ["–", null, why || NOT]);
  const unmeasured = (m) => (m.liquidated_24h ? null : `not measured: ${liqheat.venueName(m.exchange)} has told of no liquidation`);
  const utc = (ms) => `${f.clock(ms, true)} UTC, ${f.day(ms)} · ${f.local(ms)}`;

  function cluster(found, mark, side) {
    if (!found) return ["–", null, "no cluster stands out"];
    const words = `≈ ${f.exact(found.usd)} of ${side}s from ${f.price(found.low)} to ${f.price(found.high)}, ` +
      `${(100 * found.share).toFixed(1)} % of open interest. Estimated.`;
    return [f.price(found.price), `${away(found.price, mark)} · ≈ ${f.usd(found.usd)}`, words, side];
  }
  function largest(m) {
    const big = m.liquidated_24h && m.liquidated_24h.largest;
    if (!big) return ["–", null, unmeasured(m) || "none in 24 h"];
    return [f.usd(big.notional_usd), `${big.side} · ${f.day(big.time_ms)} ${f.clock(big.time_ms)}`, `${f.exact(big.notional_usd)} ${big.side} at ${f.price(big.price)}, ${utc(big.time_ms)}`, big.side];
  }
  function pain(m) {
    const { long, short } = m.max_pain;
    const one = (price, arrow) => (f.finite(price) ? `${arrow} ${f.price(price)}` : `${arrow} –`);
    if (!f.finite(long) && !f.finite(short)) return ["–", null, "no price within 15 % stands out enough"];
    return [one(short, "▲"), one(long, "▼"), "most shorts above, most longs below. Estimated."];
  }
  function funding(m) {
    if (f.finite(m.funding_rate_8h)) {
      const words = m.venues ? "mean of the venues by open interest, each put to 8 h"
        : `${(m.funding_rate * 100).toFixed(5)} % every ${m.funding_interval_ms / 3600000} h, put to 8 h`;
      return [f.percent(m.funding_rate_8h, 4), null, words, m.funding_rate_8h > 0 ? "up" : "down"];
    }
    if (f.finite(m.funding_rate)) return ["–", null, `${(m.funding_rate * 100).toFixed(5)} % per interval; the source does not say how long that is`];
    return ["–", null, NOT];
  }
  function age(m) {
    const at = m.provenance.as_of_ms;
    if (!at) return ["loading", null, "the past of this market is being read"];
    const words = m.provenance.origin === "live" ? f.age(Date.now() - at) : f.clock(at, true);
    const gaps = m.provenance.gaps.filter((g) => g.end_ms > at - 864e5);
    const told = gaps.map((g) => `gap ${f.clock(g.start_ms)}–${f.clock(g.end_ms)} (${g.what.replace(/_/g, " ")})`);
    const small = m.stale ? "stale" : gaps.length ? (gaps.length > 1 ? `${gaps.length} gaps` : told[0].replace(/ \(.*/, "")) : null;
    return [words, small, [utc(at), ...told].join("\n"), m.stale ? "stale" : gaps.length ? "gap" : ""];
  }
  const CELLS = {
    price: (m) => [f.price(m.mark_price), null, f.finite(m.mark_price) ? `mark price ${m.mark_price}` : "loading"],
    change: (m) => signed(m.price_change_24h),
    liquidated: (m) => {
      const day = m.liquidated_24h;
      return day ? [f.usd(day.long_usd + day.short_usd), null, `${f.exact(day.long_usd + day.short_usd)} in ${day.count} prints`] : ["–", null, unmeasured(m)];
    },
    long: (m) => money(m.liquidated_24h && m.liquidated_24h.long_usd, "long", unmeasured(m)),
    short: (m) => money(m.liquidated_24h && m.liquidated_24h.short_usd, "short", unmeasured(m)),
    largest,
    below: (m) => cluster(m.cluster_below, m.mark_price, "long"),
    above: (m) => cluster(m.cluster_above, m.mark_price, "short"),
    pain,
    funding,
    oi: (m) => (f.finite(m.open_interest_usd) ? [f.usd(m.open_interest_usd), null, `${f.exact(m.open_interest_usd)} · ${m.open_interest_base.toLocaleString("en-US")} ${m.base}`] : ["–", null, NOT]),
    oi_change: (m) => signed(m.open_interest_change_24h),
    ratio: (m) => (f.finite(m.long_short_ratio) ? [m.long_short_ratio.toFixed(2), null, `accounts long / short: ${m.long_short_ratio}`] : ["–", null, NOT]),
    age,
  };
  const READ = new Set(["change", "below", "above", "pain", "oi_change"]); // what takes reading more than a status
  const part = (day, name) => (day ? day[name] : null);
  const nearest = (prices, mark) => {
    const known = prices.filter(f.finite);
    return known.length && mark ? Math.min(...known.map((price) => Math.abs(price / mark - 1))) : null;
  };
  const distance = (found, mark) => (found && mark ? Math.abs(found.price / mark - 1) : null);
  const VALUES = {
    coin: (m) => `${m.base} ${m.exchange}`,
    price: (m) => m.mark_price,
    change: (m) => m.price_change_24h,
    liquidated: (m) => (m.liquidated_24h ? m.liquidated_24h.long_usd + m.liquidated_24h.short_usd : null),
    long: (m) => part(m.liquidated_24h, "long_usd"),
    short: (m) => part(m.liquidated_24h, "short_usd"),
    largest: (m) => part(part(m.liquidated_24h, "largest"), "notional_usd"),
    below: (m) => distance(m.cluster_below, m.mark_price),
    above: (m) => distance(m.cluster_above, m.mark_price),
    pain: (m) => nearest([m.max_pain.long, m.max_pain.short], m.mark_price),
    funding: (m) => m.funding_rate_8h,
    oi: (m) => m.open_interest_usd,
    oi_change: (m) => m.open_interest_change_24h,
    ratio: (m) => m.long_short_ratio,
    age: (m) => m.provenance.as_of_ms,
  };

  function made(m) {
    const look = liqheat.lookQuery(liqheat.look());
    const places = m.venues || [m.exchange];
    const venues = m.venues ? "" : `&venues=${encodeURIComponent(m.exchange)}`;
    const where = places.length > 3 ? `${places.length} venues` : places.map(liqheat.venueName).join(" · ");
    const kind = m.venues ? "" : ` · ${m.symbol.split("/")[1].split(":")[0]}${m.contract === "inverse" ? " · inverse" : ""}`;
    const href = `/?symbol=${encodeURIComponent(m.base)}${venues}${look ? "&" + look : ""}`;
    const name = el("a", { href, title: `Heatmap of ${m.base} on ${places.map(liqheat.venueName).join(", ")}` },
      el("b", {}, m.base), el("small", {}, where + kind));
    const cells = heads.slice(1).map((h) => el("td", { class: `number c-${h.dataset.key}` }));
    return el("tr", { "data-market": m.id }, el("th", { scope: "row" }, name), cells);
  }

  function fill(row, m) {
    row.classList.toggle("stale", m.stale);
    heads.slice(1).forEach((head, i) => {
      const key = head.dataset.key;
      const [text, small, title, cls] = m.pending && READ.has(key) ? ["…", null, "being read"] : CELLS[key](m);
      const said = `${text}|${small || ""}|${title || ""}|${cls || ""}`;
      const cell = row.children[i + 1];
      if (cell.said === said) return;
      cell.said = said;
      cell.className = `number c-${key} ${cls || ""}`;
      cell.title = title || "";
      cell.replaceChildren(text, ...(small ? [el("small", {}, small)] : []));
    });
  }

  function shown() {
    const word = now.find.trim().toLowerCase();
    const value = VALUES[order.by];
    const named = (m) => (m.venues || [m.exchange]).some((venue) => `${m.symbol} ${venue}`.toLowerCase().includes(word));
    const known = (m) => value(m) !== null && value(m) !== undefined;
    const wanted = now.answer.markets.filter((m) =>
      (!now.venues.length || now.venues.includes(m.exchange)) && named(m));
    const compare = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (order.down ? -1 : 1);
    return [...wanted.filter(known).sort(compare), ...wanted.filter((m) => !known(m))];
  }

  function draw() {
    if (!now.answer) return;
    const markets = shown();
    const body = byId("rows");
    const wanted = markets.map((m) => {
      if (!rows.has(m.id)) rows.set(m.id, made(m));
      fill(rows.get(m.id), m);
      return rows.get(m.id);
    });
    // Moving only what is out of place keeps the focus and the selection.
    wanted.forEach((row, i) => body.children[i] !== row && body.insertBefore(row, body.children[i] || null));
    while (body.children.length > wanted.length) body.lastElementChild.remove();
    byId("count").textContent = `${markets.length} of ${now.answer.markets.length} ${now.by === "coin" ? "coins" : "markets"}`;
    liqheat.notice(markets.length ? null : "No market fits", "Change the filter to see some.");
    const query = new URLSearchParams({ format: "csv", sort: order.by, order: order.down ? "desc" : "asc" });
    if (now.find) query.set("find", now.find);
    if (now.venues.length) query.set("venues", now.venues.join(","));
    if (now.by === "coin") query.set("by", "coin");
    byId("csv").href = `/api/v1/markets?${query}`;
  }

  function sums(answer) {
    const simulated = answer.origin === "simulated" ? "simulated" : "measured";
    byId("sums").replaceChildren(...answer.venues.map((v) => el("section", { class: "card" },
      el("h2", {}, liqheat.venueName(v.exchange), el("small", {}, `${v.markets} market${v.markets === 1 ? "" : "s"} · OI ${f.usd(v.open_interest_usd)}`)),
      f.finite(v.long_usd)
        ? el("div", { class: "pair" },
          el("span", { title: f.exact(v.long_usd) }, "longs ", el("b", { class: "long" }, f.usd(v.long_usd))),
          el("span", { title: f.exact(v.short_usd) }, "shorts ", el("b", { class: "short" }, f.usd(v.short_usd))),
          el("span", { class: "dim" }, `24 h, ${simulated}`))
        : el("div", { class: "dim" }, "liquidations not measured"),
      liqheat.ratio(v.long_usd || 0, v.short_usd || 0))));
  }

  function offerVenues(answer) {
    const names = answer.venues.map((v) => v.exchange);
    const unknown = now.venues.find((v) => !names.includes(v));
    if (unknown) {
      liqheat.trouble({ status: 422, answer: { parameter: "venues", value: unknown, accepted: names.join(", ") } });
      return false;
    }
    liqheat.venueChips(names, now.venues, (chosen) => {
      now.venues = chosen;
      remember({ venues: chosen.join(",") });
      draw();
    });
    byId("venues").hidden = now.by === "coin"; // a coin's row is of all its venues
    return true;
  }

  async function load() {
    const turn = ++now.turn;
    clearTimeout(now.timer);
    const answer = await liqheat.insist(`/api/v1/markets${now.by === "coin" ? "?by=coin" : ""}`, () => Boolean(now.answer));
    if (!answer || turn !== now.turn || (!now.answer && !offerVenues(answer))) return;
    now.answer = answer;
    liqheat.state("shown");
    liqheat.banner(answer.banner, answer.origin);
    tellAge(answer);
    sums(answer);
    draw();
    now.timer = setTimeout(again, REFRESH_MS);
  }
  /* A recording is as old as it is; anything else that no longer moves is told, for the rows are old together. */
  function tellAge({ as_of_ms: at, origin }) {
    const age = Date.now() - at;
    const stale = origin !== "recorded" && age > STALE_MS;
    const box = byId("as-of");
    box.textContent = `as of ${f.clock(at, true)} UTC${stale ? `, STALE: ${f.age(age)} old` : ""}`;
    box.title = f.local(at);
    box.classList.toggle("stale", stale);
  }
  function again() {
    if (!document.hidden) return load();
    document.addEventListener("visibilitychange", load, { once: true });
    return null;
  }

  byId("by").addEventListener("change", (event) => {
    Object.assign(now, { by: event.target.value, answer: null, venues: [] });
    remember({ by: now.by === "venue" ? null : now.by, venues: null });
    rows.clear();
    byId("rows").replaceChildren();
    liqheat.state("loading");
    load();
  });
  byId("find").addEventListener("input", (event) => {
    now.find = event.target.value;
    remember({ find: now.find });
    draw();
  });
  new MutationObserver(() => {
    rows.clear(); // links carry the look
    byId("rows").replaceChildren();
    draw();
  }).observe(document.documentElement, { attributeFilter: ["data-theme", "data-palette"] });
  load();
})();
