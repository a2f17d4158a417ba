// Imports: the fields that a kind of source has, the upload with its progress, and how far jobs are.

import { takeDrops } from "./drops.js";
import { csrf, say, uuid } from "./http.js";
import { sayNext } from "./forms.js";

const form = document.getElementById("new-import");
const fields = form.elements;
const upload = document.getElementById("upload");
const problem = form.querySelector(".form-error");
// One key for one wish: pressed again after a broken connection, it is the same import.
let key = uuid();

const choice = () => form.querySelector("[name=kind]:checked");
const kind = () => choice().value;
const most = (one) => Number(one.dataset.most);
const isFor = (element) => element.dataset.kinds.split(" ").includes(kind());

function choose() {
  for (const part of form.querySelectorAll("[data-kinds]")) part.hidden = !isFor(part);
  fields.file.accept = choice().dataset.accept;
  fields.file.multiple = most(choice()) > 1;
}

// Whether a kind of source takes these files, by their number and names.
function takes(one, files) {
  const ends = one.dataset.accept.split(",");
  const fits = (file) => ends.some((end) => file.name.toLowerCase().endsWith(end));
  return files.length <= most(one) && files.every(fits);
}

// Files that the chosen kind does not take tell the kind themselves: photographs, an archive.
function suit() {
  const files = Array.from(fields.file.files);
  if (takes(choice(), files)) return;
  const other = Array.from(fields.kind).find((one) => takes(one, files));
  if (other) {
    other.checked = true;
    say(`Taken as: ${other.closest("label").querySelector("strong").textContent}.`);
  } else if (!most(choice())) {
    refuse("No kind of source takes such files.");
  }
}

form.addEventListener("change", (event) => {
  key = uuid();
  problem.hidden = true;
  if (event.target === fields.file) suit();
  choose();
});
choose();
takeDrops(fields.file, refuse);

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

// What is wrong with the number of files, "" when nothing is.
function wrongNumber(count, limit) {
  if (limit > 0 && count === 0) return "Choose a file.";
  if (limit === 1 && count > 1) return "Choose one file; several are taken as images alone, or in one archive.";
  if (limit > 1 && count > limit) return `Choose at most ${limit} files at a time; these are ${count}.`;
  return "";
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
  const files = most(choice()) ? fields.file.files : [];
  const wrong = wrongNumber(files.length, most(choice()));
  if (wrong) {
    refuse(wrong);
    fields.file.focus();
    return;
  }
  for (const file of files) body.append("file", file);
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
