/* The panels beside the chart: when each asks the server, and what it says while it loads, has nothing, or is old. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const { el, format: f } = liqheat;
  const TICK_MS = 2000;
  const RETRY_MS = 3000;
  const PATIENCE_MS = 20000; // for an answer: a connection may have gone without a word
  const panels = [];

  /* Money in short form, exact on hover. */
  liqheat.money = (usd, cls) => el("b", { class: `number ${cls || ""}`, title: f.exact(usd) }, f.usd(usd));
  liqheat.chance = (p) => (f.finite(p) ? (p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`) : "not known");

  /* Coin and venues of the page's view, as every question names them. */
  function subject() {
    const { symbol, venues } = liqheat.view;
    return `symbol=${encodeURIComponent(symbol)}${venues.length ? `&venues=${[...venues].sort().join(",")}` : ""}`;
  }

  /* Of the filters that the panels' questions do not name, what the view leaves out and the panels do not. */
  liqheat.unfiltered = function (filters) {
    const { tiers, side } = liqheat.view;
    const filtered = { tiers: liqheat.schema && tiers.length < Object.keys(liqheat.schema.tiers).length, side: side !== "both" };
    return filters.filter((name) => filtered[name]).map((name) => ({ tiers: "all leverages", side: "both sides" })[name]).join(", ");
  };

  /* A panel.
       id      of its place
       query   subject -> path with query, null where there is nothing to ask
       every   ms between questions
       build   (out) -> elements of the panel, made once; answers are drawn into `out`
       show    (answer, out) -> what stands in the head of the panel
       clear   what it has drawn elsewhere goes
       idle    words where there is nothing to ask
       always  whether it asks though it is closed or off screen
       refused (answer) of a 422 -> words */
  liqheat.panel = function (spec) {
    const panel = { spec, key: null, subject: null, etag: null, answer: null, asked: 0, flight: null, again: true, seen: false };
    panels.push(panel);
    return {
      answer: () => panel.answer,
      redraw: () => redraw(panel),
      ask: () => panel.section && tick(panel),
      forget: () => panel.section && forget(panel),
      isOpen: () => Boolean(panel.section && panel.section.open),
    };
  };

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const panel = panels.find((p) => p.section === entry.target);
      panel.seen = entry.isIntersecting;
      if (panel.seen) tick(panel);
    }
  }, { rootMargin: "200px" });

  function start(panel) {
    const section = document.getElementById(panel.spec.id);
    const place = section && section.querySelector(".insight-body");
    if (!place) return;
    panel.out = el("div", { class: "out" });
    panel.said = el("p", { class: "said", role: "status" });
    place.replaceChildren(panel.said, ...panel.spec.build(panel.out));
    panel.brief = section.querySelector(".brief");
    panel.section = section;
    section.addEventListener("toggle", () => {
      if (section.open) tick(panel);
      else if (!isWanted(panel)) panel.spec.clear();
      if (section.open) redraw(panel);
    });
    state(panel, "waiting");
    watcher.observe(section);
  }

  const redraw = (panel) => panel.answer && draw(panel);
  // A snapshot is of then, and the panels are of now.
  const isWanted = (panel) => !liqheat.frozen && (panel.spec.always() || (panel.section.open && panel.seen));

  function state(panel, name, words) {
    panel.section.dataset.state = name;
    panel.out.setAttribute("aria-busy", name === "loading" || name === "asking");
    if (panel.said.textContent !== (words || "")) panel.said.textContent = words || "";
  }

  function draw(panel) {
    const focused = panel.out.contains(document.activeElement) && document.activeElement.dataset.key;
    panel.brief.replaceChildren(...[panel.spec.show(panel.answer, panel.out)].flat());
    const again = focused && [...panel.out.querySelectorAll("[data-key]")].find((n) => n.dataset.key === focused);
    if (again) again.focus({ preventScroll: true });
  }

  function forget(panel) {
    Object.assign(panel, { answer: null, etag: null });
    panel.out.replaceChildren();
    panel.brief.replaceChildren();
    panel.spec.clear();
  }

  function tick(panel) {
    if (!liqheat.view || document.hidden || !isWanted(panel)) return;
    const about = subject();
    if (about !== panel.subject) {
      forget(panel);
      panel.subject = about;
    }
    const filters = liqheat.unfiltered(["tiers", "side"]);
    if (filters !== panel.filters) {
      panel.filters = filters;
      redraw(panel);
    }
    const key = panel.spec.query(about);
    if (key === null) {
      if (panel.flight) panel.flight.abort();
      Object.assign(panel, { key: null, flight: null });
      return state(panel, "idle", panel.spec.idle);
    }
    const due = panel.again && Date.now() - panel.asked >= (panel.failed ? RETRY_MS : panel.spec.every);
    if (key !== panel.key || (due && !panel.flight)) ask(panel, key);
  }

  async function ask(panel, key) {
    if (panel.flight) panel.flight.abort();
    const flight = new AbortController();
    const other = key !== panel.key;
    Object.assign(panel, { key, flight, asked: Date.now(), again: true });
    if (!panel.answer) state(panel, "loading");
    else if (other) state(panel, "asking");
    try {
      // What is typed into a panel is not left in the browser's store.
      const signal = AbortSignal.any([flight.signal, AbortSignal.timeout(PATIENCE_MS)]);
      const response = await fetch(key, { signal, cache: panel.spec.secret ? "no-store" : "no-cache" });
      const etag = response.headers.get("ETag");
      if (response.ok && etag && etag === panel.etag && panel.answer) return settled(panel, flight, "shown");
      const answer = await response.json();
      if (flight.signal.aborted) return undefined;
      if (response.ok) {
        Object.assign(panel, { answer, etag, failed: false });
        draw(panel);
        return settled(panel, flight, "shown");
      }
      if (response.status === 422 || response.status === 404) return refuse(panel, flight, answer);
      return fail(panel, flight, answer.reason || answer.error || `The server answered ${response.status}.`);
    } catch (error) {
      return flight.signal.aborted ? undefined : fail(panel, flight, "The server does not answer.");
    }
  }

  function settled(panel, flight, name, words) {
    if (panel.flight !== flight) return;
    panel.flight = null;
    if (name === "shown") panel.failed = false;
    state(panel, name, words);
  }

  /* What cannot be asked is not asked again. */
  function refuse(panel, flight, answer) {
    forget(panel);
    panel.again = false;
    settled(panel, flight, "refused", panel.spec.refused(answer));
  }

  function fail(panel, flight, reason) {
    panel.failed = true;
    if (!panel.answer) return settled(panel, flight, "failed", `${reason} This goes on by itself.`);
    return settled(panel, flight, "stale", `Old, as of ${f.clock(panel.answer.as_of_ms, true)} UTC: ${reason}`);
  }

  /* From the first chart on. An embed or a snapshot has no panels: they tell of now. */
  liqheat.wakePanels = function () {
    if (location.pathname !== "/") return;
    for (const panel of panels) {
      if (!panel.section) start(panel);
      if (panel.section) tick(panel);
    }
  };
  setInterval(() => panels.forEach((panel) => panel.section && tick(panel)), TICK_MS);
})();
