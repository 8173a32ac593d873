"use strict";
// The review queue. A decision counts only when the server has stored it; the next image appears after that.
import { announce, counted, element, find, post, request, showProblem } from "./page.js";

const root = document.getElementById("correct");
const PAGE = 50;
const state = { total: 0, index: 0, pages: new Map(), busy: false };
// Masks and boxes are drawn again in another program.
const relabelText = root?.dataset.relabel === "1" ? "relabel" : "draw again";
const classes = root ? JSON.parse(root.dataset.classes) : [];

// === Queue ===

const withImage = (query = {}) => {
  if (root.dataset.image) query.image = root.dataset.image;
  return new URLSearchParams(query);
};

async function load(page) {
  if (!state.pages.has(page)) {
    const result = await request(`${root.dataset.url}/queue?${withImage({ offset: page * PAGE })}`);
    state.pages.set(page, result.items);
    showProgress(result.progress);
  }
  return state.pages.get(page);
}

async function item(index) {
  return (await load(Math.floor(index / PAGE)))[index % PAGE];
}

async function start() {
  const query = root.dataset.image ? { offset: 0 } : { open: 1 };
  const result = await request(`${root.dataset.url}/queue?${withImage(query)}`);
  state.pages.set(result.offset / PAGE, result.items);
  showProgress(result.progress);
  const open = result.items.findIndex((entry) => !entry.decision);
  await go(result.offset + (root.dataset.image ? 0 : Math.max(0, open)));
}

function showProgress({ total, decided, labelled, actions }) {
  state.total = total;
  find("review-bar").max = total;
  find("review-bar").value = decided;
  const parts = Object.entries(actions).filter(([, number]) => number);
  const words = parts.map(([action, number]) => `${number} ${action === "relabel" ? relabelText : action}`).join(", ");
  find("review-text").textContent = `${decided.toLocaleString("en")} of ${total.toLocaleString("en")} reviewed${words ? ` (${words})` : ""}`;
  if (find("span-state")) find("span-state").textContent = `${counted(labelled)} with a label`;
}

async function go(index) {
  state.index = Math.max(0, Math.min(state.total - 1, index));
  const entry = await item(state.index);
  if (!entry) return;
  closeForm();
  const photo = find("photo");
  photo.onload = showSmall;
  photo.src = entry.image_url ?? "";
  photo.alt = `${entry.filename}, label ${entry.label || "none"}`;
  const link = find("photo-link");
  if (entry.url) link.href = entry.url;
  else link.removeAttribute("href");
  link.textContent = entry.filename;
  const isLogged = entry.source === "log";
  find("item-label").textContent = isLogged ? "–" : entry.label || "none";
  find("keep-text").textContent = isLogged ? "Accept" : "Keep";
  find("item-proposed").textContent = entry.proposed || "–";
  find("item-reason").textContent = `${entry.reason}${entry.score ? `, score ${entry.score.toFixed(3)}` : ""}`;
  showDecision(entry);
  if (find("accept")) find("accept").disabled = !entry.proposed;
  // The files for labelling programs contain logged images without a decision anyway.
  if (find("redraw")) find("redraw").disabled = isLogged;
  find("previous").disabled = state.index === 0;
  find("next").disabled = state.index >= state.total - 1;
  await showStrip();
  announce(`Image ${state.index + 1} of ${state.total}: ${entry.filename}, label ${entry.label || "none"}, ${entry.reason}`);
}

/** Shows the pixels of a small image as squares. */
function showSmall({ target }) {
  target.classList.toggle("crisp", Math.max(target.naturalWidth, target.naturalHeight) < 160);
}

function showDecision(entry) {
  const target = find("item-decision");
  target.textContent = decisionText(entry.decision) || "none yet";
  target.className = entry.decision ? "decided" : "soft";
}

function decisionText(decision) {
  if (!decision) return "";
  if (decision.action !== "relabel") return decision.action;
  return relabelText === "relabel" ? `relabel to ${decision.new_label || "no class"}` : relabelText;
}

async function showStrip() {
  const first = Math.max(0, state.index - 3);
  const entries = [];
  for (let index = first; index < Math.min(state.total, first + 9); index++) entries.push([index, await item(index)]);
  find("strip").replaceChildren(
    ...entries
      .filter(([, entry]) => entry)
      .map(([index, entry]) => {
        const button = element(
          "button",
          { type: "button", className: index === state.index ? "current" : "" },
          element("img", { onload: showSmall, src: entry.thumbnail ?? "", alt: "" }),
          element("span", { className: "name", textContent: entry.label || entry.proposed || "none" }),
          element("span", { className: entry.decision ? "decided" : "soft", textContent: decisionText(entry.decision) || entry.reason }),
        );
        button.setAttribute("aria-label", `Image ${index + 1}: ${entry.filename}, ${decisionText(entry.decision) || "no decision"}`);
        if (index === state.index) button.setAttribute("aria-current", "true");
        button.addEventListener("click", () => attempt(() => go(index)));
        return element("li", {}, button);
      }),
  );
}

// === Decisions ===

