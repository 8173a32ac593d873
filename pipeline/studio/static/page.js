"use strict";
// What several pages use: elements, requests, and messages for screen readers.

/** Creates an element. Text is always text, never HTML. */
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(created.dataset, value);
    else if (key.startsWith("aria") || key === "role" || key === "scope" || key === "for") created.setAttribute(key, value);
    else created[key] = value;
  }
  created.append(...children.filter((child) => child !== null && child !== undefined));
  return created;
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

/** Says something to screen readers. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Shows a problem in an element, or hides it. */
export function showProblem(target, error) {
  target.hidden = !error;
  target.textContent = error ? error.message || String(error) : "";
}

export const percent = (value) => `${(100 * value).toFixed(1)} %`;
