// The lineage as a graph: all tables, what one table hangs on, or the way of one column, from source to chart.
"use strict";

const graph = page.graph;
const ROWS = "*";
const layers = ["source", "raw", "staging", "dimensions", "facts", "marts", "view", "chart"];
const layerTone = { source: 7, raw: 7, staging: 3, dimensions: 4, facts: 1, marts: 2, view: 6, chart: 5 };
const nodes = new Map(graph.nodes.map((node) => [node.name, node]));
const tableOf = (place) => place.slice(0, place.lastIndexOf("."));
const columnOf = (place) => place.slice(place.lastIndexOf(".") + 1);
const conditions = new Set(["filter", "join", "group"]);
const byId = (id) => document.getElementById(id);
const place = byId("place");
let way = "both";
let chosen = "";
let drawn = null;

const between = new Map();
for (const edge of graph.edges) {
  const key = `${tableOf(edge.from)} ${tableOf(edge.to)}`;
  between.set(key, (between.get(key) ?? new Set()).add(edge.kind));
}
const tableEdges = [...between].map(([key, kinds]) => ({ from: key.split(" ")[0], to: key.split(" ")[1], kind: [...kinds].join(", ") }));

/** Every step up, down or both ways from a place. */
function reached(edges, start) {
  const found = new Set();
  for (const [here, there, wanted] of [["from", "to", "down"], ["to", "from", "up"]]) {
    if (way !== "both" && way !== wanted) continue;
    const steps = grouped(edges, here);
    const waiting = [start];
    const seen = new Set(waiting);
    for (const one of waiting) for (const edge of steps.get(one) ?? []) {
      found.add(edge);
      if (!seen.has(edge[there])) { seen.add(edge[there]); waiting.push(edge[there]); }
    }
  }
  return [...found];
}
function grouped(edges, key) {
  const found = new Map();
  for (const edge of edges) {
    if (!found.has(edge[key])) found.set(edge[key], []);
    found.get(edge[key]).push(edge);
  }
  return found;
}

/** What is to be drawn: names of nodes and the steps between them. */
function elements() {
  const isColumn = chosen && !nodes.has(chosen);
  const usable = isColumn ? graph.edges.filter((edge) => byId("with-conditions").checked || !conditions.has(edge.kind)) : tableEdges;
  const isShown = (name) => byId("with-sources").checked || chosen || !["source", "raw"].includes(nodes.get(name).kind);
  const edges = (chosen ? reached(usable, chosen) : usable).filter((edge) => isColumn || (isShown(edge.from) && isShown(edge.to)));
  const names = new Set(chosen ? [chosen] : [...nodes.keys()].filter(isShown));
  for (const edge of edges) { names.add(edge.from); names.add(edge.to); }
  return { isColumn, edges, names: [...names] };
}

/** A long name on two lines, broken where its parts meet, so that a layer stays narrow and its letters large. */
function broken(name) {
  if (name.length <= 20) return name;
  const cuts = [...name.matchAll(/__|\.|_(?=[^_])/g)].map((cut) => [Math.max(cut.index + cut[0].length, name.length - cut.index - cut[0].length), cut.index + cut[0].length]);
  const [, at] = cuts.sort((a, b) => a[0] - b[0])[0] ?? [0, name.length];
  return `${name.slice(0, at)}\n${name.slice(at)}`;
}
const titled = (table) => broken(nodes.get(table).kind === "chart" ? columnOf(table) : table);
const label = (name, isColumn) => (isColumn ? `${columnOf(name) === ROWS ? "rows" : columnOf(name)}\n${titled(tableOf(name))}` : titled(name));
function draw() {
  const { isColumn, edges, names } = elements();
  const kind = (name) => nodes.get(isColumn ? tableOf(name) : name).kind;
  const text = tone("text");
  drawn?.destroy();
  drawn = cytoscape({
    container: byId("graph"), minZoom: 0.08, maxZoom: 2.5, autoungrabify: true, userZoomingEnabled: false,
    elements: [
      ...names.map((name) => ({ data: { id: name, label: label(name, isColumn), rank: layers.indexOf(kind(name)) }, classes: `${kind(name)}${name === chosen ? " chosen" : ""}` })),
      ...edges.map((edge, number) => ({ data: { id: `e${number}`, source: edge.from, target: edge.to, label: isColumn ? edge.kind : "" }, classes: conditions.has(edge.kind) ? "condition" : "" })),
    ],
    style: [
      { selector: "node", style: { label: "data(label)", shape: "round-rectangle", width: (node) => 22 + 6.7 * Math.max(...node.data("label").split("\n").map((line) => line.length)), height: (node) => (isColumn ? 12 + 16 * node.data("label").split("\n").length : 36), "font-family": "Inter, system-ui, sans-serif", "font-size": 12, color: text, "text-valign": "center", "text-halign": "center", "text-wrap": "wrap", "line-height": 1.35, "background-color": tone("surface"), "border-width": 1.5, "border-color": tone("line-strong") } },
      ...layers.map((layer) => ({ selector: `.${layer}`, style: { "border-color": series(layerTone[layer] - 1) } })),
      { selector: ".chosen", style: { "background-color": tone("accent-soft"), "border-width": 3 } },
      { selector: "edge", style: { width: 1.3, "curve-style": "bezier", "source-endpoint": "90deg", "target-endpoint": "270deg", "line-color": tone("line-strong"), "target-arrow-shape": "triangle", "arrow-scale": 0.8, "target-arrow-color": tone("line-strong"), label: "data(label)", "font-size": 10.5, "font-family": "Inter, system-ui, sans-serif", color: tone("muted"), "text-background-color": tone("surface"), "text-background-opacity": 1, "text-background-padding": 2 } },
      { selector: ".within", style: { "curve-style": "unbundled-bezier", "source-endpoint": "90deg", "target-endpoint": "90deg", "control-point-distances": -64, "control-point-weights": 0.5 } },
      { selector: ".upward", style: { "control-point-distances": 64 } },
      { selector: ".condition", style: { "line-style": "dashed" } },
      { selector: ".near", style: { "line-color": tone("accent"), "target-arrow-color": tone("accent"), width: 2 } },
      { selector: ".far", style: { opacity: 0.18 } },
    ],
    layout: { name: "dagre", rankDir: "LR", nodeSep: 8, rankSep: 60, edgeSep: 4, animate: false, fit: false },
  });
  stand(isColumn);
  drawn.on("tap", "node", (event) => choose(event.target.id()));
  drawn.on("mouseover", "node", (event) => {
    const around = event.target.closedNeighborhood();
    drawn.elements().not(around).addClass("far");
    around.edges().addClass("near");
  });
  drawn.on("mouseout", "node", () => drawn.elements().removeClass("far near"));
  byId("graph-title").textContent = chosen || "All tables";
  byId("graph-about").textContent = `${names.length} ${isColumn ? "columns" : "tables, views and charts"}, ${edges.length} steps. Drag to move; choose one to follow it.`;
}

