/* Sharing: links, snapshots, the code of a frame; and what a frame tells the page around it. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const callbacks = (window.dash_clientside = window.dash_clientside || {});
  callbacks.liqheat = callbacks.liqheat || {};
  const { el } = liqheat;
  const DONE_MS = 2500;

  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/"/g, "&quot;").replace(/</g, "&lt;");

  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch (error) {
      const field = el("textarea", { class: "off-screen" }); // no clipboard outside a secure origin
      field.value = text;
      (document.querySelector("dialog[open]") || document.body).append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
  }

  /* ---- the menu ---- */

  /* Mantine gives the focus to an empty place that is no item of the menu: the first item gets it instead. */
  document.addEventListener("focusin", ({ target }) => {
    if (!target.matches("[role=menu] > [data-autofocus]")) return;
    target.parentElement.querySelector("[role=menuitem]").focus();
    target.removeAttribute("tabindex");
  });

  let clearing = null;
  function say(words, lasting) {
    clearTimeout(clearing);
    callbacks.set_props("share-done", { children: words });
    if (!lasting) clearing = setTimeout(() => callbacks.set_props("share-done", { children: "" }), DONE_MS);
  }

  /* Where the view stands as a page, alone in a frame, and as a picture. */
  function places(view) {
    const site = liqheat.site();
    if (liqheat.frozen) return frozenPlaces(liqheat.frozen.id);
    const query = view.canonical;
    return { page: `${site}/?${query}`, frame: `${site}/embed?${query}`, picture: `${site}/preview.png?${query}` };
  }
  function frozenPlaces(id) {
    const page = `${liqheat.site()}/s/${id}`;
    return { page, frame: `${page}/embed`, picture: `${page}/preview.png` };
  }

  async function freeze(view) {
    const response = await fetch("/api/v1/snapshots", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ view: view.canonical }),
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.error || answer.detail || `the server answered ${response.status}`);
    return answer;
  }

  async function shareSnapshot(view) {
    say("Freezing …", true);
    try {
      const { id } = liqheat.frozen || (await freeze(view));
      const { page } = frozenPlaces(id);
      await copied(page);
      say([liqheat.h("A", { href: `/s/${id}`, target: "_blank" }, "Snapshot"), " made, its link copied"], true);
    } catch (error) {
      say(`No snapshot: ${error.message}`, true);
    }
  }

  callbacks.liqheat.share = function (_link, _snapshot, _embed, view) {
    const [chosen] = (callbacks.callback_context.triggered || []).map((t) => t.prop_id.split(".")[0]);
    if (chosen === "share-snapshot") shareSnapshot(view);
    else if (chosen === "share-embed") openDialog(view);
    else copied(places(view).page).then(() => say("Copied"));
    return callbacks.no_update;
  };

  /* Addresses of what can be downloaded of the view: picture, CSV, Arrow, JSON. */
  liqheat.downloads = function (view) {
    const parts = liqheat.frozen && `/api/v1/snapshots/${liqheat.frozen.id}`;
    if (parts) return [`/s/${liqheat.frozen.id}/preview.png`, `${parts}/levels?format=csv`, `${parts}/levels?format=arrow`, `${parts}/chart`];
    const levels = (form) => `/api/v1/heatmap?${view.canonical}&format=${form}`;
    return [`/preview.png?${view.canonical}`, levels("csv"), levels("arrow"), levels("json")];
  };

  /* ---- the dialog ---- */

  const CHOICES = {
    kind: [["interactive", "Interactive chart"], ["static", "Picture with a link"]],
    data: [["live", "Live"], ["frozen", "As it is now, for good"]],
    theme: [["dark", "Dark"], ["light", "Light"]],
    panels: [["shown", "As on the page"], ["none", "None"], ["all", "All"]],
    width: [["100%", "As wide as there is room"], ["800", "800 pixels"], ["480", "480 pixels"], ["320", "320 pixels"]],
    height: [["640", "640 pixels"], ["480", "480 pixels"], ["360", "360 pixels"], ["fit", "Fits itself (adds a script)"]],
  };
  const NAMES = { kind: "What", data: "Data", theme: "Theme", panels: "Rows below", width: "Width", height: "Height" };
  const FIT_HEIGHT = 560; // until the frame has said what it needs

  function choose(name, value) {
    const options = CHOICES[name].map(([v, words]) => el("option", { value: v, selected: v === value }, words));
    return el("label", { class: "share-choice" }, NAMES[name], el("select", { name }, ...options));
  }

  function queryOf(view, chosen) {
    const query = new URLSearchParams(view.canonical);
    if (chosen.panels !== "shown") query.set("panels", chosen.panels);
    if (chosen.panels === "all") query.delete("panels");
    query.delete("theme");
    if (chosen.theme !== "dark") query.set("theme", chosen.theme);
    return query.toString().replace(/%2C/g, ",");
  }

  /* -> code to copy, and the address of its frame */
  function code(view, chosen, at) {
    const title = escaped(`${view.symbol} liquidation heatmap, ${view.range}`);
    const wide = chosen.width === "100%";
    if (chosen.kind === "static") {
      const size = wide ? `style="max-width:100%"` : `width="${chosen.width}"`;
      return { text: `<a href="${escaped(at.page)}"><img src="${escaped(at.picture)}" ${size} alt="${title}"></a>`, picture: at.picture };
    }
    const height = chosen.height === "fit" ? FIT_HEIGHT : Number(chosen.height);
    const frame =
      `<iframe src="${escaped(at.frame)}" width="${chosen.width}" height="${height}" style="border:0;max-width:100%" ` +
      `loading="lazy" title="${title}"></iframe>`;
    return { text: chosen.height === "fit" ? `${frame}\n${listener()}` : frame, frame: at.frame, height };
  }

  const listener = () => `<script>
addEventListener("message", function (event) {
  if (event.origin !== ${JSON.stringify(new URL(liqheat.site()).origin)} || !event.data || event.data.type !== "liqheat:height") return;
  document.querySelectorAll("iframe").forEach(function (frame) {
    if (frame.contentWindow === event.source) frame.style.height = event.data.height + "px";
  });
});
</script>`;

  function openDialog(view) {
    const form = el("form", { class: "share-form", method: "dialog" });
    const names = liqheat.frozen ? ["kind", "width", "height"] : Object.keys(CHOICES);
    form.append(...names.map((name) => choose(name, { theme: view.theme }[name])));
    const field = el("textarea", { class: "share-code", readonly: true, rows: "5", "aria-label": "Code to copy", spellcheck: "false" });
    const preview = el("div", { class: "share-preview" });
    const done = el("span", { class: "dim", role: "status" });
    const copy = el("button", { type: "button", class: "tool tool-button accent", onclick: () => copied(field.value).then(() => (done.textContent = "Copied")) }, "Copy code");
    const close = el("button", { type: "button", class: "tool tool-button", onclick: () => dialog.close() }, "Close");
    const heading = el("h2", { id: "share-title" }, `Embed ${view.symbol}, ${view.range}`);
    const about = el("p", { class: "note" }, "Origin, time and a link to this server stand in every embed. Theme and rows of frozen data are frozen, too.");
    const dialog = el("dialog", { class: "dialog share-dialog", "aria-labelledby": "share-title", onclose: () => dialog.remove() },
      el("header", {}, heading, close), form, about, field, el("div", { class: "share-actions" }, copy, done), preview);
    document.body.append(dialog);
    form.addEventListener("change", () => show());

    const snapshots = new Map(); // of each view chosen, so that a frozen one is made once
    let turn = 0;
    async function show() {
      const mine = ++turn;
      const chosen = { kind: "interactive", data: "live", panels: "shown", theme: view.theme, ...Object.fromEntries(new FormData(form)) };
      form.dataset.kind = chosen.kind;
      const wanted = { ...view, canonical: liqheat.frozen ? view.canonical : queryOf(view, chosen) };
      copy.disabled = true;
      done.textContent = "";
      try {
        const at = chosen.data === "frozen" ? await frozenOnce(wanted) : places(wanted);
        if (mine !== turn) return;
        const made = code(wanted, chosen, at);
        field.value = made.text;
        preview.replaceChildren(shown(made, chosen));
        copy.disabled = false;
      } catch (error) {
        if (mine === turn) done.textContent = `No snapshot: ${error.message}`;
      }
    }
    async function frozenOnce(wanted) {
      done.textContent = "Freezing …";
      if (!snapshots.has(wanted.canonical)) snapshots.set(wanted.canonical, freeze(wanted));
      try {
        const { id } = await snapshots.get(wanted.canonical);
        done.textContent = "";
        return frozenPlaces(id);
      } catch (error) {
        snapshots.delete(wanted.canonical);
        throw error;
      }
    }
    /* From this server's own address: the one others use need not lead here. */
    function shown(made, chosen) {
      const own = (address) => address.replace(liqheat.site(), "");
      const width = chosen.width === "100%" ? "100%" : `${chosen.width}px`;
      if (made.picture) return el("img", { src: own(made.picture), alt: "Preview", style: `width:${width}` });
      return el("iframe", { src: own(made.frame), title: "Preview", style: `width:${width};height:${made.height}px` });
    }
    dialog.showModal();
    show();
  }

  addEventListener("message", (event) => {
    if (event.origin !== location.origin || !event.data || event.data.type !== "liqheat:height") return;
    const frame = document.querySelector(".share-preview iframe");
    const fits = document.querySelector(".share-form select[name=height]");
    if (frame && fits && fits.value === "fit" && frame.contentWindow === event.source) frame.style.height = `${event.data.height}px`;
  });

  /* ---- a frame tells how high it would like to be ---- */

  const SHAPE = 0.5; // height of the chart to its width
  const BOUNDS = [220, 560];
  const ROW = 67; // a row under the chart with its title
  let told = 0;
  /* By the width and the view alone: what depended on the height would never come to rest. */
  liqheat.tellHeight = function (rows) {
    if (window.parent === window || document.documentElement.dataset.page !== "embed") return;
    const above = document.querySelector(".plot").getBoundingClientRect().top + window.scrollY;
    const below = document.querySelector(".footer").offsetHeight;
    const chart = Math.min(Math.max(window.innerWidth * SHAPE, BOUNDS[0]), BOUNDS[1]);
    const height = Math.round(above + chart + rows * ROW + below);
    if (Math.abs(height - told) < 2) return;
    told = height;
    window.parent.postMessage({ type: "liqheat:height", height }, "*"); // nothing but a number, for whoever frames it
  };
})();
