"use strict";
// Sends an image to one or two versions of a model, and draws what they return over it.
import { announce, counted, element, find, request, showProblem, thumb } from "./page.js";

const root = document.getElementById("try");
const LISTED = 20;
const state = { image: null, results: [], hidden: new Set(), controller: null };
const colors = root ? JSON.parse(root.dataset.colors) : [];

// === Image ===

async function use(blob) {
  if (!blob) return;
  const problem = find("problem");
  showProblem(problem, null);
  if (blob.size > Number(root.dataset.maxMb) * 2 ** 20) {
    showProblem(problem, new Error(`This file is larger than ${root.dataset.maxMb} MiB.`));
    return;
  }
  try {
    state.bitmap = await createImageBitmap(blob);
  } catch {
    showProblem(problem, new Error("The browser cannot show this file as an image."));
    return;
  }
  state.image = blob;
  await send();
}

async function send() {
  if (!state.image) return;
  state.controller?.abort();
  const controller = new AbortController();
  state.controller = controller;
  const versions = [find("version-a").value, find("version-b").value].filter(Boolean);
  const drop = find("drop");
  drop.setAttribute("aria-busy", "true");
  find("sending").hidden = false;
  try {
    state.results = await Promise.all(
      versions.map((version) =>
        request(`${root.dataset.url}?version=${encodeURIComponent(version)}`, {
          method: "POST",
          body: state.image,
          headers: { "Content-Type": "application/octet-stream" },
          signal: controller.signal,
        }),
      ),
    );
    await show();
    showProblem(find("problem"), null);
    announce(state.results.map((result) => `Version ${result.version}: ${result.summary}`).join(". "));
  } catch (error) {
    if (error.name !== "AbortError") {
      find("results").hidden = true;
      showProblem(find("problem"), error);
    }
  } finally {
    // A later request replaces this one, and is still running then.
    if (state.controller === controller) {
      drop.removeAttribute("aria-busy");
      find("sending").hidden = true;
    }
  }
}

// === Results ===

function bitmapOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }), {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
}

async function decode(base64) {
  const bitmap = await bitmapOf(base64);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return { width: bitmap.width, height: bitmap.height, values: pixels.data.filter((_, index) => index % 4 === 0) };
}

async function show() {
  for (const result of state.results) {
    for (const heatmap of result.heatmaps) heatmap.decoded = await decode(heatmap.png);
    if (result.mask) result.mask.decoded = await decode(result.mask.png);
  }
  const [first] = state.results;
  // Of 16 bits per channel: as the model reads it.
  if (first.image) state.bitmap = await bitmapOf(first.image);
  find("results").hidden = false;
  fillOverlays(first);
  find("columns").replaceChildren(...state.results.map(column));
  redraw();
  showNearest(first);
  find("snippets").replaceChildren(...first.snippets.map(snippet));
}

function fillOverlays(result) {
  const choices = [];
  if (result.mask) choices.push(["mask", "Mask"]);
  if (result.boxes) choices.push(["boxes", "Boxes"]);
  if (result.heatmaps.length) choices.push(["heatmap", "Heat map"]);
  choices.push(["none", "None"]);
  const select = find("overlay");
  const chosen = select.value;
  select.replaceChildren(...choices.map(([value, text]) => element("option", { value, textContent: text })));
  if (choices.some(([value]) => value === chosen)) select.value = chosen;
  if (result.boxes) setScore(result.boxes.threshold);
  const heat = find("heatmap-class");
  const options = result.heatmaps.map((heatmap, index) =>
    element("option", { value: index, textContent: `${heatmap.label} (${heatmap.score.toFixed(2)})` }),
  );
  heat.replaceChildren(...options);
  fillClasses(result);
  updateControls();
}

function fillClasses(result) {
  const entries = new Map();
  for (const row of result.mask?.classes ?? []) {
    entries.set(row.name, row.color);
    if (!row.shown) state.hidden.add(row.name);
  }
  for (const object of result.boxes?.objects ?? []) if (!entries.has(object.name)) entries.set(object.name, object.color);
  const field = find("class-toggles");
  const legend = field.firstElementChild;
  field.replaceChildren(
    legend,
    ...[...entries].sort(([a], [b]) => a.localeCompare(b, undefined, { numeric: true })).map(([name, color]) => {
      const box = element("input", { type: "checkbox", checked: !state.hidden.has(name) });
      box.addEventListener("change", () => {
        if (box.checked) state.hidden.delete(name);
        else state.hidden.add(name);
        redraw();
      });
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = `rgb(${color.join(",")})`;
      return element("label", {}, box, swatch, name);
    }),
  );
}

