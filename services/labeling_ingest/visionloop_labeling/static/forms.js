// Forms that call the API: <form data-call="PATCH /v1/…" data-done="Renamed.">. Their fields become
// JSON; a refusal stands in the form, at the field it names; afterwards the page is fetched anew.
//
// data-type of a field: number, lines (a list). Empty fields are left out unless data-keep. Fields with
// a data-key make an object of their name: {"classes": {"Tea pot": "teapot"}}.
// data-then: where to go on instead. data-event: it is an event, recorded once under its UUID.
// data-repeatable: a POST that does no harm done twice. data-done-x: what is said instead of data-done
// where the answer's outcome is "x". data-onward: an answer with a `next` was a part; the call goes on there.

import { explain, hold, holding, insist } from "./connection.js";
import { ApiError, call, say, uuid } from "./http.js";

const MESSAGE = "visionloop-message"; // said on the page that comes next
const SLOW = 4_000; // milliseconds, after which it is said that nothing has come yet

const left = sessionStorage.getItem(MESSAGE);
if (left) {
  sessionStorage.removeItem(MESSAGE);
  say(left);
}

const READERS = {
  number: Number,
  lines: (text) => text.split("\n").map((line) => line.trim()).filter(Boolean),
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
    if (value === undefined) continue;
    if (field.dataset.key === undefined) body[field.name] = value;
    else (body[field.name] ??= {})[field.dataset.key] = value;
  }
  return body;
}

// The place in a form for what is to be said of it; made once, for screen readers to know it.
function notice(form) {
  let place = form.querySelector(".form-error");
  if (!place) {
    place = document.createElement("p");
    place.className = "notice bad form-error";
    place.setAttribute("role", "alert");
    form.append(place);
  }
  return place;
}

const isRepeatable = ({ dataset }) =>
  !dataset.call.startsWith("POST") || dataset.event !== undefined || dataset.repeatable !== undefined;

function refuse(form, error) {
  const place = notice(form);
  place.hidden = false;
  place.textContent = whatNow(error, isRepeatable(form));
  const field = form.elements[error.body.field];
  if (field instanceof HTMLElement) {
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }
}

/**
 * What happened and what to do.
 * @param {ApiError} error
 * @param {boolean} repeatable whether doing it twice is doing it once
 */
export function whatNow(error, repeatable) {
  if (!error.passes) return error.message;
  // 429 comes before anything is done; 503 also when the database was lost while it kept what was done.
  if (error.status === 429 || repeatable) return `${explain(error)} What you entered is still here: try again in a moment.`;
  return `${explain(error)} Whether it was done is not known: load this page again to see.`;
}

const sent = new WeakMap(); // form → {wish, event_id}: sent again without an answer, it is the same

function eventId(form, body) {
  const wish = JSON.stringify(body);
  if (sent.get(form)?.wish !== wish) sent.set(form, { wish, event_id: uuid() });
  return sent.get(form).event_id;
}

async function submit(form) {
  const [method, path] = form.dataset.call.split(" ");
  const fields = bodyOf(form);
  if (form.dataset.event !== undefined) fields.event_id = eventId(form, fields);
  const body = Object.keys(fields).length ? fields : undefined;
  const ask = async () => {
    let answer = await call(method, path, body);
    while (form.dataset.onward !== undefined && answer.next) {
      const further = `${path.includes("?") ? "&" : "?"}after=${encodeURIComponent(answer.next)}`;
      answer = await call(method, path + further, body);
    }
    return answer;
  };
  const late = setTimeout(() => {
    notice(form).hidden = false;
    notice(form).textContent = "There is no answer yet; this page still waits for it.";
  }, SLOW);
  hold(form, true);
  try {
    // Signing in again does not take what was entered with it.
    return await insist(ask, "", (error) => {
      clearTimeout(late);
      return error instanceof ApiError && error.signedOut;
    });
  } finally {
    clearTimeout(late);
    hold(form, false);
    notice(form).hidden = true;
  }
}

const done = []; // what waits for the page that comes next: {words, release}
let next; // that page, once nothing is on its way any more; "" for this one anew
let stays = 0; // how often something here was to be read first

/**
 * Something is pressed. Gives what to call once it is done: then the page that comes next says
 * `words`, this one anew or `then`. Where something else is to be read here meanwhile, that comes
 * first: the words are said here, and it can be pressed again.
 * @param {() => void} release lets it be pressed again
 * @returns {(words: string | undefined, then?: string) => void}
 */
export function pressed(release) {
  const before = stays;
  return (words, then = "") => {
    done.push({ words, release });
    if (stays === before) next = then;
    goOn();
  };
}

// Something is to be read on this page by whoever pressed it: a refusal, or what is shown only once.
export function stay() {
  stays += 1;
  next = undefined;
  goOn();
}

// What is on its way would break off with the page.
function goOn() {
  if (holding()) return;
  const settled = done.splice(0);
  const words = settled.map((one) => one.words).filter(Boolean);
  if (next === undefined) {
    for (const one of settled) one.release();
    words.forEach((text) => say(text));
    return;
  }
  if (words.length) sessionStorage.setItem(MESSAGE, words.join(" "));
  if (next) location.href = next;
  else location.reload();
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.call) return;
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  form.ariaBusy = "true";
  for (const field of form.elements) field.removeAttribute?.("aria-invalid");
  const buttons = form.querySelectorAll("button");
  const allow = (allowed) => buttons.forEach((button) => (button.disabled = !allowed));
  allow(false);
  const finish = pressed(() => allow(true));
  try {
    const answer = await submit(form);
    sent.delete(form);
    const told = new CustomEvent("done", { detail: answer, bubbles: true, cancelable: true });
    if (!form.dispatchEvent(told)) stay();
    else finish(form.getAttribute(`data-done-${answer?.outcome}`) ?? form.dataset.done, form.dataset.then);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    allow(true);
    refuse(form, error);
    stay();
  } finally {
    form.ariaBusy = "false";
  }
});

// Back from the page that came next, its buttons can be pressed again.
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  next = undefined;
  for (const button of document.querySelectorAll("form[data-call] button")) button.disabled = false;
});
