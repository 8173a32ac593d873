"use strict";
// Shared by several pages: elements, thumbnails, requests, and messages for screen readers.

export const find = (id) => document.getElementById(id);

/** Creates an element. Text is always text, never HTML. */
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "role" || key === "scope") created.setAttribute(key, value);
    else created[key] = value;
  }
  created.append(...children);
  return created;
}

/** Creates the thumbnail of an image of the dataset, with its label and an element below it. */
export function thumb(entry, note, { className = "thumb", loading = "lazy" } = {}) {
  return element(
    "a",
    { className, href: entry.url },
    element("img", { src: entry.thumbnail, alt: "", loading, className: entry.small ? "crisp" : "" }),
    element("span", { className: "name", textContent: entry.label || "no label" }),
    note,
  );
}

/** Returns a function that draws before the next frame, once however often it is called. */
export function scheduler(draw) {
  let scheduled = false;
  return () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      draw();
    });
  };
}

/** Requests JSON; throws an Error with the message of the server. */
export async function request(url, options = {}) {
  let response;
  try {
    response = await fetch(url, { ...options, headers: { Accept: "application/json", ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The studio does not respond. Is its process still running?");
  }
  if (response.status === 401) location.assign("/login");
  const text = await response.text();
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = { error: text };
  }
  if (!response.ok) throw new Error(value.error || `Error ${response.status}`);
  return value;
}

/** Sends JSON and receives JSON. */
export function post(url, value) {
  return request(url, { method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" } });
}

/** Reports something to screen readers. */
export function announce(text) {
  find("status").textContent = text;
}

/** Shows a problem in an element, or hides it. */
export function showProblem(target, error) {
  target.hidden = !error;
  target.textContent = error ? error.message || String(error) : "";
}

/** Formats a number of things. */
export const counted = (number, one = "image", more = "images") => `${number.toLocaleString("en")} ${number === 1 ? one : more}`;

export const percent = (value) => `${(100 * value).toFixed(1)} %`;
