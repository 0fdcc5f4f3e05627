/* Single keys. The help sheet is written from the same list that is listened to. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const { el } = liqheat;
  const OFF = "liqheat-keys"; // kept in the browser only while single keys are off
  const TYPED_IN = "textarea, select, [contenteditable], input:not([type=radio]):not([type=checkbox])";
  const OWN_KEYS = "dialog, [role=dialog], [role=menu], [role=listbox]"; // what has the keyboard to itself while it is open
  const groups = [];

  /* A group of the sheet: entries of { keys, shown, words, does }; without `does` another part of the page listens. */
  liqheat.shortcuts = (title, entries) => groups.push({ title, entries });

  function isOff() {
    try {
      return localStorage.getItem(OFF) === "off";
    } catch (error) {
      return false; // a browser that keeps nothing
    }
  }
  function switchKeys(on) {
    try {
      if (on) localStorage.removeItem(OFF);
      else localStorage.setItem(OFF, "off");
    } catch (error) {
      // until the page is left
    }
  }

  function meant(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isOff()) return null;
    const target = event.target.closest ? event.target : document.body;
    if (target.closest(TYPED_IN) || target.closest(OWN_KEYS)) return null;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    return groups.flatMap((g) => g.entries).find((e) => e.does && e.keys.includes(key)) || null;
  }
  /* What is open closes by itself while it has the focus; where the focus was lost, here. */
  function closeLost() {
    const opener = document.activeElement === document.body && document.querySelector("[aria-haspopup][aria-expanded=true]");
    if (!opener) return;
    opener.click();
    opener.focus();
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeLost();
    const entry = meant(event);
    if (!entry) return;
    event.preventDefault();
    entry.does(event.key.toLowerCase());
  });

  /* ---- the sheet ---- */

  const row = ({ keys, shown, words }) =>
    el("div", {}, el("dt", {}, ...(shown || keys).map((key) => el("kbd", {}, key))), el("dd", {}, words));

  function openSheet() {
    const close = el("button", { type: "button", class: "tool tool-button", onclick: () => sheet.close() }, "Close");
    const toggle = el("input", { type: "checkbox", checked: !isOff(), onchange: (event) => switchKeys(event.target.checked) });
    const part = ({ title, entries }) => el("section", {}, el("h3", {}, title), el("dl", {}, ...entries.map(row)));
    const sheet = el("dialog", { class: "dialog keys-sheet", "aria-labelledby": "keys-title", onclose: () => sheet.remove() },
      el("header", {}, el("h2", { id: "keys-title" }, "Keyboard"), close),
      el("div", { class: "keys-groups" }, ...groups.map(part)),
      el("label", { class: "keys-switch" }, toggle, "Single keys do these things, outside of fields"));
    document.body.append(sheet);
    sheet.showModal();
  }
  document.addEventListener("click", (event) => event.target.closest("[data-keys-help]") && openSheet());

  liqheat.shortcuts("Everywhere", [
    { keys: ["?"], words: "This sheet", does: openSheet },
    { keys: ["Escape"], shown: ["Esc"], words: "Close what is open" },
    { keys: ["Tab"], words: "To the next control; Enter or Space uses it" },
  ]);
})();
