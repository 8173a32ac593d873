"use strict";
// Refreshes the progress of the newest run: every second while it runs, otherwise every five.
import { announce } from "./page.js";

const FAST_MS = 1000;
const SLOW_MS = 5000;
const box = document.getElementById("progress");
let summary = "";
let wasRunning = box.querySelector("#progress-content").dataset.running === "1";

async function refresh() {
  try {
    const response = await fetch(box.dataset.url, { headers: { Accept: "text/html" } });
    if (response.ok && !response.redirected) {
      const parsed = new DOMParser().parseFromString(await response.text(), "text/html");
      const content = parsed.getElementById("progress-content");
      if (content && content.outerHTML !== box.firstElementChild.outerHTML) {
        const opened = [...box.querySelectorAll("details")].map((details) => details.open);
        box.replaceChildren(document.adoptNode(content));
        box.querySelectorAll("details").forEach((details, index) => (details.open = opened[index] ?? false));
        if (content.dataset.summary !== summary) announce(content.dataset.summary);
        summary = content.dataset.summary;
      }
      const running = content?.dataset.running === "1";
      // The tables of the page belong to the runs that had ended when it was loaded.
      if (wasRunning && !running) location.reload();
      wasRunning = running;
    }
  } catch {
    // The process may be restarting: the next request tries again.
  }
  setTimeout(refresh, document.hidden ? SLOW_MS : wasRunning ? FAST_MS : SLOW_MS);
}

setTimeout(refresh, FAST_MS);
