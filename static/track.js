/* The filter of the track record: a choice shows at once, without the button that works without scripts. */
(function () {
  "use strict";
  const form = document.getElementById("filter");
  document.getElementById("show").hidden = true;
  form.addEventListener("change", () => form.requestSubmit());
})();
