/* The look, theme and palette, goes with the visitor from page to page: it is part of every link between them. The links back
   to the heatmap have the view it last had in this tab. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const USUAL = { theme: "dark", palette: "redgreen" };

  liqheat.lookQuery = (look) =>
    Object.entries(USUAL).filter(([name, usual]) => look[name] && look[name] !== usual).map(([name]) => `${name}=${look[name]}`).join("&");

  const KEPT = "liqheat-view";
  const isHeatmap = location.pathname === "/";
  function keep(view) {
    const query = new URLSearchParams(view.canonical);
    for (const name of Object.keys(USUAL)) query.delete(name);
    if (!new URLSearchParams(view.query).has("symbol")) query.delete("symbol"); // the first on offer, whichever that is
    try {
      sessionStorage.setItem(KEPT, query.toString().replace(/%2C/g, ","));
    } catch (error) {
      // a browser that keeps nothing
    }
  }
  function kept() {
    try {
      return sessionStorage.getItem(KEPT);
    } catch (error) {
      return null;
    }
  }

  /* A look, or a view, which has one. */
  liqheat.carry = function (look) {
    if (isHeatmap && look.canonical) keep(look);
    for (const link of document.querySelectorAll("a[data-path]")) {
      const view = link.dataset.path === "/" && !isHeatmap && kept();
      const query = [view, liqheat.lookQuery(look)].filter(Boolean).join("&");
      link.href = link.dataset.path + (query ? `?${query}` : "");
    }
  };
  if (!isHeatmap) addEventListener("pageshow", () => liqheat.carry(document.documentElement.dataset)); // also on coming Back
})();