function updateControls() {
  const kind = find("overlay").value;
  const [first] = state.results;
  find("heatmap-label").hidden = kind !== "heatmap" || (first?.heatmaps.length ?? 0) < 2;
  find("class-toggles").hidden = kind !== "mask" && kind !== "boxes";
  find("score-label").hidden = kind !== "boxes";
}

function setScore(value) {
  find("score").value = Math.round(100 * value);
  find("score-value").textContent = Number(value).toFixed(2);
}

function column(result) {
  const built = find("column-template").content.cloneNode(true);
  built.querySelector("h2").textContent = `Version ${result.version}`;
  built.querySelector(".summary").textContent = result.summary;
  built.querySelector(".time").textContent = `${result.milliseconds} ms${result.notes.length ? `. ${result.notes.join(" ")}` : ""}`;
  const { width, height } = state.bitmap;
  const photo = built.querySelector(".photo");
  // Small images are enlarged, so that overlays have enough pixels.
  const scale = Math.max(1, Math.ceil(480 / Math.max(width, height)));
  for (const canvas of built.querySelectorAll("canvas")) {
    canvas.width = width * scale;
    canvas.height = height * scale;
  }
  const context = photo.getContext("2d");
  context.imageSmoothingEnabled = scale === 1;
  context.drawImage(state.bitmap, 0, 0, photo.width, photo.height);
  built.querySelector(".scores caption").textContent = result.scores_title;
  fillScores(built.querySelector(".scores"), result, result.scores);
  return built;
}

function fillScores(table, result, scores) {
  const chosen = new Set((result.labels ?? []).map((entry) => entry.label));
  table.hidden = !scores.length;
  table.tBodies[0].replaceChildren(...scores.map((entry) => scoreRow(entry, chosen)));
}

function scoreRow({ label, score }, chosen) {
  const bar = element("meter", { min: 0, max: 1, value: score, ariaLabel: label });
  const row = element(
    "tr",
    { className: chosen.has(label) ? "chosen" : "" },
    element("th", { scope: "row", textContent: label }),
    element("td", {}, bar),
    element("td", { className: "num", textContent: score.toFixed(3) }),
  );
  return row;
}

// === Overlays ===

function redraw() {
  const kind = find("overlay").value;
  const opacity = Number(find("opacity").value) / 100;
  document.querySelectorAll("#columns .overlay").forEach((canvas, index) => {
    const result = state.results[index];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    canvas.style.opacity = opacity;
    let description = "Image without overlay";
    if (kind === "heatmap" && result.heatmaps.length) {
      const heatmap = result.heatmaps[Math.min(Number(find("heatmap-class").value), result.heatmaps.length - 1)];
      drawPixels(context, heatmap.decoded, heatColor, true);
      description = heatmap.empty ? "The heat map is empty" : `Heat map for class ${heatmap.label}`;
    } else if (kind === "mask" && result.mask) {
      drawPixels(context, result.mask.decoded, maskColor(result.mask.classes), false);
      description = `Mask: ${result.summary}`;
    } else if (kind === "boxes" && result.boxes) {
      const smallest = Number(find("score").value) / 100;
      const shown = result.boxes.objects.filter((object) => object.score >= smallest && !state.hidden.has(object.name));
      drawBoxes(context, shown);
      const table = canvas.closest(".column").querySelector(".scores");
      fillScores(table, result, shown.slice(0, LISTED).map((object) => ({ label: object.name, score: object.score })));
      description = `${counted(shown.length, "box", "boxes")} with a score of at least ${smallest.toFixed(2)}`;
    }
    canvas.setAttribute("aria-label", description);
  });
}

function heatColor(value) {
  const position = (value / 255) * (colors.length - 1);
  const index = Math.min(Math.floor(position), colors.length - 2);
  const share = position - index;
  return [...colors[index].map((channel, at) => channel + share * (colors[index + 1][at] - channel)), 255];
}

function maskColor(classes) {
  const table = new Map();
  for (const row of classes) if (!state.hidden.has(row.name)) table.set(row.id, [...row.color, 255]);
  const none = [0, 0, 0, 0];
  return (value) => table.get(value) ?? none;
}

function drawPixels(context, { width, height, values }, color, smooth) {
  const image = new ImageData(width, height);
  const known = Array.from({ length: 256 }, (_, value) => color(value));
  for (let index = 0; index < values.length; index++) image.data.set(known[values[index]], 4 * index);
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
}

