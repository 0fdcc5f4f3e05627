/* Alerts the server has told: a list in its panel, and notifications of this browser for whoever asks for them. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const { el, format: f } = liqheat;
  const WANTED = "liqheat-notify"; // whether this browser wants them, and the id of the last alert it has shown
  const SHOWN = "liqheat-notified";
  const EVERY_MS = 15000;
  const SINGLY = 3; // more than this at once are one notification
  const ADDRESS = "/api/v1/alerts?limit=20";
  const SEVERITY = { info: "note", warning: "warning", critical: "critical" };
  let box = null;
  let said = null;
  let shownHere = null;

  /* A browser may keep nothing: then it is wanted until the page is left. */
  function stored(key, value) {
    try {
      if (value === undefined) return localStorage.getItem(key);
      localStorage.setItem(key, value);
    } catch (error) {
      return undefined;
    }
    return value;
  }

  const offered = () => "Notification" in window && window.isSecureContext;
  const allowed = () => offered() && Notification.permission === "granted";
  let wanted = stored(WANTED) === "yes";
  const isOn = () => wanted && allowed();

  /* "ms-n", as numbers, so that later is larger. */
  const order = (id) => String(id || "0-0").split("-").map(Number);
  function isLater(one, other) {
    const [a, b] = [order(one), order(other)];
    return a[0] !== b[0] ? a[0] > b[0] : a[1] > b[1];
  }

  /* ---- notifications ---- */

  function show(title, body, tag) {
    try {
      const one = new Notification(title, { body, tag, icon: "/assets/favicon.ico" });
      one.onclick = () => { window.focus(); one.close(); };
    } catch (error) {
      say("This browser shows notifications to installed applications only.");
    }
  }

  /* What is new since the last time, here or in another tab; at first nothing is. */
  function tell(alerts) {
    if (!alerts.length) return;
    const last = [stored(SHOWN), shownHere].filter(Boolean).sort((a, b) => (isLater(a, b) ? -1 : 1))[0];
    const fresh = last ? alerts.filter((a) => isLater(a.id, last) && !a.quiet) : [];
    shownHere = alerts[0].id;
    stored(SHOWN, shownHere);
    if (fresh.length > SINGLY) show(`${fresh.length} alerts`, fresh.map((a) => a.title).join("\n"), fresh[0].id);
    else fresh.reverse().forEach((a) => show(a.title, a.text, a.id));
  }

  /* In background tabs too, where panels rest: that is what notifications are for. */
  async function poll() {
    if (!isOn()) return;
    try {
      const response = await fetch(ADDRESS, { cache: "no-cache" });
      if (response.ok && isOn()) tell((await response.json()).alerts);
    } catch (error) {
      // The server is gone for now; the page says so elsewhere.
    }
  }

  /* ---- the switch ---- */

  function say(words) {
    said.textContent = words;
  }

  function words() {
    if (!("Notification" in window)) return "This browser has no notifications.";
    if (!window.isSecureContext) return "Browsers offer notifications on https addresses and on localhost only.";
    if (Notification.permission === "denied") return "Notifications of this site are blocked: allow them in the browser's settings for this site.";
    return isOn() ? "New alerts are shown while this page is open in any tab." : "";
  }

  function draw() {
    box.checked = isOn();
    box.disabled = !offered() || Notification.permission === "denied";
    say(words());
  }

  async function choose() {
    wanted = box.checked;
    if (wanted && offered()) await Notification.requestPermission();
    stored(WANTED, isOn() ? "yes" : "no");
    if (isOn()) {
      shownHere = null;
      stored(SHOWN, "");
      await start();
    }
    draw();
  }

  /* From now on: what stands there already has been seen. */
  async function start() {
    const response = await fetch(ADDRESS, { cache: "no-cache" }).catch(() => null);
    const alerts = response && response.ok ? (await response.json()).alerts : [];
    shownHere = alerts.length ? alerts[0].id : `${Date.now()}-0`;
    stored(SHOWN, shownHere);
  }

  /* ---- the list ---- */

  function item(alert) {
    const failed = alert.deliveries.filter((d) => d.outcome !== "sent");
    const where = alert.quiet ? "Quiet time, not sent." : failed.length ? `Not delivered to ${failed.map((d) => d.target).join(", ")}.` : "";
    return el("li", { class: "alert", "data-severity": alert.severity },
      el("details", {},
        el("summary", { "data-key": alert.id },
          el("span", { class: "when number", title: f.local(alert.told_ms) }, `${f.day(alert.told_ms)} ${f.clock(alert.told_ms)}`),
          el("span", { class: "severity" }, SEVERITY[alert.severity] || alert.severity),
          el("span", { class: "alert-title" }, alert.title)),
        el("p", {}, alert.text),
        el("p", { class: "dim" }, `Rule: ${alert.rule}. ${where}`)));
  }

  function list(answer, out) {
    const open = new Set([...out.querySelectorAll("details[open] summary")].map((s) => s.dataset.key));
    const rules = answer.rules || [];
    const parts = [];
    if (answer.rules === null) parts.push(el("p", { class: "empty" }, "This server tells no alerts now: whoever runs it sets them up (docs/alerts.md)."));
    else if (!answer.alerts.length) parts.push(el("p", { class: "empty" }, "Nothing yet."));
    if (answer.alerts.length) parts.push(el("ul", { class: "alerts", "aria-label": "Latest alerts" }, ...answer.alerts.map(item)));
    if (rules.length) parts.push(el("p", { class: "note" }, `Told when ${rules.map((r) => r.when).join("; ")}.`));
    out.replaceChildren(...parts);
    for (const summary of out.querySelectorAll("summary")) summary.parentNode.open = open.has(summary.dataset.key);
    if (isOn()) tell(answer.alerts);
    draw();
    return answer.alerts.length ? `${f.day(answer.alerts[0].told_ms)} ${f.clock(answer.alerts[0].told_ms)} UTC` : answer.rules === null ? "off" : "none yet";
  }

  function build(out) {
    box = el("input", { type: "checkbox", id: "notify-here", onchange: choose });
    said = el("p", { class: "dim", role: "status", id: "notify-said" });
    draw();
    return [el("label", { class: "check", for: "notify-here" }, box, "Notify me here"), said, out];
  }

  liqheat.panel({
    id: "alerts",
    every: EVERY_MS,
    query: () => ADDRESS,
    build,
    show: list,
    clear: () => {},
    always: () => false,
    refused: (answer) => answer.error,
  });
  if (location.pathname === "/") setInterval(poll, EVERY_MS);
})();
