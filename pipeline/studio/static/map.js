"use strict";
// The embedding map: a canvas of points that can be moved, zoomed and selected.
import { announce, element, find, percent, post, request, scheduler, showProblem, thumb } from "./page.js";

const root = document.getElementById("map");
const POLL_MS = 1000;
const CLICK_PX = 4;
const REACH_PX = 8;
const KEY_PX = 60;

const view = { scale: 1, x: 0, y: 0 };
const data = { xy: new Float32Array(), codes: [], ids: [], names: [], colors: [], order: [], hidden: new Set() };
let frame = null;
let lasso = null;
let selected = null;
let mode = "pan";
let selection = [];

// === Data ===

const endpoint = (path, query = {}) =>
  `${root.dataset.url}/${path}?${new URLSearchParams({ version: find("version").value, ...query })}`;

async function refresh() {
  try {
    const state = await request(endpoint("state"));
    showProblem(find("problem"), state.state === "failed" ? new Error(state.error) : null);
    find("compute").hidden = state.state === "complete";
    find("map-view").hidden = state.state !== "complete";
    find("start").disabled = state.state === "running";
    if (state.state === "complete") await complete(state);
    else {
      const bar = find("progress");
      bar.hidden = state.state !== "running";
      bar.max = state.total;
      bar.value = state.done ?? 0;
      find("progress-text").textContent = state.state === "running" ? `${state.done} of ${state.total}` : "";
      if (state.state === "running") setTimeout(refresh, POLL_MS);
    }
  } catch (error) {
    showProblem(find("problem"), error);
  }
}

async function complete(state) {
  const option = find("projection").options[1];
  option.disabled = state.tsne !== "complete";
  find("tsne-state").textContent =
    state.tsne === "complete" ? "" : state.tsne === "running" ? "t-SNE is being computed …" : `t-SNE failed: ${state.tsne}`;
  if (!data.xy.length) await load();
  if (state.tsne === "running") setTimeout(refresh, 2 * POLL_MS);
}

async function load() {
  const [points, colors] = await Promise.all([
    fetch(endpoint("points", { projection: find("projection").value })).then((response) => {
      if (!response.ok) throw new Error("The points cannot be loaded.");
      return response.arrayBuffer();
    }),
    request(endpoint("colors", { color: find("color").value })),
  ]);
  data.xy = new Float32Array(points);
  Object.assign(data, colors, { hidden: new Set() });
  fillLegend();
  reset();
}

async function recolor() {
  Object.assign(data, await request(endpoint("colors", { color: find("color").value })), { hidden: new Set() });
  fillLegend();
  schedule();
}

function fillLegend() {
  const counts = new Array(data.names.length).fill(0);
  for (const code of data.codes) counts[code]++;
  // Points of one colour are drawn together.
  data.order = Array.from({ length: data.names.length }, () => []);
  data.codes.forEach((code, index) => data.order[code].push(index));
  find("legend").replaceChildren(
    ...data.names.map((name, code) => {
      const box = element("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        if (box.checked) data.hidden.delete(code);
        else data.hidden.add(code);
        schedule();
      });
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = `rgb(${shownColor(data.colors[code]).join(",")})`;
      return element("label", {}, box, swatch, element("span", { textContent: name }), element("span", { className: "soft", textContent: counts[code].toLocaleString("en") }));
    }),
  );
}

// === Drawing ===

const dark = matchMedia("(prefers-color-scheme: dark)");

/** The channels of a point's colour: on a dark page, dark colours are lighter. */
function shownColor(color) {
  const isDark = dark.matches && 0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2] < 110;
  return isDark ? color.map((channel) => Math.round(channel + 0.45 * (255 - channel))) : color;
}

const canvas = find("points");

function resize() {
  const ratio = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}

function reset() {
  resize();
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let index = 0; index < data.xy.length; index += 2) {
    left = Math.min(left, data.xy[index]);
    right = Math.max(right, data.xy[index]);
    top = Math.min(top, data.xy[index + 1]);
    bottom = Math.max(bottom, data.xy[index + 1]);
  }
  const width = right - left || 1;
  const height = bottom - top || 1;
  view.scale = 0.92 * Math.min(canvas.width / width, canvas.height / height);
  view.x = canvas.width / 2 - (view.scale * (left + right)) / 2;
  view.y = canvas.height / 2 - (view.scale * (top + bottom)) / 2;
  view.whole = view.scale;
  schedule();
}

