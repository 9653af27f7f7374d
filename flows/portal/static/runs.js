// When runs began and how long they took; the longest steps of the newest.
"use strict";

const timeline = document.getElementById("timeline");
if (timeline) {
  const rows = records("runs");
  // Told apart by form too, for eyes that do not see the colours.
  const marks = {
    Completed: ["ok", "circle", "Completed"], Failed: ["critical", "diamond", "Failed"], Crashed: ["critical", "triangle", "Crashed"],
    TimedOut: ["critical", "rect", "Timed out"], Late: ["warning", "emptyCircle", "Not started"], Running: ["unknown", "circle", "Running"],
    Cancelled: ["unknown", "rect", "Cancelled"],
  };
  const states = [...new Set([...Object.keys(marks), ...rows.map((row) => row.state)])].filter((state) => rows.some((row) => row.state === state));
  const mark = (state) => marks[state] ?? ["unknown", "emptyCircle", state];
  timeline.setAttribute("role", "img");
  timeline.setAttribute("aria-label", `${rows.length} runs by time and seconds; the table below says the same`);
  const times = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", timeZone: "UTC" });
  // Bars stand at their time: a category axis would tell two runs of an hour and two of a week alike.
  const last = Date.parse(page.as_of);
  const first = Math.min(last - 86_400_000, ...rows.map((row) => Date.parse(row.started_at)));
  chartIn(timeline, () => frame({
    legend: { top: 0, left: 0, textStyle: { color: tone("text") }, itemWidth: 10, itemHeight: 10 },
    grid: { ...frame().grid, top: 36, right: 24 },
    tooltip: { ...frame().tooltip, trigger: "item", formatter: ({ data }) => `${data[2]}<br>${times.format(data[0])} UTC<br>${counts.format(data[1])} s, ${data[3]}` },
    xAxis: { type: "time", min: first, max: last, axisLine: { lineStyle: { color: tone("line-strong") } }, axisLabel: { color: tone("muted"), hideOverlap: true, formatter: (value) => times.format(value) } },
    yAxis: valueAxis((value) => `${shortCounts.format(value)} s`),
    series: states.map((state) => [state, ...mark(state)]).map(([state, colour, symbol, name]) => ({
      name, type: "scatter", symbol, symbolSize: 11, itemStyle: { color: tone(colour), opacity: 0.85 },
      data: rows.filter((row) => row.state === state).map((row) => [Date.parse(row.started_at), Number(row.seconds), row.flow, name]),
    })),
  }));
}

const steps = document.getElementById("steps");
if (steps) {
  const rows = records("steps").map((row) => [row.step, Number(row.seconds)]);
  const tones = { land: 2, build: 0, check: 3, refresh: 1 };
  steps.setAttribute("role", "img");
  steps.setAttribute("aria-label", `The longest step took ${rows[0][1]} seconds: ${rows[0][0]}`);
  chartIn(steps, () => frame({
    grid: { ...frame().grid, right: 64 },
    tooltip: { ...frame().tooltip, axisPointer: { type: "shadow" }, valueFormatter: (value) => `${counts.format(value)} s` },
    xAxis: valueAxis((value) => `${value} s`),
    yAxis: { type: "category", inverse: true, data: rows.map(([step]) => step), axisTick: { show: false }, axisLine: { show: false }, axisLabel: { color: tone("text"), width: innerWidth > 760 ? 260 : 130, overflow: "truncate" } },
    series: [{
      name: "Seconds", type: "bar", barMaxWidth: 14, data: rows.map(([step, value]) => ({ value, itemStyle: { color: series(tones[step.split(" ")[0]] ?? 6), borderRadius: [0, 3, 3, 0] } })),
      label: { show: true, position: "right", color: tone("muted"), formatter: ({ value }) => `${counts.format(value)} s` },
    }],
  }));
}
