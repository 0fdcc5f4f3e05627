/* What the numbers are, where they come from and how old they are: everything beside the chart. */
(function () {
  "use strict";
  const liqheat = (window.liqheat = window.liqheat || {});
  const callbacks = (window.dash_clientside = window.dash_clientside || {});
  callbacks.liqheat = callbacks.liqheat || {};
  const h = (...args) => liqheat.h(...args);
  const f = liqheat.format;
  const dmc = (type, props) => ({ namespace: "dash_mantine_components", type, props });

  /* -> [banner, status, totals, legend, legend of the map, 24 h, footer] */
  callbacks.liqheat.describe = function (readings, view) {
    if (!readings || !view) return Array(7).fill(callbacks.no_update);
    colours();
    liqheat.settle();
    return [
      banner(readings), status(readings), totals(readings.totals), legend(readings, view), mapLegend(readings), liquidated(readings), footer(readings, view),
    ];
  };

  /* The two ends of the colour scale, for everything else that names a side. */
  function colours() {
    const { figure } = liqheat.answer();
    const heat = figure.data.find((t) => t.type === "heatmap");
    const scale = heat && heat.colorscale;
    if (!Array.isArray(scale)) return;
    const style = document.documentElement.style;
    style.setProperty("--long", scale[1][1]);
    style.setProperty("--short", scale[scale.length - 2][1]);
    const stops = (from, to, turn) => {
      const part = scale.filter(([at]) => at >= from && at <= to);
      return (turn ? part.reverse() : part).map(([, c]) => c).join(", ");
    };
    style.setProperty("--long-ramp", `linear-gradient(90deg, ${stops(0, 0.5, true)})`);
    style.setProperty("--short-ramp", `linear-gradient(90deg, ${stops(0.5, 1, false)})`);
  }

  const embedded = () => document.documentElement.dataset.page === "embed";

  function banner(readings) {
    if (!liqheat.frozen) return readings.banner ? h("Span", { className: readings.origin }, readings.banner) : null;
    const when = `${f.day(readings.as_of_ms)} ${f.year(readings.as_of_ms)}, ${f.clock(readings.as_of_ms)} UTC`;
    return h("Span", { className: `snapshot ${readings.origin}` }, `SNAPSHOT as of ${when}: it does not move. ${readings.banner} `,
      h("A", { href: `/?${liqheat.frozen.view}`, target: embedded() ? "_blank" : undefined }, "This view now"));
  }

  function status(readings) {
    const { origin } = readings;
    return [
      h("Span", { className: `badge ${origin}`, title: readings.source || "" }, liqheat.frozen && origin === "live" ? "SNAPSHOT" : origin.toUpperCase()),
      ...liqheat.venueBadges(readings),
      h("Span", { title: "Levels are computed from open interest, prices and assumed leverages; nobody publishes them." },
        "levels ", h("B", {}, "ESTIMATED")),
      h("Span", { title: "Liquidations as the venues print them." },
        "prints ", h("B", {}, !readings.totals ? "NONE" : origin === "simulated" ? "SIMULATED" : "MEASURED")),
      readings.provisional && h("Span", { className: "venue", "data-state": "stale", title: "The position book is young: levels still depend on how it was started." }, "book PROVISIONAL"),
      h("Span", { className: "asof", id: "as-of", title: f.local(newestOf(readings)) },
        "as of ", h("B", { id: "as-of-time" }, f.clock(newestOf(readings), true)), ` UTC, ${f.day(newestOf(readings))}`),
    ].filter(Boolean);
  }

  /* Status line and footer alone: the venues may be doing otherwise though no chart is new. */
  liqheat.describeStatus = function () {
    const answer = liqheat.answer();
    if (!answer || !liqheat.view) return;
    callbacks.set_props("status", { children: status(answer.readings) });
    callbacks.set_props("footer", { children: footer(answer.readings, liqheat.view) });
  };

  function totals(day) {
    if (!day) return null;
    return [
      h("Span", { title: `Realised liquidations of the last 24 h: longs ${f.exact(day.long_usd)}, shorts ${f.exact(day.short_usd)}` },
        "24 h liquidated: longs ", h("B", { className: "long" }, f.usd(day.long_usd)), " · shorts ", h("B", { className: "short" }, f.usd(day.short_usd))),
    ];
  }

  function legend(readings, view) {
    const { scale } = readings;
    const unit = scale.unit || "per 0.1 %"; // snapshots of the first version tell none
    const one = (side, ramp, usd, where) =>
      view.side === (side === "longs" ? "short" : "long") ? null
        : h("Span", { title: usd === null ? "Nothing of this side is shown." : `Full colour: ${f.exact(usd)} ${unit} of price or more. Estimated.` },
          h("B", { className: side === "longs" ? "long" : "short" }, side), h("Span", { className: "words" }, " liquidated"), ` ${where}`,
          h("Span", { className: "ramp", style: { background: `var(${ramp})` } }),
          ...(usd === null ? ["none shown"] : ["≈ ", h("B", {}, f.usd(usd)), ` ${unit}`]));
    const words = {
      contrast: "Contrast: density above its surroundings along price. ",
      density: "Density. ",
      certain: "Certain: contrast times the lowest over the highest estimate by other assumptions. ",
    };
    const missing = readings.band && readings.band.missing;
    const how = words[scale.lens] +
      `Full colour is percentile ${scale.percentile} of what is on screen, per side, or less where the intensity says so; gamma ${scale.gamma}.` +
      (scale.least_share > 0 ? ` Below ${(100 * scale.least_share).toFixed(0)} % of it nothing is drawn.` : "");
    return [
      (embedded() || liqheat.frozen) && h("B", {}, `${view.symbol} · ${view.range}`),
      one("longs", "--long-ramp", scale.long_usd, "below"),
      one("shorts", "--short-ramp", scale.short_usd, "above"),
      h("Span", { className: "how", title: how }, `${scale.lens} · ${missing ? `no band: ${missing}` : `p${scale.percentile} · γ ${scale.gamma}`}`),
    ].filter(Boolean);
  }

  /* How much of the positions was observed, on which venue, and how old that is. */
  function observed(readings) {
    const share = (c) => (c ? `${(100 * c.both).toFixed(c.both < 0.1 ? 1 : 0)} % of its open interest` : "of open interest that is not known");
    const count = (n) => n.toLocaleString("en-US");
    const old = (ms) => f.age(readings.as_of_ms - ms);
    return readings.positions.venues.map((v) =>
      `${count(v.positions)} positions of ${count(v.accounts)} accounts asked on ${liqheat.venueName(v.exchange)}, ${share(v.coverage)}, ` +
      (old(v.newest_ms) === old(v.oldest_ms) ? `${old(v.oldest_ms)} old` : `${old(v.newest_ms)} to ${old(v.oldest_ms)} old`)).join("; ");
  }

  function measuredLegend(readings) {
    if (!readings.positions) return null;
    const title = "Positions that the venue publishes by account, at the liquidation prices it works out itself: not estimated, but only of the accounts that were asked";
    return h("P", { className: "note measured", id: "measured-note" },
      h("Button", { id: "measured-layer", className: "layer", title, "aria-pressed": String(liqheat.measuredShown()), "aria-describedby": "measured-note" }, h("I"), "outline"),
      ` ${readings.positions.basis.toUpperCase()}: ${observed(readings)}.`);
  }

  function mapLegend(readings) {
    const bars = ((liqheat.answer() || {}).map || { data: [] }).data.filter((t) => t.type === "bar");
    return [
      h("Div", { className: "swatches", title: "Effective leverage of the positions: notional over the margin really behind them" },
        ...bars.map((t) => h("Span", {}, h("I", { style: { background: t.marker.color } }), t.name.replace("-", "–")))),
      readings.map && h("P", { className: "note" }, `${readings.map.text}. Bars by effective leverage, lines summed from the mark outward. Estimated.`),
      measuredLegend(readings),
    ].filter(Boolean);
  }

  function liquidated(readings) {
    const day = readings.totals;
    const title = (words) => h("Div", { className: "box-title" }, "Liquidated in 24 h", h("Span", { className: "dim" }, words));
    if (!day) return [title("not measured"), h("P", {}, "No venue here has told of any liquidation: what was liquidated is not known, which is not nothing.")];
    const silent = readings.venues.filter((v) => !day.venues.some((told) => told.exchange === v.exchange));
    const sum = day.long_usd + day.short_usd;
    const cell = (usd, cls) => h("Td", { className: `number ${cls || ""}`, title: f.exact(usd) }, f.usd(usd));
    const row = (name, long, short, cls) => h("Tr", { className: cls || "" }, h("Td", {}, name), cell(long, "long"), cell(short, "short"));
    const big = day.largest;
    return [
      title(readings.origin === "simulated" ? "simulated" : "measured"),
      sum > 0 && h("Div", { className: "ratio", title: `longs ${Math.round((100 * day.long_usd) / sum)} %` },
        h("Span", { style: { width: `${(100 * day.long_usd) / sum}%`, background: "var(--long)" } }),
        h("Span", { style: { flex: 1, background: "var(--short)" } })),
      h("Table", {},
        h("Thead", {}, h("Tr", {}, h("Th", {}, "venue"), h("Th", {}, "longs"), h("Th", {}, "shorts"))),
        h("Tbody", {},
          ...day.venues.map((v) => row(liqheat.venueName(v.exchange), v.long_usd, v.short_usd)),
          ...silent.map((v) => h("Tr", { className: "dim" }, h("Td", {}, liqheat.venueName(v.exchange)), h("Td", { colSpan: 2 }, "tells of none"))),
          row("All", day.long_usd, day.short_usd, "sum"))),
      !big && h("P", {}, sum > 0 ? "Only sums are told, no single print." : "Nothing was liquidated in the last 24 h."),
      big && h("P", { title: `${f.exact(big.notional_usd)} at ${f.price(big.price)} · ${f.local(big.time_ms)}` },
        "Largest: ", h("B", { className: big.side }, f.usd(big.notional_usd)), ` ${big.side} at ${f.price(big.price)}, `,
        `${liqheat.venueName(big.exchange)} ${f.day(big.time_ms)} ${f.clock(big.time_ms)} UTC`),
    ].filter(Boolean);
  }

  function footer(readings, view) {
    return [
      h("A", { href: liqheat.frozen ? `/s/${liqheat.frozen.id}` : `/?${view.canonical}`, target: embedded() ? "_blank" : undefined }, `liqheat · ${view.symbol}`),
      h("Span", { className: "footer-origin" }, [liqheat.frozen && "SNAPSHOT", readings.origin !== "live" && readings.origin.toUpperCase()].filter(Boolean).join(" · ")),
      h("Span", {}, `as of ${f.clock(readings.as_of_ms, true)} UTC`),
      h("Span", { className: "troubles" }, liqheat.troubles(readings)),
      h("Span", {}, `levels estimated, leverage mix “${readings.preset}”`),
      h("Span", {}, "times in UTC"),
    ];
  }

  /* ---- price tag: from the last push of the lead venue where that is newer than the chart's readings ---- */
  let before = null;
  liqheat.priceTag = function (markets, readings) {
    if (!readings) return callbacks.no_update;
    const lead = readings.venues[0];
    liqheat.heard(markets);
    const pushed = liqheat.pushed(lead.market); // most pushes are of other venues, or of none
    const newer = pushed && pushed.as_of_ms >= lead.as_of_ms;
    const price = newer ? pushed.mark_price : readings.mark_price;
    if (document.getElementById("as-of-time")) callbacks.set_props("as-of-time", { children: f.clock(newestOf(readings), true) });
    const way = before && before.symbol === readings.symbol && price !== before.price ? (price > before.price ? "up" : "down") : before && before.way;
    before = { symbol: readings.symbol, price, way };
    document.title = `${f.price(price)} ${readings.symbol} · liqheat`;
    return h("Span", { title: `mark price, ${liqheat.venueName(lead.exchange)}` },
      liqheat.frozen && h("Span", { className: "coin" }, readings.symbol), h("Span", { className: way || "" }, f.price(price)), h("Span", { className: "unit" }, readings.quote || ""), sinceYesterday(price, readings));
  };

  function newestOf(readings) {
    const pushed = liqheat.pushed(readings.venues[0].market);
    return Math.max(readings.as_of_ms, pushed ? pushed.as_of_ms : 0);
  }

  function sinceYesterday(price, { price_day_before: was }) {
    if (!f.finite(was)) return null;
    return h("Span", { className: `change ${price < was ? "down" : "up"}`, title: `24 h ago: ${f.price(was)}` }, f.percent(price / was - 1), h("Span", { className: "dim" }, " 24 h"));
  }

  /* ---- what is on offer ---- */
  let markets = null;
  callbacks.liqheat.offer = async function (_readings, view) {
    const nothing = [callbacks.no_update, callbacks.no_update];
    if (!view) return nothing;
    if (liqheat.frozen) return nothing;
    if (!markets || !markets.some((m) => m.base === view.symbol)) {
      try {
        const response = await fetch("/api/v1/markets?detail=offer");
        if (!response.ok) return nothing;
        const answer = await response.json();
        markets = answer.markets || answer;
      } catch (error) {
        return nothing; // the chart says that the server does not answer
      }
    }
    const coins = [...new Set(markets.map((m) => m.base))];
    const before = liqheat.offered.join();
    liqheat.offered = markets.filter((m) => m.base === view.symbol).map((m) => m.exchange);
    callbacks.set_props("venues", { value: liqheat.venuesShown(liqheat.view) });
    if (coins.includes(liqheat.view.symbol)) callbacks.set_props("symbol", { value: liqheat.view.symbol });
    if (before === liqheat.offered.join()) return [coins, callbacks.no_update]; // chips made anew would lose the focus
    return [coins, liqheat.offered.map((v) => dmc("Chip", { children: liqheat.venueName(v), value: v, size: "xs", radius: "sm" }))];
  };
})();
