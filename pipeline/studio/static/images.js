"use strict";
// A list of any length: only the visible images are in the document, and only their part of the list is requested.
import { element, find, request, scheduler, thumb } from "./page.js";

const PAGE = 100;
const ROW_HEIGHT = 190;
const CARD_WIDTH = 140;
const SPARE_ROWS = 2;
const KEPT_PAGES = 40;
// Browsers cannot scroll further than about 16 million pixels.
const MAX_HEIGHT = 8_000_000;

const box = find("images");
const content = box.querySelector(".virtual-content");
const count = Number(box.dataset.count);
const pages = new Map();

function columns() {
  return Math.max(2, Math.floor(box.clientWidth / CARD_WIDTH));
}

async function load(page) {
  if (pages.has(page)) return;
  pages.set(page, null);
  const query = new URLSearchParams(box.dataset.query);
  query.set("offset", page * PAGE);
  query.set("limit", PAGE);
  try {
    const { images } = await request(`${box.dataset.url}?${query}`, { priority: "high" });
    pages.set(page, images);
    for (const old of [...pages.keys()].slice(0, Math.max(0, pages.size - KEPT_PAGES))) pages.delete(old);
    schedule();
  } catch {
    pages.delete(page);
    setTimeout(schedule, 1000);
  }
}

function card(entry) {
  const note = element("span", { className: "soft", textContent: entry.filename, title: entry.filename });
  return thumb(entry, note, { loading: "eager" });
}

function draw() {
  const perRow = columns();
  const rows = Math.ceil(count / perRow);
  const height = Math.min(rows * ROW_HEIGHT, MAX_HEIGHT);
  content.style.height = `${height}px`;
  // A list that is too long for the browser scrolls faster than its content.
  const scroll = Math.max(1, height - box.clientHeight);
  const share = Math.min(1, box.scrollTop / scroll);
  const fits = box.clientHeight / ROW_HEIGHT;
  const topRow = share * Math.max(0, rows - fits);
  const first = Math.max(0, Math.floor(topRow) - SPARE_ROWS);
  const last = Math.min(rows, Math.ceil(topRow + fits) + SPARE_ROWS);
  const shown = document.createDocumentFragment();
  const focused = document.activeElement?.dataset?.index;
  for (let index = first * perRow; index < Math.min(last * perRow, count); index++) {
    const page = Math.floor(index / PAGE);
    const entry = pages.get(page)?.[index % PAGE];
    if (!entry) load(page);
    const made = entry ? card(entry) : element("span", { className: "thumb empty" });
    made.dataset.index = index;
    made.style.position = "absolute";
    made.style.width = `calc(${100 / perRow}% - 0.75rem)`;
    made.style.left = `${((index % perRow) * 100) / perRow}%`;
    made.style.top = `${box.scrollTop + (Math.floor(index / perRow) - topRow) * ROW_HEIGHT}px`;
    shown.append(made);
  }
  // Browsers load removed images to their end, before the ones that are visible now.
  for (const image of content.querySelectorAll("img")) if (!image.complete) image.removeAttribute("src");
  content.replaceChildren(shown);
  if (focused !== undefined) content.querySelector(`[data-index="${focused}"]`)?.focus({ preventScroll: true });
}

const schedule = scheduler(draw);
box.addEventListener("scroll", schedule, { passive: true });
addEventListener("resize", schedule);
find("filter").addEventListener("change", (event) => {
  if (event.target.tagName === "SELECT") event.currentTarget.requestSubmit();
});
draw();