const schedule = scheduler(draw);

/** Draws all points into one image: 10,000 calls of `fillRect` would take longer than a frame has. */
function draw() {
  resize();
  const { width, height } = canvas;
  if (!width || !height) return;
  const context = canvas.getContext("2d");
  if (frame?.width !== width || frame.height !== height) frame = context.createImageData(width, height);
  const pixels = new Uint32Array(frame.data.buffer);
  pixels.fill(0);
  const ratio = devicePixelRatio || 1;
  const size = Math.round(Math.max(2, Math.min(9, 3.2 * (view.scale / view.whole) ** 0.35)) * ratio);
  const insets = disc(size);
  const colors = data.colors.map(shownColor);
  drawPoints(pixels, insets, colors, selected ? 64 : 217, () => true);
  if (selected) drawPoints(pixels, insets, colors, 255, (index) => selected.has(index));
  context.putImageData(frame, 0, 0);
  if (lasso?.length > 1) {
    context.beginPath();
    lasso.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.lineWidth = 2 * ratio;
    context.strokeStyle = getComputedStyle(canvas).color;
    context.stroke();
  }
}

/** Number of pixels that every row of a disc leaves free on both sides. */
function disc(size) {
  const radius = size / 2;
  return Array.from({ length: size }, (_, row) => Math.round(radius - Math.sqrt(radius ** 2 - (row + 0.5 - radius) ** 2)));
}

function drawPoints(pixels, insets, colors, alpha, isDrawn) {
  const { width, height } = canvas;
  const { xy, order, hidden } = data;
  const size = insets.length;
  order.forEach((indices, code) => {
    if (hidden.has(code)) return;
    const [red, green, blue] = colors[code];
    const value = (alpha << 24) | (blue << 16) | (green << 8) | red;
    for (const index of indices) {
      const left = Math.round(view.scale * xy[2 * index] + view.x - size / 2);
      const top = Math.round(view.scale * xy[2 * index + 1] + view.y - size / 2);
      if (left <= -size || top <= -size || left >= width || top >= height || !isDrawn(index)) continue;
      for (let row = Math.max(0, -top); row < Math.min(size, height - top); row++) {
        const start = (top + row) * width;
        const end = start + Math.min(width, left + size - insets[row]);
        for (let at = start + Math.max(0, left + insets[row]); at < end; at++) pixels[at] = value;
      }
    }
  });
}

// === Movement ===

function place(event) {
  const box = canvas.getBoundingClientRect();
  const ratio = devicePixelRatio || 1;
  return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
}

