/* What the pages beside the heatmap share: the look, the address as state, keys, fetching. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const root = document.documentElement;
  const { el } = liqheat;
  const RETRY_MS = 2000;
  const PATIENCE_MS = 20000; // for an answer: a connection may have gone without a word

  const $ = (id) => document.getElementById(id);

  /* ---- the address is the state ---- */
  const query = () => new URLSearchParams(location.search);
  function remember(changes) {
    const now = query();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === "" || value === undefined) now.delete(name);
      else now.set(name, value);
    }
    const text = now.toString().replace(/%2C/g, ",");
    history.replaceState(null, "", location.pathname + (text ? `?${text}` : "") + location.hash);
  }

  /* ---- look ---- */
  const look = () => ({ theme: root.dataset.theme, palette: root.dataset.palette });
  function wear(changes) {
    Object.assign(root.dataset, changes);
    const now = look();
    remember({ theme: now.theme === "dark" ? null : now.theme, palette: now.palette === "redgreen" ? null : now.palette });
    liqheat.carry(now);
    showTheme();
  }
  function showTheme() {
    const dark = root.dataset.theme === "dark";
    const button = $("theme-choice");
    button.setAttribute("aria-label", dark ? "Switch to light" : "Switch to dark");
    button.title = button.getAttribute("aria-label");
    button.firstElementChild.className = `icon icon-${dark ? "sun" : "moon"}`;
  }
  $("theme-choice").addEventListener("click", () => wear({ theme: root.dataset.theme === "dark" ? "light" : "dark" }));
  $("palette-choice").addEventListener("change", (event) => wear({ palette: event.target.value }));
  showTheme();
  liqheat.shortcuts("This page", [
    { keys: ["t"], words: "Dark or light", does: () => $("theme-choice").click() },
    ...($("find") ? [{ keys: ["/"], words: "Find", does: () => $("find").focus() }] : []),
    ...($("pause") ? [{ keys: ["p"], words: "Pause, resume", does: () => $("pause").click() }] : []),
  ]);

  /* ---- what the data is ---- */
  function banner(text, origin) {
    root.dataset.banner = text ? "yes" : "";
    const box = $("banner");
    if (box.textContent !== (text || "")) box.replaceChildren(...(text ? [el("span", { class: origin }, text)] : []));
  }

  /* ---- fetching ---- */
  async function ask(address) {
    const response = await fetch(address, { cache: "no-cache", signal: AbortSignal.timeout(PATIENCE_MS) });
    const answer = await response.json();
    if (!response.ok) throw Object.assign(new Error(answer.error || response.statusText), { status: response.status, answer });
    return answer;
  }

  /* In place of the table: why there is none. */
  function notice(title, words, more) {
    const box = $("empty");
    box.hidden = !title;
    box.replaceChildren(...(title ? [el("h2", {}, title), words && el("p", {}, words), more].filter(Boolean) : []));
  }
  const state = (name) => ($("box").dataset.state = name);

  /* Say what is wrong in words; whether to ask again. */
  function trouble(error, shown) {
    const answer = error.answer || {};
    if (error.status === 422) {
      state("failed");
      const address = location.pathname + (liqheat.lookQuery(look()) ? `?${liqheat.lookQuery(look())}` : "");
      notice("This link asks for something that cannot be shown",
        `${answer.parameter}=${answer.value} is not possible. Accepted: ${answer.accepted}.`, el("a", { class: "button", href: address }, "Show the page without it"));
      return false;
    }
    state(shown ? "stale" : "failed");
    if (shown) return true;
    const done = liqheat.format.finite(answer.progress) ? Math.round(answer.progress * 100) : null;
    if (error.status) notice(done === null ? "No data at the moment" : `Reading history: ${done} %`, answer.reason || error.message);
    else notice("The server does not answer", "Trying again…");
    return true;
  }

  /* Ask once; again after a pause while there is trouble. */
  async function insist(address, shown) {
    for (;;) {
      try {
        return await ask(address);
      } catch (error) {
        if (!trouble(error, shown())) return null;
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    }
  }

  /* ---- venues: boxes to tick, none ticked meaning all ---- */
  function venueChips(names, chosen, changed) {
    const box = $("venues");
    const tick = (name) => el("label", { class: "chip" }, el("input", { type: "checkbox", value: name }), liqheat.venueName(name));
    const chips = names.map(tick);
    box.replaceChildren(box.querySelector("legend"), ...chips);
    const boxes = chips.map((c) => c.firstChild);
    for (const one of boxes) one.checked = !chosen.length || chosen.includes(one.value);
    box.onchange = () => {
      const on = boxes.filter((b) => b.checked).map((b) => b.value);
      if (!on.length) for (const b of boxes) b.checked = true;
      changed(on.length === boxes.length ? [] : on);
    };
  }
  const chosenVenues = () => ($("venues").dataset.chosen || "").split(",").filter(Boolean);

  /* ---- a table whose heads sort: the address holds the order, and heads say it ---- */
  function sortable(table, changed) {
    const heads = [...table.querySelectorAll("th[data-key]")];
    const order = { by: table.dataset.sort, down: table.dataset.order === "desc" };
    function choose({ key, kind }) {
      order.down = order.by === key ? !order.down : kind === "number";
      order.by = key;
      for (const h of heads) h.setAttribute("aria-sort", h.dataset.key !== key ? "none" : order.down ? "descending" : "ascending");
      remember({ sort: key, order: order.down ? "desc" : "asc" });
      changed();
    }
    for (const head of heads) head.firstElementChild.addEventListener("click", () => choose(head.dataset));
    return order;
  }

  /* Longs against shorts as a bar. */
  function ratio(long, short) {
    const sum = long + short;
    if (!(sum > 0)) return null;
    return el("span", { class: "ratio", title: `longs ${Math.round((100 * long) / sum)} %` },
      el("span", { style: { width: `${(100 * long) / sum}%`, background: "var(--long)" } }),
      el("span", { style: { flex: "1", background: "var(--short)" } }));
  }

  Object.assign(liqheat, { byId: $, remember, look, banner, ask, insist, notice, state, trouble, venueChips, chosenVenues, sortable, ratio });
})();
