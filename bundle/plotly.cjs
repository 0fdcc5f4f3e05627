/* The traces that dashboard/figures.py and dashboard/maps.py draw; scatter is part of the core. */
"use strict";
const Plotly = require("plotly.js/lib/core");
Plotly.register([
  require("plotly.js/lib/heatmap"),
  require("plotly.js/lib/candlestick"),
  require("plotly.js/lib/bar"),
]);
module.exports = Plotly;
