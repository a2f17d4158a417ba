// Imports: the fields that a kind of source has, the upload with its progress, and how far jobs are.

import { explain, hold, insist, settled, tell } from "./connection.js";
import { takeDrops } from "./drops.js";
import { ApiError, checkSession, ownHeaders, say, uuid } from "./http.js";
import { pressed, stay } from "./forms.js";

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

// One that is too large is refused before it is sent, not after.
function tooLarge(files) {
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  const limit = Number(form.dataset.largest);
  if (bytes <= limit) return "";
  const inWords = (size) => `${(size / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
  return `These are ${inWords(bytes)}, and an upload may have ${inWords(limit)}: send them in parts.`;
}

function send(body) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest(); // fetch does not tell how far an upload is
    request.open("POST", form.dataset.path);
    request.setRequestHeader("Idempotency-Key", key);
    for (const [name, value] of Object.entries(ownHeaders())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      upload.max = total || 1;
      upload.value = loaded;
    });
    request.addEventListener("loadend", () => resolve(request));
    request.send(body);
  });
}

// Asks who is signed in before gigabytes go on their way, and sends.
async function start(body) {
  await checkSession();
  const { status, responseText } = await send(body);
  if (status >= 200 && status < 300) return;
  if ([401, 403].includes(status)) await checkSession(); // it may have ended on the way
  let answer = {};
  try {
    answer = JSON.parse(responseText);
  } catch {
    // of a proxy, or of nobody
  }
  throw new ApiError(status, answer);
}

function whatBecameOf(error) {
  if (!error.passes) return error.message;
  const said = error.status === 0 ? "The upload broke off." : explain(error);
  return `${said} The files are still chosen; press Import to send them again. They are taken once.`;
}

// While files are on their way nothing can be entered: it would go with the page that comes anew.
function lock(locked) {
  for (const field of fields) field.disabled = locked;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.hidden = true;
  const body = new FormData();
  body.set("kind", kind());
  body.set("parameters", JSON.stringify(parameters()));
  const files = most(choice()) ? Array.from(fields.file.files) : [];
  const wrong = wrongNumber(files.length, most(choice())) || tooLarge(files);
  if (wrong) {
    refuse(wrong);
    fields.file.focus();
    return;
  }
  for (const file of files) body.append("file", file);
  lock(true);
  upload.hidden = false;
  hold(form, true);
  const done = pressed(() => lock(false));
  try {
    await insist(() => start(body), "", (error) => error instanceof ApiError && error.signedOut);
    hold(form, false);
    done("The import is queued.");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    hold(form, false);
    lock(false);
    refuse(whatBecameOf(error));
    stay();
  } finally {
    hold(form, false);
    upload.hidden = true;
  }
});

// The list of jobs as it is now. Throws where there is none to be had.
async function fresh() {
  const answer = await fetch(location.href).catch(() => null);
  if (!answer) throw new ApiError(0, {});
  if (answer.redirected) await checkSession(); // to the page for signing in
  if (!answer.ok || answer.redirected) throw new ApiError(answer.status, {});
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  return document.adoptNode(page.getElementById("jobs"));
}

// Somebody is about to press something there, or it is on its way.
function inUse(jobs) {
  return jobs.contains(document.activeElement) || jobs.querySelector("form[aria-busy=true]") !== null;
}

function tellsOfRefusal(jobs) {
  return jobs.querySelector(".form-error:not([hidden])") !== null;
}

async function follow() {
  for (;;) {
    const jobs = document.getElementById("jobs");
    if (jobs?.dataset.unfinished === undefined) return;
    const told = tellsOfRefusal(jobs); // which is to be read, before the list comes anew
    await new Promise((resolve) => setTimeout(resolve, told ? 10_000 : 1_500));
    if (document.hidden || inUse(jobs) || told !== tellsOfRefusal(jobs)) continue;
    try {
      const now = await fresh();
      if (!inUse(jobs)) jobs.replaceWith(now);
      settled(follow);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const why = explain(error);
      tell(follow, { why, more: "The imports below are as they were before.", signIn: error.signedOut });
    }
  }
}
follow();