/** One column a layer, in the order that the layout found: the graph stays as narrow as there are layers, and a name
 * can be read without coming closer. Its height follows. */
function stand(isColumn) {
  const [across, along] = isColumn ? [68, 66] : [50, 41];
  const order = new Map(drawn.nodes().map((node) => [node.id(), node.position("y")]));
  // Each is drawn to the height of its neighbours, a few times over: fewer steps cross.
  for (let sweep = 0; sweep < 6; sweep += 1) for (const rank of layers.keys()) {
    const column = drawn.nodes().filter((node) => node.data("rank") === rank);
    const wish = (node) => {
      const near = node.neighborhood("node").filter((other) => other.data("rank") !== rank);
      return near.length ? near.reduce((total, other) => total + order.get(other.id()), 0) / near.length : Infinity;
    };
    [...column].map((node) => [node.id(), wish(node)]).sort((a, b) => a[1] - b[1] || a[0].localeCompare(b[0])).forEach(([id], place) => order.set(id, (place + 0.5) / column.length));
  }
  const most = Math.max(...layers.map((_, rank) => drawn.nodes().filter((node) => node.data("rank") === rank).length));
  let x = 0;
  for (const rank of layers.keys()) {
    const column = drawn.nodes().filter((node) => node.data("rank") === rank).sort((a, b) => order.get(a.id()) - order.get(b.id()));
    if (!column.length) continue;
    const apart = Math.min(along * 2, Math.max(along, (most * along) / column.length));
    const width = Math.max(...column.map((node) => node.width()));
    column.forEach((node, place) => node.style("width", width).position({ x: x + width / 2, y: (place - (column.length - 1) / 2) * apart }));
    x += width + across;
  }
  // Within a layer a step goes round outside of it, to the right.
  const within = drawn.edges().filter((edge) => edge.source().data("rank") === edge.target().data("rank")).addClass("within");
  within.filter((edge) => edge.source().position("y") > edge.target().position("y")).addClass("upward");
  const box = drawn.elements().boundingBox();
  const isNarrow = innerWidth <= 760;
  const level = Math.min(1.1, Math.max(chosen && !isNarrow ? 0.8 : 0.9, (byId("graph").clientWidth - 24) / box.w));
  byId("graph").style.height = `${Math.round(Math.min(isNarrow ? innerHeight * 0.6 : 1320, Math.max(220, box.h * level + 40)))}px`;
  drawn.resize();
  drawn.zoom(level);
  drawn.center();
  if (box.w * level <= byId("graph").clientWidth) return;
  const start = chosen ? byId("graph").clientWidth / 2 - drawn.getElementById(chosen).position("x") * level : 12 - box.x1 * level;
  drawn.pan({ x: Math.max(byId("graph").clientWidth - 12 - box.x2 * level, Math.min(12 - box.x1 * level, start)), y: drawn.pan().y });
}