function drawBoxes(context, objects) {
  const { width, height } = context.canvas;
  const size = Math.max(12, Math.round(Math.min(width, height) / 26));
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  for (const object of objects.toReversed()) {
    const [top, left, bottom, right] = object.box.map((value, at) => value * (at % 2 ? width : height));
    const color = `rgb(${object.color.join(",")})`;
    const line = Math.max(2, Math.round(size / 6));
    context.lineWidth = line + 2;
    context.strokeStyle = contrast(object.color);
    context.strokeRect(left, top, right - left, bottom - top);
    context.lineWidth = line;
    context.strokeStyle = color;
    context.strokeRect(left, top, right - left, bottom - top);
    const text = `${object.name} ${object.score.toFixed(2)}`;
    const wide = context.measureText(text).width + 8;
    const at = top - size - 6 < 0 ? top + size + 6 : top;
    context.fillStyle = color;
    context.fillRect(left, at - size - 6, wide, size + 6);
    context.fillStyle = contrast(object.color);
    context.fillText(text, left + 4, at - 2);
  }
}

function contrast([red, green, blue]) {
  return 0.2126 * red ** 2.2 + 0.7152 * green ** 2.2 + 0.0722 * blue ** 2.2 > 0.18 * 255 ** 2.2 ? "#000" : "#fff";
}

// === Nearest images and code ===

function showNearest(result) {
  const box = find("nearest");
  if (result.nearest_missing) {
    const link = element("a", { href: root.dataset.map, textContent: "Compute the embeddings of the dataset" });
    box.replaceChildren(element("p", { className: "soft" }, link, " with this version to see them."));
    return;
  }
  if (!result.nearest) {
    box.replaceChildren(element("p", { className: "soft", textContent: result.nearest_note ?? "" }));
    return;
  }
  const cards = result.nearest.map((entry) =>
    thumb(entry, element("span", { className: "soft", textContent: `similarity ${entry.similarity.toFixed(3)}` })),
  );
  box.replaceChildren(element("div", { className: "thumbs" }, ...cards));
}

function snippet({ title, text }) {
  const button = element("button", { type: "button", textContent: "Copy" });
  button.setAttribute("aria-label", `Copy the code for ${title}`);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    announce(`${title} copied`);
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  const code = element("pre", { tabIndex: 0 }, element("code", { textContent: text }));
  const heading = element("div", { className: "row" }, element("h3", { textContent: title }), button);
  return element("div", { className: "snippet" }, heading, code);
}

// === Input ===

async function openCamera() {
  showProblem(find("problem"), null);
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    find("video").srcObject = stream;
    find("camera-panel").hidden = false;
    find("shoot").focus();
  } catch (error) {
    showProblem(find("problem"), new Error(`The camera cannot be used: ${error.message}`));
  }
}

function closeCamera() {
  for (const track of find("video").srcObject?.getTracks() ?? []) track.stop();
  find("video").srcObject = null;
  find("camera-panel").hidden = true;
  find("camera").focus();
}

async function shoot() {
  const video = find("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  await use(await canvas.convertToBlob({ type: "image/png" }));
}

if (root) {
  const drop = find("drop");
  find("file").addEventListener("change", (event) => use(event.target.files[0]));
  find("camera").addEventListener("click", openCamera);
  find("camera-close").addEventListener("click", closeCamera);
  find("shoot").addEventListener("click", shoot);
  for (const id of ["version-a", "version-b"]) find(id).addEventListener("change", send);
  for (const id of ["overlay", "heatmap-class"]) {
    find(id).addEventListener("change", () => {
      updateControls();
      redraw();
    });
  }
  find("opacity").addEventListener("input", redraw);
  find("score").addEventListener("input", (event) => {
    setScore(event.target.value / 100);
    redraw();
  });
  addEventListener("paste", (event) => {
    const item = [...(event.clipboardData?.items ?? [])].find((entry) => entry.type.startsWith("image/"));
    if (item) use(item.getAsFile());
  });
  for (const kind of ["dragover", "dragenter"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    use([...event.dataTransfer.files].find((file) => file.type.startsWith("image/")) ?? event.dataTransfer.files[0]);
  });
  if (root.dataset.image) {
    fetch(root.dataset.image)
      .then((response) => {
        if (!response.ok) throw new Error("The image of the dataset cannot be loaded. Reload the page.");
        return response.blob();
      })
      .then(use)
      .catch((error) => showProblem(find("problem"), error));
  }
}
