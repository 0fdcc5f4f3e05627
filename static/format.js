/* Words and numbers as people read them. Money in short form with the exact value on hover; UTC with local time on hover. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const VENUES = { okx: "OKX", binance: "Binance", bybit: "Bybit", gate: "Gate", bitget: "Bitget", hyperliquid: "Hyperliquid" };
  const two = (n) => String(n).padStart(2, "0");
  const finite = (x) => typeof x === "number" && Number.isFinite(x);

  /* $12.3M */
  function usd(x) {
    if (!finite(x)) return "–";
    const size = Math.abs(x);
    for (const [unit, letter] of UNITS) {
      if (size >= unit * 0.9995) return `$${digits(x / unit)}${letter}`;
    }
    return `$${digits(x)}`;
  }
  const digits = (x) => (Math.abs(x) >= 99.95 ? x.toFixed(0) : Math.abs(x) >= 9.995 ? x.toFixed(1) : x.toFixed(2));
  const exact = (x) => (finite(x) ? "$" + Math.round(x).toLocaleString("en-US") : "");

  /* Five significant digits at least, grouped: 64,231.5 · 0.08123 */
  function price(x) {
    if (!finite(x)) return "–";
    const places = x >= 10000 ? 1 : x >= 100 ? 2 : Math.max(0, 4 - Math.floor(Math.log10(x)));
    return x.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  }

  const percent = (x, places = 2) => `${x >= 0 ? "+" : "−"}${Math.abs(x * 100).toFixed(places)} %`;

  function clock(ms, seconds) {
    const t = new Date(ms);
    return `${two(t.getUTCHours())}:${two(t.getUTCMinutes())}${seconds ? ":" + two(t.getUTCSeconds()) : ""}`;
  }
  const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
  const day = (ms) => `${new Date(ms).getUTCDate()} ${MONTHS[new Date(ms).getUTCMonth()]}`;
  const year = (ms) => new Date(ms).getUTCFullYear();
  const local = (ms) => `${new Date(ms).toLocaleString()} local time`;

  function age(ms) {
    const s = Math.max(0, Math.round(ms / 1000));
    if (s < 90) return `${s} s`;
    if (s < 5400) return `${Math.round(s / 60)} min`;
    return s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
  }

  liqheat.venueName = (id) => VENUES[id] || id.charAt(0).toUpperCase() + id.slice(1);
  liqheat.format = { usd, exact, price, percent, clock, day, year, local, age, finite };
})();
