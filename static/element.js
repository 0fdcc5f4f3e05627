/* Markup out of data: what is data stays text. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const isNothing = (x) => x === null || x === undefined || x === false || x === "";

  /* An element with properties and children; `on…` listens, true is an attribute without a value. */
  liqheat.el = function (tag, props, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "class") node.className = value;
      else if (name === "style" && typeof value === "object") Object.assign(node.style, value);
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => !isNothing(child)));
    return node;
  };
})();
