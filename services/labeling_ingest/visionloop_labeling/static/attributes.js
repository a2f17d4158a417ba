// Attributes: adding one and retiring one, as the whole list that the API takes.

import { ApiError, call, say } from "./http.js";
import { sayNext } from "./forms.js";

const form = document.getElementById("new-attribute");

async function put(specs, message) {
  try {
    await call("PUT", form.dataset.path, specs);
    sayNext(message);
    location.reload();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(error.message, "bad");
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
  const specs = JSON.parse(form.dataset.specs);
  const fields = form.elements;
  fields.kind.addEventListener("change", () => {
    for (const part of form.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== fields.kind.value;
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const added = { name: fields.name.value.trim(), kind: fields.kind.value, detail: detailOf(fields) };
    put([...specs.filter(({ name }) => name !== added.name), added], `${added.name} is added.`);
  });
  for (const button of document.querySelectorAll("[data-retire-attribute]")) {
    button.addEventListener("click", () => {
      const name = button.dataset.retireAttribute;
      put(specs.map((one) => (one.name === name ? { ...one, retired: true } : one)), `${name} is retired; its values stay.`);
    });
  }
}
