// The charts that transforms/charts.py declares: a range of days, a currency, and from a point to its rows.
// Nothing is made up here: what is added up over days has its SQL beside it, built from the chart's own.
"use strict";

const charts = Object.fromEntries((page.charts || []).map((chart) => [chart.name, chart]));
const from = document.getElementById("from");
const to = document.getElementById("to");
const currencies = document.getElementById("currency");
const updates = [];
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
const dayOf = (time) => new Date(time).toISOString().slice(0, 10);
const hasCurrency = (chart) => Boolean(chart.currency);
/** The column that holds a day: of a heatmap the one of its cohorts. */
const dayColumn = (chart) => (chart.kind === "heatmap" ? chart.by : chart.x);

/** The rows that the chosen days and currency leave of a chart. */
function chosen(chart) {
  const column = dayColumn(chart);
  return records(chart.name).filter((row) =>
    row[column] >= from.value && row[column] <= to.value && (!hasCurrency(chart) || row[chart.currency] === currencies.value));
}
/** The same as SQL: a chart's own, narrowed. `what` is what is selected of it. */
function narrowed(chart, what, more = "") {
  const column = dayColumn(chart);
  const money = hasCurrency(chart) ? `\n    and ${chart.currency} = '${currencies.value}'` : "";
  return `select ${what}\nfrom (\n${chart.sql}\n) as ${chart.name}\nwhere ${column} between date '${from.value}' and date '${to.value}'${money}${more}`;
}
/** Sums of exact decimals, in hundredths of hundredths. */
function sum(rows, column) {
  let total = 0n;
  for (const row of rows) {
    const [whole, part = ""] = String(row[column] ?? 0).split(".");
    total += BigInt(whole + part.padEnd(4, "0").slice(0, 4));
  }
  return Number(total) / 10_000;
}
function told(chart, value, isShort = false) {
  if (value === null || value === undefined) return "–";
  if (chart.unit === "share") return percent.format(value);
  if (chart.unit === "money") {
    const options = { style: "currency", currency: currencies.value, currencyDisplay: "code" };
    return new Intl.NumberFormat("en", isShort ? { ...options, notation: "compact", maximumFractionDigits: 1 } : options).format(value);
  }
  return (isShort ? shortCounts : counts).format(value);
}
const axisFormat = (chart) => (value) => (chart.unit === "share" ? percent.format(value) : shortCounts.format(value));
const numberOf = (value) => (value === null ? null : Number(value));

// ---- tiles -------------------------------------------------------------------------------------------------------

for (const tile of document.querySelectorAll("[data-tile]")) {
  const chart = charts[tile.dataset.tile];
  const { measure, take } = tile.dataset;
  updates.push(() => {
    const rows = chosen(chart);
    const last = rows[rows.length - 1];
    const value = take === "sum" ? (rows.length ? sum(rows, measure) : null) : last && last[measure];
    const newest = `\norder by ${chart.x} desc\nlimit 1`;
    const figure = tile.querySelector(".value");
    figure.textContent = told(chart, value ?? null);
    if (chart.unit === "money" && value !== null) figure.innerHTML = figure.textContent.replace(/^([A-Z]{3})\s|^-([A-Z]{3})\s/, (_, code, minus) => `<small>${code ?? minus}</small> ${minus ? "-" : ""}`);
    tile.querySelector("pre").textContent = take === "sum" ? narrowed(chart, `sum(${measure}) as ${measure}`) : narrowed(chart, measure, newest);
    tile.dataset.value = value ?? "";
    tile.querySelector(".about").textContent = take === "sum" ? `${day(from.value)} – ${day(to.value)}` : last ? `on ${longDay(last[chart.x])}` : "";
  });
}

// ---- charts ------------------------------------------------------------------------------------------------------

