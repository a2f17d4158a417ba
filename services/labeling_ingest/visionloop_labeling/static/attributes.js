// Attributes: adding one and retiring one. The API takes the whole list and retires what is not in
// it, so it is asked for first: a colleague may have added one since this page was made.

import { hold, insist } from "./connection.js";
import { ApiError, call, get, say } from "./http.js";
import { pressed, stay, whatNow } from "./forms.js";

const form = document.getElementById("new-attribute");
const signedOut = (error) => error instanceof ApiError && error.signedOut;
let busy = false;

// One change at a time, for each sends the whole list; meanwhile nothing else can be pressed.
function setBusy(wanted) {
  busy = wanted;
  hold(form, wanted);
  for (const button of document.querySelectorAll("#new-attribute button, [data-retire-attribute]")) button.disabled = wanted;
}

/**
 * @param {(specs: object[]) => object[]} change
 * @param {string} message
 */
async function put(change, message) {
  if (busy) return;
  setBusy(true);
  const done = pressed(() => setBusy(false));
  try {
    const { path } = form.dataset;
    await insist(async () => call("PUT", path, change(await get(path))), "", signedOut);
    hold(form, false); // its buttons stay as they are: a press before the page is anew would be lost
    done(message);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(whatNow(error, true), "bad");
    setBusy(false);
    stay();
  }
}

function detailOf(fields) {
  const number = (name) => (fields[name].value.trim() === "" ? null : Number(fields[name].value));
  if (fields.kind.value === "choice") {
    return { choices: fields.choices.value.split("\n").map((line) => line.trim()).filter(Boolean) };
  }
  if (fields.kind.value === "number") {
    return { minimum: number("minimum"), maximum: number("maximum"), unit: fields.unit.value.trim() };
  }
  return {};
}

if (form) {
  const fields = form.elements;
  fields.kind.addEventListener("change", () => {
    for (const part of form.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== fields.kind.value;
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const added = { name: fields.name.value.trim(), kind: fields.kind.value, detail: detailOf(fields) };
    put((specs) => [...specs.filter(({ name }) => name !== added.name), added], `${added.name} is added.`);
  });
  for (const button of document.querySelectorAll("[data-retire-attribute]")) {
    button.addEventListener("click", () => {
      const name = button.dataset.retireAttribute;
      const retire = (one) => (one.name === name ? { ...one, retired: true } : one);
      put((specs) => specs.map(retire), `${name} is retired; its values stay.`);
    });
  }
}
