// Imports: the fields that a kind of source has, the upload with its progress, and how far jobs are.

import { csrf, uuid } from "./http.js";
import { sayNext } from "./forms.js";

const form = document.getElementById("new-import");
const fields = form.elements;
const upload = document.getElementById("upload");
const problem = form.querySelector(".form-error");
// One key for one wish: pressed again after a broken connection, it is the same import.
let key = uuid();

const kind = () => fields.kind.value;
const isFor = (element) => element.dataset.kinds.split(" ").includes(kind());

function choose() {
  for (const part of form.querySelectorAll("[data-kinds]")) part.hidden = !isFor(part);
  fields.file.accept = form.querySelector("[name=kind]:checked").dataset.accept;
}

form.addEventListener("change", (event) => {
  key = uuid();
  if (event.target.name === "kind") choose();
});
choose();

function parameters() {
  const values = {};
  for (const field of fields) {
    const part = field.closest("[data-kinds]");
    if (!field.name?.startsWith("p.") || (part && !isFor(part))) continue;
    const name = field.name.slice(2);
    if (field.type === "checkbox") values[name] = field.checked;
    else if (name === "attribute_columns") {
      const lines = field.value.split("\n").map((line) => line.trim()).filter(Boolean);
      if (lines.length) values[name] = lines;
    } else if (field.value.trim()) values[name] = field.value.trim();
  }
  return values;
}

function refuse(text) {
  problem.textContent = text;
  problem.hidden = false;
}

function send(body) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest(); // fetch does not tell how far an upload is
    request.open("POST", form.dataset.path);
    request.setRequestHeader("Idempotency-Key", key);
    if (csrf) request.setRequestHeader("X-CSRF-Token", csrf);
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      upload.max = total || 1;
      upload.value = loaded;
    });
    request.addEventListener("loadend", () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText || "{}");
      } catch {
        answer = { message: `the service answered ${request.status}` };
      }
      resolve({ ok: request.status >= 200 && request.status < 300, answer });
    });
    request.send(body);
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.hidden = true;
  const body = new FormData();
  body.set("kind", kind());
  body.set("parameters", JSON.stringify(parameters()));
  if (kind() !== "s3") {
    if (!fields.file.files.length) {
      refuse("Choose a file.");
      fields.file.focus();
      return;
    }
    body.set("file", fields.file.files[0]);
  }
  const button = form.querySelector("button");
  button.disabled = true;
  upload.hidden = false;
  const { ok, answer } = await send(body);
  if (ok) {
    sayNext("The import is queued.");
    location.reload();
    return;
  }
  button.disabled = false;
  upload.hidden = true;
  refuse(answer.message || "The upload broke off; press Import to send it again.");
});

async function follow() {
  const jobs = document.getElementById("jobs");
  if (jobs?.dataset.unfinished === undefined) return;
  await new Promise((resolve) => setTimeout(resolve, 1500));
  if (!document.hidden) {
    const answer = await fetch(location.href).catch(() => null);
    if (answer?.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const focused = jobs.contains(document.activeElement);
      if (!focused) jobs.replaceWith(document.adoptNode(page.getElementById("jobs")));
    }
  }
  await follow();
}
follow();