function lines(chart, rows) {
  const tooltip = { ...frame().tooltip, valueFormatter: (value) => told(chart, value) };
  return frame({
    legend: legend(), tooltip, grid: { ...frame().grid, top: 40 },
    xAxis: dayAxis({ data: rows.map((row) => row[chart.x]) }),
    yAxis: valueAxis(axisFormat(chart), chart.unit === "share" ? { min: 0, max: 1, interval: 0.25 } : {}),
    series: Object.entries(chart.measures).map(([column, name], place) => ({
      name, type: "line", data: rows.map((row) => numberOf(row[column])), showSymbol: rows.length < 2, symbolSize: 6, cursor: "pointer",
      lineStyle: { width: 2, type: place < 3 ? "solid" : "dashed" }, itemStyle: { color: series(place) }, triggerLineEvent: true,
    })),
  });
}
function stacked(chart, rows) {
  const [measure] = Object.keys(chart.measures);
  const axis = [...new Set(rows.map((row) => row[chart.x]))];
  const kinds = [...new Set(rows.map((row) => row[chart.by]))];
  const total = Object.fromEntries(kinds.map((kind) => [kind, sum(rows.filter((row) => row[chart.by] === kind), measure)]));
  const at = new Map(rows.map((row) => [`${row[chart.x]} ${row[chart.by]}`, row[measure]]));
  kinds.sort((a, b) => total[b] - total[a]);
  return frame({
    legend: legend(true), grid: { ...frame().grid, top: innerWidth > 760 ? 20 + 22 * Math.ceil(kinds.length / 6) : 40 },
    tooltip: { ...frame().tooltip, axisPointer: { type: "shadow" }, order: "valueDesc", valueFormatter: (value) => told(chart, value) },
    xAxis: dayAxis({ data: axis, boundaryGap: true }), yAxis: valueAxis(axisFormat(chart)),
    series: kinds.map((kind, place) => ({
      name: kind, type: "bar", stack: "all", barMaxWidth: 28, cursor: "pointer", data: axis.map((x) => at.get(`${x} ${kind}`) ?? 0),
      itemStyle: { color: series(place), opacity: place < 7 ? 1 : 0.55, borderColor: tone("surface"), borderWidth: rows.length < 900 ? 0.5 : 0 },
    })),
  });
}
function funnel(chart, rows) {
  const steps = Object.entries(chart.measures);
  const values = steps.map(([column]) => sum(rows, column));
  return frame({
    grid: { ...frame().grid, right: 120 }, tooltip: { ...frame().tooltip, axisPointer: { type: "shadow" }, valueFormatter: (value) => told(chart, value) },
    xAxis: valueAxis(axisFormat(chart), { axisLabel: { show: false } }), yAxis: { type: "category", inverse: true, data: steps.map(([, name]) => name), axisTick: { show: false }, axisLine: { show: false }, axisLabel: { color: tone("text"), fontSize: 13 } },
    series: [{
      name: "Users", type: "bar", data: values, barCategoryGap: "28%", itemStyle: { color: series(0), borderRadius: [0, 4, 4, 0] },
      label: { show: true, position: "right", color: tone("text"), fontSize: 13, formatter: ({ value }) => `${counts.format(value)}  (${values[0] ? percent.format(value / values[0]) : "–"})` },
    }],
  });
}
const legend = (isLong = false) => ({ top: 0, left: 0, type: isLong && innerWidth > 760 ? "plain" : "scroll", icon: "roundRect", itemWidth: 12, itemHeight: 4, itemGap: 16, textStyle: { color: tone("text"), fontSize: 12.5 }, pageTextStyle: { color: tone("muted") }, pageIconColor: tone("accent"), pageIconInactiveColor: tone("line-strong") });
const options = { line: lines, bar: lines, stacked, funnel };

for (const element of document.querySelectorAll(".chart[data-chart]")) {
  const chart = charts[element.dataset.chart];
  const drawn = chartIn(element, () => options[chart.kind](chart, chosen(chart)));
  element.setAttribute("role", "img");
  updates.push(() => {
    drawn.setOption(options[chart.kind](chart, chosen(chart)), { notMerge: true });
    const titled = `${chart.title}, ${longDay(from.value)} to ${longDay(to.value)}${hasCurrency(chart) ? `, ${currencies.value}` : ""}`;
    element.setAttribute("aria-label", `${titled}. The button Table shows the same as text.`);
    const table = element.nextElementSibling;
    if (!table.hidden) fill(table, chart);
  });
  if (chart.kind === "stacked") {
    drawn.on("click", (event) => show(chart, chosen(chart).find((row) => row[chart.x] === event.name && row[chart.by] === event.seriesName)));
  } else if (chart.kind === "line") {
    drawn.getZr().on("click", (event) => {
      const place = drawn.convertFromPixel({ gridIndex: 0 }, [event.offsetX, event.offsetY]);
      if (drawn.containPixel("grid", [event.offsetX, event.offsetY])) show(chart, chosen(chart)[place[0]]);
    });
  }
}

