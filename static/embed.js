/* The chart alone, without Dash: what the other scripts ask of Dash is done here, for the few components a frame has. */
(function () {
  "use strict";
  const liqheat = window.liqheat;
  const callbacks = window.dash_clientside;
  const ours = callbacks.liqheat;
  const { schema, config } = JSON.parse(document.getElementById("schema").textContent);

  const VIEW = 13; // its place in what `route` returns
  const CONTROLS = 12;
  const DESCRIBED = ["banner", "status", "totals", "legend", "map-legend", "liquidated", "footer"];
  const ATTRIBUTES = { className: "class", tabIndex: "tabindex", colSpan: "colspan" };

  const same = Symbol("no update");
  callbacks.no_update = same;
  callbacks.callback_context = { triggered: [] };
  let view = null;
  let readings = null;

  /* Nodes of a component, its children, or a text. */
  function nodesOf(part) {
    if (part === null || part === undefined || part === false) return [];
    if (Array.isArray(part)) return part.flatMap(nodesOf);
    if (typeof part !== "object") return [document.createTextNode(String(part))];
    const { children, ...props } = part.props;
    const named = Object.entries(props).map(([name, value]) => [ATTRIBUTES[name] || name, value]);
    return [liqheat.el(part.type.toLowerCase(), Object.fromEntries(named), ...nodesOf(children))];
  }

  function show(id, children) {
    const box = document.getElementById(id);
    if (box && children !== same) box.replaceChildren(...nodesOf(children));
  }

  const draw = ({ data, layout }) => window.Plotly.react(document.querySelector("#chart > div"), data, layout, config);

  function describe() {
    const parts = ours.describe(readings, view);
    DESCRIBED.forEach((id, i) => show(id, parts[i]));
    ours.pulse(null, readings);
  }

  async function load() {
    const [figure, told, notice] = await ours.load(view);
    show("notice", notice);
    if (figure !== same) draw(figure);
    if (told === same) return;
    readings = told;
    describe();
  }

  function hear(live) {
    callbacks.callback_context = { triggered: [{ prop_id: "live.data" }] };
    ours.pulse(live, readings);
    callbacks.callback_context = { triggered: [] };
  }

  const PROPS = {
    nudge: () => setTimeout(load),
    view: ({ data }) => {
      view = data;
      setTimeout(load);
    },
    live: ({ data }) => hear(data),
    chart: ({ figure }) => draw(figure),
  };
  callbacks.set_props = (id, props) => {
    if (PROPS[id]) PROPS[id](props);
    else if ("children" in props) show(id, props.children);
  };

  liqheat.attachOverlay = () => {}; // there are no panels that draw on it
  liqheat.schema = schema;
  view = ours.route("", ...Array(CONTROLS), schema)[VIEW];
  load();
})();