function zoom(factor, x = canvas.width / 2, y = canvas.height / 2) {
  const scale = Math.max(view.whole / 4, Math.min(view.whole * 400, view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  schedule();
}

function setMode(chosen) {
  mode = chosen;
  find("mode-pan").setAttribute("aria-pressed", String(mode === "pan"));
  find("mode-lasso").setAttribute("aria-pressed", String(mode === "lasso"));
  canvas.classList.toggle("lasso", mode === "lasso");
}

const pointers = new Map();
let moved = 0;

function down(event) {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  moved = 0;
  lasso = pointers.size === 1 && (mode === "lasso" || event.shiftKey) ? [place(event)] : null;
}

function move(event) {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = place(event);
  moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
  if (lasso) lasso.push(now);
  else if (pointers.size === 1) {
    view.x += now[0] - before[0];
    view.y += now[1] - before[1];
  } else {
    const [, other] = [...pointers].find(([id]) => id !== event.pointerId);
    const factor = Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.hypot(before[0] - other[0], before[1] - other[1]);
    zoom(factor, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
  pointers.set(event.pointerId, now);
  schedule();
}

function up(event) {
  if (!pointers.delete(event.pointerId)) return;
  if (moved < CLICK_PX * (devicePixelRatio || 1)) open(place(event));
  else if (lasso?.length > 2) select(inside(lasso));
  lasso = null;
  schedule();
}

function open([x, y]) {
  let best = (REACH_PX * (devicePixelRatio || 1)) ** 2;
  let nearest = -1;
  for (let index = 0; index < data.ids.length; index++) {
    if (data.hidden.has(data.codes[index])) continue;
    const dx = view.scale * data.xy[2 * index] + view.x - x;
    const dy = view.scale * data.xy[2 * index + 1] + view.y - y;
    if (dx * dx + dy * dy < best) [best, nearest] = [dx * dx + dy * dy, index];
  }
  if (nearest >= 0) select([nearest]);
}

// === Selection ===

function inside(polygon) {
  const chosen = [];
  for (let index = 0; index < data.ids.length; index++) {
    if (data.hidden.has(data.codes[index])) continue;
    const x = view.scale * data.xy[2 * index] + view.x;
    const y = view.scale * data.xy[2 * index + 1] + view.y;
    let within = false;
    for (let at = 0, last = polygon.length - 1; at < polygon.length; last = at++) {
      const [x1, y1] = polygon[at];
      const [x2, y2] = polygon[last];
      if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) within = !within;
    }
    if (within) chosen.push(index);
  }
  return chosen;
}

async function select(indices) {
  selected = indices.length ? new Set(indices) : null;
  selection = indices.map((index) => data.ids[index]);
  schedule();
  find("selection").hidden = !selection.length;
  if (!selection.length) {
    announce("Nothing is selected");
    return;
  }
  find("sel-images").replaceChildren();
  await showSelection(0);
}

async function showSelection(offset) {
  try {
    const result = await post(endpoint("selection", { offset }), { ids: selection });
    find("sel-count").textContent = result.count.toLocaleString("en");
    find("sel-correct").textContent = result.count ? percent(result.correct / result.count) : "–";
    find("sel-score").textContent = result.mean_score === null ? "–" : result.mean_score.toFixed(3);
    find("sel-classes-box").hidden = !result.classes.length;
    find("sel-classes").replaceChildren(
      ...result.classes.map((row) =>
        element("tr", {}, element("th", { scope: "row", textContent: row.name }), element("td", { className: "num", textContent: row.count }), element("td", { className: "num", textContent: percent(row.correct / row.count) })),
      ),
    );
    find("sel-images").append(
      ...result.images.map((entry) =>
        entry.correct
          ? thumb(entry, element("span", { className: "soft", textContent: `✓ ${entry.predicted}` }))
          : thumb(entry, element("span", { className: "bad", textContent: `✗ ${entry.predicted}` }), { className: "thumb wrong" }),
      ),
    );
    const more = find("sel-more");
    more.hidden = result.next === null;
    more.onclick = () => showSelection(result.next);
    announce(`${result.count} images selected, ${find("sel-correct").textContent} agree with the label`);
  } catch (error) {
    showProblem(find("problem"), error);
  }
}

function selectView() {
  select(inside([[0, 0], [canvas.width, 0], [canvas.width, canvas.height], [0, canvas.height]]));
}

// === Input ===

if (root) {
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * 0.0015), ...place(event));
    },
    { passive: false },
  );
  const keys = {
    ArrowLeft: () => (view.x += KEY_PX),
    ArrowRight: () => (view.x -= KEY_PX),
    ArrowUp: () => (view.y += KEY_PX),
    ArrowDown: () => (view.y -= KEY_PX),
    "+": () => zoom(1.25),
    "=": () => zoom(1.25),
    "-": () => zoom(0.8),
    0: reset,
    Enter: selectView,
    Escape: () => select([]),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
    schedule();
  });
  addEventListener("resize", schedule);
  dark.addEventListener("change", () => {
    fillLegend();
    schedule();
  });
  find("zoom-in").addEventListener("click", () => zoom(1.25));
  find("zoom-out").addEventListener("click", () => zoom(0.8));
  find("reset").addEventListener("click", reset);
  find("select-view").addEventListener("click", selectView);
  find("mode-pan").addEventListener("click", () => setMode("pan"));
  find("mode-lasso").addEventListener("click", () => setMode("lasso"));
  find("start").addEventListener("click", async () => {
    try {
      await post(endpoint("start"), {});
      await refresh();
    } catch (error) {
      showProblem(find("problem"), error);
    }
  });
  find("color").addEventListener("change", recolor);
  find("projection").addEventListener("change", load);
  find("version").addEventListener("change", () => {
    data.xy = new Float32Array();
    refresh();
  });
  refresh();
}
