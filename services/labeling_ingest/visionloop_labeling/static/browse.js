// Browsing: filters apply at once, and further pages are appended where the link stands.

import { say } from "./http.js";

const form = document.querySelector("[data-submit-on-change]");
form?.addEventListener("change", () => form.requestSubmit());
const show = form?.querySelector(".field button")?.parentElement;
if (show) show.hidden = true; // needless: every change is applied
form?.addEventListener("submit", () => {
  // Conditions that ask nothing do not stand in the address.
  for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
});
// Back from another page, the fields are as the browser kept them: disabled.
addEventListener("pageshow", () => {
  if (form) for (const field of form.elements) field.disabled = false;
});

const list = document.querySelector("[data-pages]");

async function append(link) {
  const answer = await fetch(link.href);
  // Signed out, it leads to another page: the link itself goes there, and comes back.
  if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const tiles = [...page.querySelectorAll("[data-pages] > li")].map((tile) => document.adoptNode(tile));
  list.append(...tiles);
  const next = page.querySelector("[data-next]");
  if (next) link.replaceWith(document.adoptNode(next));
  else link.remove();
  tiles[0]?.querySelector("a").focus();
  say(tiles.length ? `${tiles.length} more images` : "No more images");
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-next]");
  if (!link || !list || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  if (link.ariaBusy === "true") return;
  link.ariaBusy = "true";
  append(link).catch(() => {
    location.href = link.href;
  });
});
