// The panels of a stage, drawn by uPlot: own curves, those of other stages and runs laid over, marks, what is new.
"use strict";

const HEIGHT = 190;
const FOLLOW_MS = 2000;
const COLOURS = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7", "--s8"];
const DASHES = [[5, 3], [2, 2], [8, 3, 2, 3]];
const box = document.querySelector("[data-charts]");
const overlaid = new Map(); // name → curves
const plots = new Map(); // panel → uPlot
let own = box && JSON.parse(document.getElementById("curves").textContent);
let smooth = false;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function figures(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toPrecision(3)}G`;
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)}k`;
  return String(Number(value.toPrecision(3)));
}

// What a legend says while nothing is pointed at.
const lastOf = (values) => values?.findLast((value) => value !== null && value !== undefined) ?? null;

// The exponential mean: each point moves it by 15 % of the way.
function smoothed(values) {
  let mean = null;
  return values.map((value) => (value === null ? null : (mean = mean === null ? value : mean + 0.15 * (value - mean))));
}

// Every series of a panel, own first, with the name of the run or stage that it is of.
function seriesOf(id) {
  const found = [];
  const take = (curves, of, at) => {
    const panel = curves.panels.find((one) => one.id === id);
    for (const one of panel?.series ?? []) found.push({ ...one, of, at });
  };
  take(own, "", 0);
  [...overlaid].forEach(([name, curves], i) => take(curves, name, i + 1));
  return found;
}

function markLines(plot) {
  const { ctx, bbox } = plot;
  ctx.save();
  for (const mark of own.marks) {
    const x = plot.valToPos(mark.step, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const alarm = mark.kind === "alarm";
    ctx.strokeStyle = colour(alarm ? "--warn" : "--strong");
    ctx.lineWidth = devicePixelRatio * (alarm ? 1.5 : 1);
    ctx.setLineDash(alarm ? [] : [2 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function draw(figure) {
  const host = figure.querySelector(".plot");
  const series = seriesOf(figure.dataset.panel);
  const names = [...new Set(series.map((one) => one.name))];
  const data = uPlot.join(series.map((one) => [one.x, smooth && !one.dots ? smoothed(one.y) : one.y]));
  const axis = { stroke: colour("--soft"), font: "11px Inter, sans-serif", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, values: (_, ticks) => ticks.map(figures) };
  const right = series.some((one) => one.right);
  const options = {
    width: host.clientWidth,
    height: HEIGHT,
    cursor: { sync: { key: "stage" }, points: { size: 6 }, drag: { x: true, y: false } },
    scales: { x: { time: Boolean(own.time), range: span }, y: { range: reach }, right: { range: reach } },
    series: [
      { label: "step" },
      ...series.map((one) => {
        const ink = colour(COLOURS[names.indexOf(one.name) % COLOURS.length]);
        return { label: one.label + (one.of ? ` · ${one.of}` : ""), scale: one.right ? "right" : "y", stroke: ink, fill: undefined, width: one.of ? 1.2 : 1.6, dash: one.at ? DASHES[(one.at - 1) % DASHES.length] : undefined, spanGaps: true, points: { show: one.dots, size: 5, fill: ink }, value: (plot, value, i, at) => figures(at === null ? lastOf(plot.data[i]) : value) };
      }),
    ],
    axes: [{ ...axis, size: own.time ? 40 : 26, grid: { show: false }, values: own.time ? undefined : axis.values }, { ...axis, size: 44 }, ...(right ? [{ ...axis, scale: "right", side: 1, size: 52, grid: { show: false } }] : [])],
    legend: { markers: { width: 0, fill: (plot, i) => plot.series[i].stroke(plot, i) } },
    hooks: { drawAxes: [markLines] },
  };
  plots.get(figure)?.destroy();
  const plot = new uPlot(options, data, host);
  plots.set(figure, plot);
  plot.over.addEventListener("click", (event) => openRollouts(plot, event));
}

// The x axis from the first point to the last; a single point has room on both sides.
function span(_, low, high) {
  return low === high ? own.time ? [low - 60, high + 60] : [low - 1, high + 1] : [low, high];
}

// A scale that leaves room above and below, and begins at 0 where the values nearly do.
function reach(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low >= 0 && low < high / 2 ? 0 : low - room, high + room];
}

// Alt and a click on a curve open the samples of that step; a plain drag zooms, a double click shows all again.
function openRollouts(plot, event) {
  if (!box.dataset.rollouts || plot.cursor.idx === null || !event.altKey) return;
  location.assign(box.dataset.rollouts.replace("NUMBER", plot.data[0][plot.cursor.idx]));
}

function drawAll() {
  for (const figure of box.querySelectorAll("[data-panel]")) draw(figure);
}

async function overlay(input) {
  if (input.checked) {
    const answer = await fetch(input.dataset.curves).catch(() => null);
    if (!answer?.ok) return void (input.checked = false);
    overlaid.set(input.value, await answer.json());
  } else overlaid.delete(input.value);
  const chosen = [...overlaid.keys()].join(",");
  history.replaceState(null, "", chosen ? `?with=${encodeURIComponent(chosen)}` : location.pathname);
  drawAll();
}

// What was added since: points are appended, unless the run went back to a checkpoint; then everything is new.
async function followCurves() {
  if (document.hidden) return;
  const answer = await fetch(`${box.dataset.charts}?after=${own.last}&generation=${own.generation}`).catch(() => null);
  if (!answer?.ok) return;
  const fresh = await answer.json();
  if (fresh.whole || fresh.panels.length) {
    const known = new Set(own.panels.map((panel) => panel.id));
    if (fresh.panels.some((panel) => !known.has(panel.id))) return location.reload();
    own = fresh.whole ? fresh : { ...fresh, panels: own.panels.map((panel) => grown(panel, fresh)) };
    drawAll();
  }
  if (!fresh.live) clearInterval(followingCurves);
}

function grown(panel, fresh) {
  const more = fresh.panels.find((one) => one.id === panel.id);
  const known = new Set(panel.series.map((one) => one.name));
  const series = panel.series.map((one) => {
    const added = more?.series.find((other) => other.name === one.name);
    return added ? { ...one, x: [...one.x, ...added.x], y: [...one.y, ...added.y] } : one;
  });
  return { ...panel, series: [...series, ...(more?.series ?? []).filter((one) => !known.has(one.name))] };
}

let followingCurves = 0;
if (box) {
  drawAll();
  addEventListener("resize", () => {
    for (const [figure, plot] of plots) plot.setSize({ width: figure.querySelector(".plot").clientWidth, height: HEIGHT });
  });
  document.addEventListener("themed", drawAll);
  document.querySelector("[data-smooth]")?.addEventListener("change", (event) => {
    smooth = event.target.checked;
    drawAll();
  });
  const asked = (new URLSearchParams(location.search).get("with") ?? "").split(",");
  for (const input of document.querySelectorAll("[data-overlay] input")) {
    input.addEventListener("change", () => overlay(input));
    if (asked.includes(input.value)) {
      input.checked = true;
      overlay(input);
    }
  }
  if (own.live) followingCurves = setInterval(followCurves, FOLLOW_MS);
}
