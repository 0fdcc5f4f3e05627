/* The chart by keyboard: a reading that is moved by arrows and spoken, zoom by keys and, for fingers, by buttons. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const STEP_PX = 4;
  const FAR = 10; // steps with Shift
  const ZOOM = 0.8;
  const SPEAK_MS = 350;

  const graph = () => document.querySelector("#chart .js-plotly-plot");
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  /* ---- zoom: of prices, around the reading or the price of now ---- */

  let at = null; // the reading's place in pixels, while it is moved by keys

  function moveRange(change) {
    const gd = graph();
    const layout = gd && gd._fullLayout;
    if (!layout || !liqheat.answer() || layout.yaxis.type === "log") return;
    window.Plotly.relayout(gd, { "yaxis.range": liqheat.bounded("y", change(layout.yaxis)) });
  }
  liqheat.zoomBy = (factor) =>
    moveRange(({ range: [low, high], p2d, _offset }) => {
      const mark = liqheat.answer().readings.mark_price;
      const wanted = at ? p2d(at.y - _offset) : mark;
      const middle = wanted > low && wanted < high ? wanted : (low + high) / 2;
      return [middle - (middle - low) * factor, middle + (high - middle) * factor];
    });
  const shift = (share) => moveRange(({ range: [low, high] }) => [low + share * (high - low), high + share * (high - low)]);

  /* ---- the reading ---- */

  let speaking = null;
  function speak(layer) {
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      const words = [...layer.querySelectorAll(".card div")].map((line) => [...line.children].map((c) => c.textContent).join(" "));
      layer.closest(".plot").querySelector(".spoken").textContent = words.join(", ");
    }, SPEAK_MS);
  }

  /* Middle of the last column, at the price of now. */
  function begin({ xaxis, yaxis }) {
    const y = yaxis.d2p(liqheat.answer().readings.mark_price);
    return { x: xaxis._offset + xaxis._length - 8, y: yaxis._offset + clamp(y, 0, yaxis._length - 1) };
  }

  function columnPx({ xaxis }) {
    const heat = liqheat.answer().figure.data.find((t) => t.type === "heatmap");
    const [start, end] = xaxis.range.map((x) => liqheat.toMs(x));
    return heat ? Math.max(1, (xaxis._length * heat.dx) / (end - start)) : STEP_PX;
  }

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function moved(event, layout) {
    const { xaxis } = layout;
    const [left, right] = [xaxis._offset + 1, xaxis._offset + xaxis._length - 1];
    const bottom = Math.max(...liqheat.axesOf(layout).map((a) => a._offset + a._length));
    const times = event.shiftKey ? FAR : 1;
    const now = at || begin(layout);
    if (event.key === "Home" || event.key === "End") return { ...now, x: event.key === "Home" ? left : right };
    const [x, y] = MOVES[event.key];
    return { x: clamp(now.x + x * times * columnPx(layout), left, right), y: clamp(now.y + y * times * STEP_PX, layout.yaxis._offset, bottom - 1) };
  }

  function show(gd, layer) {
    liqheat.showCross(gd, layer, at.x, at.y);
    speak(layer);
  }
  function hide(layer) {
    at = null;
    layer.hidden = true;
  }

  function pressed(event, gd, layer) {
    const layout = gd._fullLayout;
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey || !liqheat.answer()) return;
    if (event.key === "Escape") return void hide(layer);
    if (event.key === "PageUp" || event.key === "PageDown") shift(event.key === "PageUp" ? 0.25 : -0.25);
    else if (event.key in MOVES || event.key === "Home" || event.key === "End") {
      at = moved(event, layout);
      show(gd, layer);
    } else return;
    event.preventDefault();
  }

  /* Once for every chart that is made. */
  liqheat.attachKeys = function (gd) {
    const box = gd.closest(".plot");
    const layer = box.querySelector(".cross");
    box.addEventListener("keydown", (event) => pressed(event, gd, layer));
    box.addEventListener("focus", () => {
      if (!box.matches(":focus-visible") || !gd._fullLayout || !liqheat.answer()) return;
      at = begin(gd._fullLayout);
      show(gd, layer);
    });
    box.addEventListener("blur", () => hide(layer));
    gd.on("plotly_afterplot", () => at && !liqheat.pointed() && show(gd, layer));
    for (const [name, does] of Object.entries({ in: () => liqheat.zoomBy(ZOOM), out: () => liqheat.zoomBy(1 / ZOOM), all: () => liqheat.showAll() })) {
      box.querySelector(`[data-zoom=${name}]`).addEventListener("click", does);
    }
  };
})();