/** The chart as a table, each row with a button that leads to what stands behind it. */
function fill(place, chart) {
  const { columns } = page.results[chart.name];
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const column of [...columns, ""]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = column.replaceAll("_", " ");
    if (!column) cell.innerHTML = '<span class="sr">Rows</span>';
    if (!chart.points.includes(column)) cell.className = "n";
    head.append(cell);
  }
  const body = table.createTBody();
  for (const row of chosen(chart).reverse().slice(0, 400)) {
    const line = body.insertRow();
    for (const column of columns) {
      const cell = line.insertCell();
      cell.textContent = row[column] ?? "–";
      if (!chart.points.includes(column)) cell.className = "n";
    }
    const button = Object.assign(document.createElement("button"), { type: "button", className: "button quiet", textContent: "Rows" });
    button.setAttribute("aria-label", `Rows behind ${chart.points.map((point) => row[point]).join(", ")}`);
    button.addEventListener("click", () => show(chart, row));
    const last = line.insertCell();
    last.className = "n";
    last.append(button);
  }
  place.replaceChildren(table);
}
for (const button of document.querySelectorAll("[data-as-table]")) {
  button.addEventListener("click", () => {
    const table = document.querySelector(`#${button.dataset.asTable} .as-table`);
    table.hidden = !table.hidden;
    button.setAttribute("aria-expanded", String(!table.hidden));
    if (!table.hidden) fill(table, charts[button.dataset.asTable]);
  });
}

/** A heatmap is a table: each cell a button; arrows move between them. */
function heat(element, chart) {
  const [measure] = Object.keys(chart.measures);
  const rows = chosen(chart);
  const lefts = [...new Set(rows.map((row) => row[chart.by]))].reverse();
  const tops = [...new Set(rows.map((row) => row[chart.x]))].sort((a, b) => a - b);
  const at = new Map(rows.map((row) => [`${row[chart.by]} ${row[chart.x]}`, row]));
  const table = document.createElement("table");
  table.innerHTML = `<caption class="sr">${chart.title}</caption><thead><tr><th scope="col">Cohort</th><th scope="col" class="n">Users</th>${tops.map((top) => `<th scope="col" class="n">Week ${top}</th>`).join("")}</tr></thead>`;
  const body = table.createTBody();
  for (const left of lefts) {
    const line = body.insertRow();
    const size = rows.find((row) => row[chart.by] === left);
    line.innerHTML = `<th scope="row" class="t">${longDay(left).replace(/^\w+,? /, "")}</th><td class="n">${counts.format(size.cohort_users)}</td>`;
    for (const top of tops) {
      const cell = line.insertCell();
      const row = at.get(`${left} ${top}`);
      if (!row) continue;
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: percent.format(row[measure]), tabIndex: -1 });
      button.style.setProperty("--share", `${Math.round(Number(row[measure]) * 100)}%`);
      button.addEventListener("click", () => show(chart, row));
      cell.append(button);
    }
  }
  element.replaceChildren(table);
  const first = table.querySelector("td button");
  if (first) first.tabIndex = 0;
  table.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td");
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!cell || !step) return;
    const next = body.rows[cell.parentElement.sectionRowIndex + step[0]]?.cells[cell.cellIndex + step[1]]?.querySelector("button");
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
for (const element of document.querySelectorAll(".heat[data-chart]")) updates.push(() => heat(element, charts[element.dataset.chart]));

// ---- from a point to its rows ------------------------------------------------------------------------------------

const dialog = document.getElementById("rows");
document.getElementById("rows-close")?.addEventListener("click", () => dialog.close());
dialog?.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

const quotedValue = (value) => (typeof value === "number" ? String(value) : /^\d{4}-\d\d-\d\d$/.test(value) ? `date '${value}'` : `'${String(value).replaceAll("'", "''")}'`);
/** The SQL of the rows behind a point, with the point's values written out. */
const rowsSql = (chart, row) => chart.rows.replace(/%\((\w+)\)s/g, (_, name) => quotedValue(row[name]));