function button(name, text) {
  const made = Object.assign(document.createElement("button"), { type: "button", className: "link code", textContent: text ?? name });
  made.addEventListener("click", () => choose(name));
  return made;
}
function list(title, items, isOfOne = false) {
  const part = document.createElement("div");
  if (isOfOne) part.className = "columns";
  part.innerHTML = "<h3></h3>";
  part.firstChild.textContent = `${title} (${items.length})`;
  const ul = document.createElement("ul");
  ul.className = "places";
  for (const [name, kind] of items) {
    const li = document.createElement("li");
    li.append(button(name, isOfOne ? columnOf(name) : name), Object.assign(document.createElement("span"), { className: "note", textContent: kind }));
    ul.append(li);
  }
  if (!items.length) ul.innerHTML = '<li class="note">nothing</li>';
  part.append(ul);
  return part;
}
function panel() {
  const part = byId("panel");
  if (!chosen) {
    const about = document.createElement("div");
    about.innerHTML = '<h2>From source to chart</h2><p class="note">Choose a table to see what it is made from and what it feeds; then one of its columns to follow that alone. The command line says the same:</p><pre class="command">python -m flows lineage fct_orders.revenue --down</pre>';
    const ends = [...nodes.values()].filter((node) => node.kind === "chart").map((node) => [node.name, "chart"]);
    part.replaceChildren(about, list("Charts", ends));
    return;
  }
  const isColumn = !nodes.has(chosen);
  const table = nodes.get(isColumn ? tableOf(chosen) : chosen);
  const column = isColumn ? table.columns.find((one) => one.name === columnOf(chosen)) : null;
  const head = document.createElement("div");
  head.innerHTML = '<h2 class="code"></h2><p class="note"></p><p></p>';
  head.children[0].textContent = chosen;
  head.children[1].textContent = column ? [column.type.toLowerCase(), column.description].filter(Boolean).join(": ") : table.description;
  if (isColumn) head.children[2].append(button(table.name, `Whole table ${table.name}`));
  else if (!["source", "chart", "view"].includes(table.kind)) head.children[2].innerHTML = `<a href="catalog.html#${table.name}">In the catalog</a>`;
  const edges = isColumn ? graph.edges : tableEdges;
  const parts = [head, list("Made from", edges.filter((edge) => edge.to === chosen).map((edge) => [edge.from, edge.kind])), list("Feeds", edges.filter((edge) => edge.from === chosen).map((edge) => [edge.to, edge.kind]))];
  if (!isColumn) parts.push(list("Columns", table.columns.map((one) => [`${table.name}.${one.name}`, one.type.toLowerCase()]), true));
  part.replaceChildren(...parts);
}
const isKnown = (name) => nodes.has(name) || (nodes.has(tableOf(name)) && (columnOf(name) === ROWS || nodes.get(tableOf(name)).columns.some((one) => one.name === columnOf(name))));
function unknown(name) {
  const said = document.createElement("div");
  said.innerHTML = '<h2></h2><p class="note">Choose one of the list that the field shows while you type. The command line names what is spelled alike:</p><pre class="command"></pre>';
  said.children[0].textContent = `No table or column is called ${name}`;
  said.children[2].textContent = `python -m flows lineage '${name.replaceAll("'", "")}'`;
  byId("panel").replaceChildren(said);
}
function choose(name) {
  if (name && !isKnown(name)) return unknown(name);
  chosen = name;
  place.value = name;
  history.replaceState(null, "", name ? `#${name}` : location.pathname.split("/").pop());
  draw();
  panel();
}

for (const node of graph.nodes) {
  byId("places").append(new Option(node.name));
  for (const column of node.columns) byId("places").append(new Option(`${node.name}.${column.name}`));
}
for (const mark of document.querySelectorAll("[data-layer]")) mark.style.borderColor = `var(--series-${layerTone[mark.dataset.layer]})`;
place.addEventListener("change", () => choose(place.value.trim().replace(/^analytics\./, "")));
byId("controls").addEventListener("submit", (event) => { event.preventDefault(); choose(place.value.trim().replace(/^analytics\./, "")); });
for (const one of document.querySelectorAll("[data-way]")) one.addEventListener("click", () => {
  way = one.dataset.way;
  for (const other of document.querySelectorAll("[data-way]")) other.setAttribute("aria-pressed", String(other === one));
  draw();
});
for (const id of ["with-sources", "with-conditions"]) byId(id).addEventListener("change", draw);
byId("all").addEventListener("click", () => choose(""));
byId("fit").addEventListener("click", () => drawn.fit(undefined, 12));
const zoom = (by) => drawn.zoom({ level: drawn.zoom() * by, renderedPosition: { x: drawn.width() / 2, y: drawn.height() / 2 } });
byId("closer").addEventListener("click", () => zoom(1.25));
byId("farther").addEventListener("click", () => zoom(0.8));
addEventListener("hashchange", () => choose(anchor()));
redraws.push(draw);
place.value = anchor();
chosen = isKnown(anchor()) ? anchor() : "";
if (chosen || !anchor()) panel();
else unknown(anchor());
// The words of the nodes are measured by the font, which may still be on its way.
document.fonts.ready.then(draw);
