// What every page does: the theme, copying SQL, filters over tables, and the small charts.
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const records = (name) => {
  const { columns, rows } = page.results[name];
  return rows.map((row) => Object.fromEntries(columns.map((column, place) => [column, row[place]])));
};

// Pages are files: nobody takes back what they say when nothing writes them any more.
const pageAge = (Date.now() / 1000 - page.written) / 3600;
const old = document.getElementById("old");
if (pageAge > 26) {
  old.querySelector("strong").textContent = `These pages are ${pageAge < 48 ? `${Math.floor(pageAge)} hours` : `${Math.floor(pageAge / 24)} days`} old.`;
  old.hidden = false;
}

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);
/** The colour that a custom property has in the present theme. */
function tone(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
const series = (place) => tone(`series-${(place % 7) + 1}`);
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

const redraws = [];
/** Draw now, and again whenever the theme changes. */
function draws(draw) { redraws.push(draw); draw(); }
const redraw = () => redraws.forEach((draw) => draw());
document.getElementById("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* this page alone then has it */ }
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const pre = document.querySelector(`#${CSS.escape(button.dataset.copy)} pre`);
  try {
    await navigator.clipboard.writeText(pre.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(pre);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

// On a phone the pages stand in a row that is moved by hand: the present one is in sight.
const tabs = document.querySelector(".side nav");
const current = tabs.querySelector("[aria-current]");
tabs.scrollLeft = current.offsetLeft - (tabs.clientWidth - current.offsetWidth) / 2;

const counts = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const shortCounts = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const days = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const longDays = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const day = (text) => days.format(new Date(text));
const longDay = (text) => longDays.format(new Date(text));

/** What all charts share. */
function frame(more = {}) {
  const text = { color: tone("muted"), fontFamily: "Inter, system-ui, sans-serif", fontSize: 12 };
  return {
    animation: false,
    textStyle: text,
    aria: { enabled: true },
    grid: { left: 4, right: 20, top: 12, bottom: 4, containLabel: true, outerBoundsMode: "same" },
    tooltip: {
      trigger: "axis", confine: true, backgroundColor: tone("surface"), borderColor: tone("line-strong"),
      textStyle: { ...text, color: tone("text"), fontSize: 13 }, axisPointer: { lineStyle: { color: tone("line-strong") } },
    },
    ...more,
  };
}
const dayAxis = (more = {}) => ({
  type: "category", boundaryGap: false, axisTick: { show: false }, axisLine: { lineStyle: { color: tone("line-strong") } },
  axisLabel: { color: tone("muted"), hideOverlap: true, formatter: day }, ...more,
});
const valueAxis = (format, more = {}) => ({
  type: "value", splitNumber: 4, splitLine: { lineStyle: { color: tone("line") } }, axisLabel: { color: tone("muted"), hideOverlap: true, formatter: format }, ...more,
});

/** A chart in an element; it follows the element's width and the theme. */
function chartIn(element, option) {
  const chart = echarts.init(element, null, { renderer: "svg" });
  new ResizeObserver(() => chart.resize()).observe(element);
  draws(() => chart.setOption(option(), { notMerge: true }));
  return chart;
}

for (const element of document.querySelectorAll("[data-line]")) {
  const { line, x, y, label, tone: place = "1" } = element.dataset;
  const rows = records(line);
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", `${label} by day, ${rows.length} days`);
  chartIn(element, () => frame({
    xAxis: dayAxis({ data: rows.map((row) => row[x]) }),
    yAxis: valueAxis((value) => shortCounts.format(value)),
    tooltip: { ...frame().tooltip, valueFormatter: (value) => counts.format(value) },
    series: [{
      name: label, type: "line", data: rows.map((row) => row[y]), showSymbol: rows.length < 2, symbolSize: 6, lineStyle: { width: 2 },
      itemStyle: { color: series(place - 1) }, areaStyle: { color: series(place - 1), opacity: 0.08 },
    }],
  }));
}

for (const element of document.querySelectorAll("[data-bars]")) {
  const { bars, x, ys, labels, tones, label } = element.dataset;
  const rows = records(bars);
  const names = labels.split(",");
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", `${label}, ${rows.length} days`);
  chartIn(element, () => frame({
    legend: { top: 0, left: 0, icon: "roundRect", itemWidth: 12, itemHeight: 4, textStyle: { color: tone("text"), fontSize: 12.5 } },
    grid: { ...frame().grid, top: 36 },
    xAxis: dayAxis({ data: rows.map((row) => row[x]), boundaryGap: true }),
    yAxis: valueAxis((value) => shortCounts.format(value)),
    tooltip: { ...frame().tooltip, axisPointer: { type: "shadow" }, valueFormatter: (value) => counts.format(value) },
    series: ys.split(",").map((y, place) => ({ name: names[place], type: "bar", stack: "all", barMaxWidth: 24, data: rows.map((row) => row[y]), itemStyle: { color: tone(tones.split(",")[place]) } })),
  }));
}

for (const input of document.querySelectorAll("[data-filter]")) {
  const items = [...document.querySelectorAll(input.dataset.filter)].map((item) => [item, (item.dataset.words || item.textContent).toLowerCase()]);
  const said = document.getElementById(input.getAttribute("aria-describedby"));
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let number = 0;
    for (const [item, text] of items) {
      item.hidden = !words.every((word) => text.includes(word));
      if (!item.hidden) number += 1;
    }
    for (const group of document.querySelectorAll("[data-group]")) group.hidden = !group.querySelector(`${input.dataset.filter}:not([hidden])`);
    if (said) said.textContent = `${number} of ${items.length}`;
  };
  input.addEventListener("input", filter);
  filter();
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select, textarea")) return;
  const search = document.querySelector("input[type=search]");
  if (search) { event.preventDefault(); search.focus(); }
});

/** What the address names behind its #; as it stands where it is written wrongly. */
function anchor() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return location.hash.slice(1); }
}

// A link to a table opens its entry.
function open() {
  const entry = location.hash && document.getElementById(anchor());
  if (entry instanceof HTMLDetailsElement) { entry.hidden = false; entry.open = true; entry.scrollIntoView({ block: "start" }); }
}
addEventListener("hashchange", open);
open();
