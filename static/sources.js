/* How old the data of each venue is, what is missing and why, and the way from the simulated market to live data. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const callbacks = (window.dash_clientside = window.dash_clientside || {});
  const h = (...args) => liqheat.h(...args);
  const f = liqheat.format;

  const ASK_MS = 10000;
  const SWITCHING_MS = 1000;
  const PATIENCE_MS = 20000; // for an answer: a connection may have gone without a word
  const STALE_MS = 120000; // as on the server
  const DEAF_MS = 60000; // a stream that was lost and has been silent for so long is no hiccup
  const MOST = 4; // lines of one kind in a venue's details

  const WHAT = { candles: "candles", open_interest: "open interest", liquidations: "prints", prints: "prints",
    long_short_ratio: "long/short ratio", funding: "funding", columns: "levels" };
  const ERRORS = { VenueDown: "no answer or a lost connection", RateLimited: "a pause asked for", Banned: "shut out for a while",
    RegionBlocked: "this region refused", BadPayload: "an answer that is not as documented", UnknownMarket: "a market not listed" };
  const what = (name) => WHAT[name] || String(name).replace(/_/g, " ");

  let state = null; // the latest answer of /api/v1/source
  let ahead = 0; // of the server's clock against ours
  const pushed = {}; // what was last pushed of each market
  let failed = "";
  const now = () => Date.now() + ahead;
  const venuesOf = () => (state && state.venues) || {};
  const isSilent = () => state !== null && state.workers.length > 0 && state.workers.every((w) => w.silent);

  /* ---- a venue's badge ---- */

  const stretch = (g) => {
    const far = Math.abs(g.end_ms - g.start_ms) > 72e6;
    const dated = f.year(g.start_ms) === f.year(g.end_ms) ? f.day : (ms) => `${f.day(ms)} ${f.year(ms)}`;
    const at = far ? dated : f.clock;
    return `${at(g.start_ms)}–${at(g.end_ms)}`;
  };
  const some = (list, line) => [
    ...list.slice(-MOST).reverse().map(line), list.length > MOST ? `and ${list.length - MOST} more` : null,
  ].filter(Boolean);

  function streamLines(doing) {
    return Object.entries(doing.streams).map(([name, s]) => {
      const heard = s.last_message_ms ? `heard at ${f.clock(s.last_message_ms, true)} UTC` : "nothing heard yet";
      const lost = s.reconnects ? `, lost ${s.reconnects} ${s.reconnects === 1 ? "time" : "times"} since the start` : "";
      return `${what(name)}: ${s.connected ? heard : `not connected, ${heard}`}${lost}`;
    });
  }

  /* Everything known about a venue, as [title, lines]. */
  function details(v, doing) {
    const parts = [["Data", [`to ${f.clock(v.as_of_ms, true)} UTC, ${f.local(v.as_of_ms)}`]]];
    if (v.gaps && v.gaps.length) parts.push(["Missing in this range", some(v.gaps, (g) => `${stretch(g)} ${what(g.what)}`)]);
    if (!doing) return parts;
    if (doing.problem) parts.push(["Not followed", [doing.problem]]);
    const streams = streamLines(doing);
    if (streams.length) parts.push(["Streams", streams]);
    if (doing.gaps.length) parts.push(["Streams not heard", some(doing.gaps, (g) => `${stretch(g)} ${what(g.what)}`)]);
    if (doing.rejected.length) {
      parts.push(["Left out since the start", some(doing.rejected, (r) => `${r.count} × ${what(r.what)}: ${r.reason}`)]);
    }
    const errors = Object.entries(doing.errors);
    if (errors.length) parts.push(["Went wrong since the start", some(errors, ([k, n]) => `${n} × ${ERRORS[k] || k}`)]);
    return parts;
  }

  const card = (parts) =>
    h("Span", { className: "detail", role: "tooltip" },
      ...parts.map(([title, lines]) => h("Span", {}, h("B", {}, title), ...lines.map((line) => h("Span", {}, line)))));

  function badge(v, readings) {
    const doing = readings.origin === "live" ? venuesOf()[v.exchange] : null;
    const gap = v.gaps && v.gaps.length ? v.gaps[v.gaps.length - 1] : null;
    const more = gap && v.gaps.length > 1 ? ` +${v.gaps.length - 1}` : "";
    const left = doing ? doing.rejected.reduce((sum, r) => sum + r.count, 0) : 0;
    const behind = Math.max(...readings.venues.map((one) => one.as_of_ms)) - v.as_of_ms;
    return h("Span", { className: "venue", tabIndex: 0, "data-market": v.market, "data-venue": v.exchange,
        "data-as-of": v.as_of_ms, "data-behind": v.stale ? behind : 0, "data-origin": readings.origin },
      h("Span", { className: "dot" }), liqheat.venueName(v.exchange), h("Span", { className: "age number" }),
      gap && h("Span", { className: "gap" }, `gap ${stretch(gap)}${more}`),
      left > 0 && h("Span", { className: "left-out" }, `${left} left out`),
      card(details(v, doing)));
  }

  /* A venue that is followed and has given nothing yet has no reading: it is named all the same. */
  function absent(readings) {
    if (readings.origin !== "live") return [];
    const shown = readings.venues.map((v) => v.exchange);
    const wanted = (name) => !liqheat.view.venues.length || liqheat.view.venues.includes(name);
    return Object.entries(venuesOf())
      .filter(([name, doing]) => doing.problem && wanted(name) && !shown.includes(name))
      .map(([name, doing]) =>
        h("Span", { className: "venue", tabIndex: 0, "data-state": "lost" },
          h("Span", { className: "dot" }), `${liqheat.venueName(name)} ${doing.problem}`, card([["Not followed", [doing.problem, "it is tried again"]]])));
  }

  function crew(readings) {
    if (!state || readings.origin === "recorded") return [];
    const since = Math.max(...state.workers.map((w) => w.as_of_ms));
    return [
      isSilent() && h("Span", { className: "venue", "data-state": "lost", title: "The worker fills the page; it has said nothing since." },
        h("Span", { className: "dot" }), `worker SILENT since ${f.clock(since)} UTC`),
      state.history.failing && h("Span", { className: "venue", "data-state": "stale", title: `What arrives waits in Redis and is not lost: ${state.history.waiting} entries.` },
        h("Span", { className: "dot" }), "history NOT WRITTEN"),
    ];
  }

  liqheat.venueBadges = (readings) => {
    setTimeout(tick, 0);
    return [...readings.venues.map((v) => badge(v, readings)), ...absent(readings), ...crew(readings)];
  };

  /* What is wrong, in few words: for a frame without a status line. */
  liqheat.troubles = (readings) => {
    const parts = readings.venues.flatMap((v) => {
      const name = liqheat.venueName(v.exchange);
      const gap = v.gaps && v.gaps[v.gaps.length - 1];
      const [kind] = conditionOf(v.exchange, v.as_of_ms, v.stale ? 1 : 0, readings.origin);
      return kind !== "fresh" ? [`${name} ${kind === "lost" ? "no connection" : "stale"}`] : gap ? [`${name} gap ${stretch(gap)}`] : [];
    });
    return parts.join(" · ");
  };

  /* -> [fresh | stale | lost, words] */
  function conditionOf(name, asOf, behind, origin) {
    const age = now() - asOf;
    if (origin === "simulated" && isSilent()) return ["stale", `STALE, ${f.age(age)} old`];
    if (origin !== "live" || liqheat.frozen) return behind > 0 ? ["stale", `${f.age(behind)} behind`] : ["fresh", ""];
    const doing = venuesOf()[name];
    const candles = doing && doing.streams.candles;
    const deaf = candles && !candles.connected && now() - (candles.last_message_ms || 0) > DEAF_MS;
    if ((doing && doing.problem) || deaf) return ["lost", `no connection, ${f.age(age)} old`];
    return age > STALE_MS ? ["stale", `STALE, ${f.age(age)} old`] : ["fresh", f.age(age)];
  }

  function tick() {
    for (const element of document.querySelectorAll(".venue[data-market]")) {
      const { market, venue, asOf, behind, origin } = element.dataset;
      const [kind, words] = conditionOf(venue, Math.max(Number(asOf), pushed[market] ? pushed[market].as_of_ms : 0), Number(behind), origin);
      element.dataset.state = kind;
      const age = element.querySelector(".age");
      if (age && age.textContent !== words) age.textContent = words;
    }
  }
  setInterval(() => document.hidden || tick(), 1000);

  /* The push says when a market was last heard of. */
  liqheat.heard = (markets) => {
    for (const m of markets) pushed[m.market] = m;
  };
  liqheat.pushed = (market) => pushed[market];

  document.addEventListener("keydown", (event) => {
    const open = document.activeElement && document.activeElement.closest(".venue");
    if (event.key === "Escape" && open) open.blur();
  });

  /* ---- live data or the simulated market ---- */

  const inForce = (answer) => answer && answer.choice && answer.choice.source;
  const names = (list) => list.map(liqheat.venueName).join(", ");

  function offer() {
    if (document.documentElement.dataset.page === "embed") return;
    const { choice, switching, may_switch: may } = state;
    const back = choice && choice.source === "simulated" ? choice.answering : [];
    const again = `${names(back)} ${back.length === 1 ? "answers" : "answer"} again`;
    const words = switching ? "Switching to live data: the simulated market is dropped, the venues are asked for their past …"
      : !back.length ? failed
      : may ? `${again}.${failed ? ` ${failed}` : ""}` : `${again}: whoever runs this server can restart it for live data.`;
    callbacks.set_props("offer", { hidden: !words });
    callbacks.set_props("offer-text", { children: words });
    callbacks.set_props("go-live", { hidden: switching || !back.length || !may });
  }

  function take(answer) {
    const [before, was] = [inForce(state), state && state.switching];
    state = answer;
    // Nothing that is on screen was of the market that is shown now.
    if (before === "simulated" && inForce(answer) === "live") return location.reload();
    if (was && !answer.switching && inForce(answer) === "simulated") failed = `Not switched: ${reasons(answer.choice)}.`;
    offer();
    liqheat.describeStatus();
  }
  const reasons = (choice) => Object.entries(choice.problems).map(([name, why]) => `${liqheat.venueName(name)} ${why}`).join("; ") || "no venue lists its markets";

  let timer = null;
  async function ask() {
    clearTimeout(timer);
    try {
      const response = document.hidden ? null : await fetch("/api/v1/source", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      if (response && response.ok) {
        const said = Date.parse(response.headers.get("Date"));
        ahead = Math.abs(said - Date.now()) > 2000 ? said - Date.now() : 0;
        take(await response.json());
      }
    } catch (error) {
      // the chart says that the server does not answer
    }
    timer = setTimeout(ask, state && state.switching ? SWITCHING_MS : ASK_MS);
  }

  async function goLive() {
    failed = "";
    state = { ...state, switching: true };
    offer();
    try {
      const response = await fetch("/api/v1/source", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ source: "live" }),
      });
      if (!response.ok) failed = `Not switched: ${(await response.json()).error}.`;
      state.switching = response.ok;
    } catch (error) {
      state.switching = false;
      failed = "Not switched: the server does not answer.";
    }
    offer();
    timer = setTimeout(ask, SWITCHING_MS);
  }
  document.addEventListener("click", (event) => event.target.closest("#go-live") && goLive());
  document.addEventListener("visibilitychange", () => !document.hidden && state && ask());
  const begin = () => (document.getElementById("offer") ? ask() : setTimeout(begin, 200));
  if (!liqheat.frozen) begin();
})();
