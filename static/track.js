/* The track record: a choice shows at once, without the button that works without scripts; heads sort without a new page. */
(function () {
  "use strict";
  const { byId } = window.liqheat;
  const SORTED = ["filter", "gain", "numbers"]; // parts that an order changes

  const ready = () => (byId("show").hidden = true);
  document.addEventListener("change", (event) => event.target.form && event.target.form.id === "filter" && event.target.form.requestSubmit());

  /* The server sorts; what it says takes the place of what is shown, and the head keeps the focus. */
  async function sort(link) {
    const { key } = link.parentNode.dataset;
    const part = link.closest("section").id;
    const answer = await fetch(link.href);
    if (!answer.ok) throw new Error(answer.statusText); // the address itself says what is wrong
    const made = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of SORTED) byId(id).replaceWith(made.getElementById(id));
    history.replaceState(null, "", link.href);
    ready();
    document.querySelector(`#${part} th[data-key="${key}"] a`).focus();
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("th[data-key] a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    sort(link).catch(() => location.assign(link.href));
  });
  ready();
})();