function tableOf({ columns, rows }) {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const column of columns) head.append(Object.assign(document.createElement("th"), { scope: "col", textContent: column.replaceAll("_", " ") }));
  const body = table.createTBody();
  for (const row of rows) for (const [place, line] of [[0, body.insertRow()]]) for (const value of row.slice(place)) line.insertCell().textContent = value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : value;
  return table;
}
async function show(chart, row) {
  if (!row) return;
  const titled = chart.points.map((point) => (/^\d{4}-/.test(row[point]) ? longDay(row[point]) : typeof row[point] === "number" ? `${point} ${row[point]}` : row[point]));
  document.getElementById("rows-title").textContent = `${chart.title}: ${titled.join(", ")}`;
  const body = document.getElementById("rows-body");
  const point = document.createElement("div");
  point.className = "scroll flat";
  point.append(tableOf({ columns: Object.keys(row), rows: [Object.values(row)] }));
  const sql = document.createElement("div");
  sql.id = "rows-sql";
  sql.innerHTML = '<div class="row"><h3>The rows behind it, as SQL</h3><button type="button" class="button" data-copy="rows-sql">Copy</button></div><pre tabindex="0"></pre>';
  sql.querySelector("pre").textContent = rowsSql(chart, row);
  const answer = document.createElement("div");
  answer.setAttribute("aria-live", "polite");
  body.replaceChildren(point, answer, sql);
  if (!dialog.open) dialog.showModal();
  if (!location.protocol.startsWith("http")) {
    answer.innerHTML = '<p class="note">These pages are files. <code>python -m flows portal --serve</code> shows the rows here; the SQL below gives them anywhere.</p>';
    return;
  }
  answer.textContent = "Reading …";
  try {
    const asked = new URLSearchParams(chart.points.map((name) => [name, row[name]]));
    const response = await fetch(`rows/${chart.name}?${asked}`);
    const found = await response.json();
    if (!response.ok) throw new Error(found.problem);
    const head = document.createElement("p");
    head.className = "note";
    head.textContent = found.rows.length < found.limit ? `${found.rows.length} rows, read just now by the role reader.` : `The first ${found.limit} rows, read just now by the role reader.`;
    const rows = document.createElement("div");
    rows.className = "scroll flat tall";
    rows.tabIndex = 0;
    rows.append(tableOf(found));
    answer.replaceChildren(head, rows);
  } catch (error) {
    answer.textContent = `The rows could not be read: ${error.message}`;
  }
}

// ---- the controls ------------------------------------------------------------------------------------------------

function update() { for (const one of updates) one(); }
/** An empty day is the first or the last there is; where the days would end before they begin, the other one follows. */
function hold(control) {
  if (!control.value) control.value = control === from ? from.min : to.max;
  if (from.value > to.value) (control === from ? to : from).value = control.value;
}
function press(days) {
  for (const button of document.querySelectorAll("[data-days]")) button.setAttribute("aria-pressed", String(Number(button.dataset.days) === days));
}
function choose(days) {
  // The day that is not over would end every line with a fall.
  const yesterday = dayOf(Date.parse(page.as_of) - 86_400_000);
  to.value = days && to.max > yesterday && yesterday >= to.min ? yesterday : to.max;
  from.value = days ? dayOf(Date.parse(to.value) - (days - 1) * 86_400_000) : from.min;
  if (from.value < from.min) from.value = from.min;
  press(days);
  update();
}
if (from) {
  const all = Object.values(charts).filter((chart) => chart.kind !== "funnel" && chart.kind !== "heatmap").flatMap((chart) => records(chart.name).map((row) => row[chart.x])).filter(Boolean).sort();
  from.min = to.min = all[0] ?? dayOf(page.as_of);
  from.max = to.max = all.at(-1) ?? dayOf(page.as_of);
  const seen = new Map();
  for (const chart of Object.values(charts).filter(hasCurrency)) for (const row of records(chart.name)) seen.set(row[chart.currency], (seen.get(row[chart.currency]) ?? 0) + 1);
  for (const [name] of [...seen].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]))) currencies.add(new Option(name));
  for (const button of document.querySelectorAll("[data-days]")) button.addEventListener("click", () => choose(Number(button.dataset.days)));
  for (const control of [from, to, currencies]) control.addEventListener("change", () => { if (control !== currencies) { press(-1); hold(control); } update(); });
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  choose(30);
}
