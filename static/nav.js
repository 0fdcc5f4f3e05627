/* The look, theme and palette, goes with the visitor from page to page: it is part of every link between them. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const USUAL = { theme: "dark", palette: "redgreen" };

  liqheat.lookQuery = (look) =>
    Object.entries(USUAL).filter(([name, usual]) => look[name] && look[name] !== usual).map(([name]) => `${name}=${look[name]}`).join("&");

  liqheat.carry = function (look) {
    const query = liqheat.lookQuery(look);
    for (const link of document.querySelectorAll("a[data-path]")) link.href = link.dataset.path + (query ? `?${query}` : "");
  };
})();
