// Forms that call the API: <form data-call="PATCH /v1/…" data-done="Renamed.">. Their fields become
// JSON; a refusal stands in the form, at the field it names; afterwards the page is fetched anew.
//
// data-type of a field: number, lines (a list), json. Empty fields are left out unless data-keep.
// data-then: where to go on instead. data-multipart: sent as a form, with a file.

import { ApiError, call, say, uuid } from "./http.js";

const MESSAGE = "visionloop-message";

// Shows a message on the page that comes next.
export function sayNext(text) {
  sessionStorage.setItem(MESSAGE, text);
}

const left = sessionStorage.getItem(MESSAGE);
if (left) {
  sessionStorage.removeItem(MESSAGE);
  say(left);
}

const READERS = {
  number: Number,
  lines: (text) => text.split("\n").map((line) => line.trim()).filter(Boolean),
  json: JSON.parse,
};

function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  const text = field.dataset.raw === undefined ? field.value.trim() : field.value;
  if (text === "") return field.dataset.keep === undefined ? undefined : "";
  return (READERS[field.dataset.type] ?? String)(text);
}

function bodyOf(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled || (field.type === "radio" && !field.checked)) continue;
    const value = valueOf(field);
    if (value !== undefined) body[field.name] = value;
  }
  return body;
}

function refuse(form, error) {
  let place = form.querySelector(".form-error");
  if (!place) {
    place = document.createElement("p");
    place.className = "notice bad form-error";
    place.setAttribute("role", "alert");
    form.append(place);
  }
  place.textContent = error.message;
  const field = form.elements[error.body?.field];
  if (field instanceof HTMLElement) {
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }
}

async function submit(form) {
  const [method, path] = form.dataset.call.split(" ");
  for (const field of form.elements) field.removeAttribute?.("aria-invalid");
  const multipart = form.dataset.multipart !== undefined;
  const headers = form.dataset.idempotent === undefined ? {} : { "Idempotency-Key": uuid() };
  const body = multipart ? new FormData(form) : form.elements.length ? bodyOf(form) : undefined;
  if (form.dataset.event !== undefined) body.event_id = uuid();
  const bare = !multipart && body && !Object.keys(body).length;
  return call(method, path, bare ? undefined : body, { headers });
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.call) return;
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  form.ariaBusy = "true";
  const buttons = form.querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  try {
    const answer = await submit(form);
    const done = new CustomEvent("done", { detail: answer, bubbles: true, cancelable: true });
    if (form.dispatchEvent(done)) {
      if (form.dataset.done) sayNext(form.dataset.done);
      if (form.dataset.then) location.href = form.dataset.then;
      else location.reload();
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    for (const button of buttons) button.disabled = false;
    refuse(form, error);
  } finally {
    form.ariaBusy = "false";
  }
});