/** Runs one action at a time; a failed one is reported and changes nothing. */
async function attempt(action) {
  if (state.busy) return;
  state.busy = true;
  try {
    await action();
    showProblem(find("problem"), null);
  } catch (error) {
    showProblem(find("problem"), error);
  } finally {
    state.busy = false;
  }
}

async function decide(action, newLabel = "") {
  const entry = await item(state.index);
  const body = { key: entry.key, action, new_label: newLabel };
  if (root.dataset.image) body.image = Number(root.dataset.image);
  const result = await post(`${root.dataset.url}/decide`, body);
  entry.decision = { action, new_label: newLabel };
  showProgress(result.progress);
  find("corrections").hidden = false;
  find("no-corrections").hidden = true;
  if (state.index < state.total - 1) await go(state.index + 1);
  else {
    showDecision(entry);
    await showStrip();
    announce("This was the last image of the queue");
  }
}

async function redraw() {
  await decide("relabel");
  find("redraw-files").hidden = false;
}

async function accept() {
  const entry = await item(state.index);
  if (entry.proposed) await decide("relabel", entry.proposed);
}

async function undo() {
  const result = await post(`${root.dataset.url}/undo`, {});
  if (!result.key) {
    announce("There is nothing to undo");
    return;
  }
  for (const [page, items] of state.pages) {
    const at = items.findIndex((entry) => entry.key === result.key);
    if (at < 0) continue;
    items[at].decision = result.decision;
    await go(page * PAGE + at);
  }
  const known = { ...result.progress, total: state.total };
  showProgress(known);
  announce(`Undone: ${result.filename}`);
}

// === New labels ===

function openForm() {
  const form = find("relabel-form");
  if (!form) return;
  form.hidden = false;
  const input = find("new-label");
  input.value = root.dataset.sets === "1" ? find("item-label").textContent.replace(/^(none|–)$/, "") : "";
  input.focus();
}

function closeForm() {
  const form = find("relabel-form");
  if (form && !form.hidden) {
    form.hidden = true;
    find("relabel").focus();
  }
}

function fillForm() {
  find("class-names").replaceChildren(...classes.map((name) => element("option", { value: name })));
  find("quick").replaceChildren(
    ...classes.slice(0, 30).map((name) => {
      const button = element("button", { type: "button", textContent: name });
      button.addEventListener("click", () => {
        if (root.dataset.sets !== "1") attempt(() => decide("relabel", name));
        else {
          const chosen = new Set(find("new-label").value.split("|").filter(Boolean));
          if (!chosen.delete(name)) chosen.add(name);
          find("new-label").value = [...chosen].join("|");
        }
      });
      return button;
    }),
  );
  find("relabel-form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => decide("relabel", find("new-label").value.trim()));
  });
  find("cancel").addEventListener("click", closeForm);
}

// === Input ===

if (root) {
  const actions = {
    keep: () => decide("keep"),
    drop: () => decide("drop"),
    undo,
    previous: () => go(state.index - 1),
    next: () => go(state.index + 1),
  };
  if (root.dataset.relabel === "1") {
    actions.accept = accept;
    actions.relabel = async () => openForm();
    fillForm();
  } else actions.redraw = redraw;
  for (const [id, action] of Object.entries(actions)) find(id).addEventListener("click", () => attempt(action));
  const r = actions.relabel ? "relabel" : "redraw";
  const keys = { k: "keep", d: "drop", u: "undo", a: "accept", r, ArrowLeft: "previous", ArrowRight: "next" };
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeForm();
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    const undoKey = event.key === "z" && (event.ctrlKey || event.metaKey);
    if (typing || event.altKey || ((event.ctrlKey || event.metaKey) && !undoKey)) return;
    const action = actions[undoKey ? "undo" : keys[event.key] ?? keys[event.key.toLowerCase()]];
    if (!action) return;
    event.preventDefault();
    attempt(action);
  });
  attempt(start);
}

// === Request log ===

const log = find("log");

async function followSelection() {
  const result = await request(`${log.dataset.url}/select`);
  find("select-button").disabled = result.running;
  find("select-state").textContent = result.running ? `${result.step} …` : "";
  if (result.running) setTimeout(() => attempt(followSelection), 1000);
  else if (result.error) throw new Error(result.error);
  else location.reload();
}

if (log) {
  find("select-form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      await post(`${log.dataset.url}/select`, { num: Number(find("select-num").value) });
      await followSelection();
    });
  });
  find("span-button")?.addEventListener("click", () =>
    attempt(async () => {
      find("span-button").disabled = true;
      find("span-state").textContent = "writing …";
      try {
        const written = await post(`${log.dataset.url}/span`, {});
        // Its images are not in the queue any more.
        state.pages.clear();
        await start();
        root.hidden = !state.total;
        const note = written.is_read_with_others ? "" : " The next run trains on this span alone unless data.spans is all.";
        find("span-state").textContent = `span ${written.number}: ${counted(written.images)} in ${written.path}.${note}`;
      } catch (error) {
        find("span-state").textContent = "";
        throw error;
      } finally {
        find("span-button").disabled = false;
      }
    }),
  );
}
