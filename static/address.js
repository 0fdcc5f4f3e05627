/* What the address of this page is of: a view, spelled out in it, or a snapshot, whose view the server wrote in the head. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const meta = (name) => document.querySelector(`meta[name="${name}"]`);
  const [, id] = /^\/s\/([0-9a-f]{32})(?:\/embed)?$/.exec(location.pathname) || [];

  /* Of a snapshot its id and view; nothing in it moves and nothing of it can be chosen. */
  liqheat.frozen = id && meta("liqheat-frozen") ? { id, view: meta("liqheat-frozen").content } : null;
  liqheat.asked = () => (liqheat.frozen ? liqheat.frozen.view : location.search.slice(1));

  // Before the first paint: an embed shows no controls, and no theme flashes.
  const root = document.documentElement;
  root.dataset.page = /\/embed\/?$/.test(location.pathname) ? "embed" : "full";
  const look = new URLSearchParams(liqheat.asked());
  root.dataset.theme = look.get("theme") === "light" ? "light" : "dark";
  root.dataset.palette = ["colorblind", "mono"].includes(look.get("palette")) ? look.get("palette") : "redgreen";
  if (liqheat.frozen) root.dataset.snapshot = id;

  liqheat.chartOf = (query) => (liqheat.frozen ? `/api/v1/snapshots/${id}/chart` : `/api/v1/chart?${query}`);
  /* The site as others see it. */
  liqheat.site = () => (meta("liqheat-site") ? meta("liqheat-site").content : location.origin);
})();
