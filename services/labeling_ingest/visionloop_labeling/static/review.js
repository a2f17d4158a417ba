// The review: one image at a time, what was said about it side by side, decided by a digit.
//
// A decision is a label by the reviewer, based on the label that is shown; who was faster wins, and
// the case is shown again as it stands then. What two people see at once is leased to one of them.

import { explain, insist } from "./connection.js";
import { byId, html, svg } from "./label/dom.js";
import { assignKeys, Keys } from "./label/keys.js";
import { inWords } from "./label/describe.js";
import { ApiError, PATIENCE, get, post, uuid } from "./http.js";

const place = byId("review");
const view = byId("review-case");
const picture = byId("review-picture");
const sidesList = byId("review-sides");
const said = byId("review-said");
const problem = byId("review-error");
const undoButton = byId("review-undo");
const otherClasses = document.getElementById("review-classes");

const { dataset, task } = place.dataset;
const root = `/datasets/${encodeURIComponent(dataset)}`;
const api = `/v1${root}`;
const { named, offered } = JSON.parse(byId("review-data").textContent);
const looks = new Map(named.map((one) => [one.id, one]));
const look = (id) => looks.get(id) ?? { name: id, colour: "#8b8982" };
const classKeys = assignKeys(offered);
const KINDS = { human: "", import: "import", app: "app", model: "model" };
const LEASED = 4;
const LOOK = 250; // milliseconds; who presses a key earlier means the case before

let waiting = []; // leased and not shown yet
let passed = new Set();
let current = null; // {item, sides}
let decisions = []; // {sha256, sequence}, for undo
let busy = false;
let undoNext = false; // asked for meanwhile: it means what is on its way
let lookTimer = 0;

const moments = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

async function next() {
  if (!waiting.length) {
    const { remaining, items } = await fetched(`${api}/queue?n=${LEASED}&state=review`);
    waiting = items.filter(({ sha256 }) => !passed.has(sha256));
    tellLeft(remaining);
  }
  for (const { sha256 } of waiting) new Image().src = preview(sha256);
  const item = waiting.shift();
  if (item) await show(item);
  else showNothing();
}

function tellLeft(left) {
  byId("review-none").textContent = left ? "Nothing to review right now" : "Nothing to review";
  byId("review-none-why").hidden = left > 0;
  byId("review-held").hidden = left === 0;
  byId("review-left").textContent = `${left} ${left === 1 ? "image waits" : "images wait"} for a decision`;
}

const fetched = (path) => insist(() => get(path, { patience: PATIENCE }));
const image = (sha256) => fetched(`${api}/images/${sha256}`);
const preview = (sha256) => `${api}/images/${sha256}/preview?edge=1600`;

function showNothing() {
  clearTimeout(lookTimer);
  current = null;
  view.hidden = true;
  byId("review-empty").hidden = false;
  place.setAttribute("aria-busy", "false");
}

// Each different thing that was said, once: the current label first, then the latest.
function sidesOf(history) {
  const sides = new Map();
  const spoken = history.filter((event) => event.kind === "label" && !event.undone);
  for (const event of [...spoken].reverse()) {
    const content = JSON.stringify([event.annotation.classes, event.annotation.boxes, event.annotation.shapes]);
    if (!sides.has(content)) sides.set(content, { annotation: event.annotation, events: [], current: false });
    const side = sides.get(content);
    side.events.push(event);
    if (event.current) {
      side.current = true;
      side.annotation = event.annotation;
    }
  }
  return [...sides.values()].sort((a, b) => Number(b.current) - Number(a.current)).slice(0, 9);
}

async function show(item) {
  clearTimeout(lookTimer);
  place.ariaBusy = "true";
  const history = await fetched(`${api}/images/${item.sha256}/history`);
  const sides = sidesOf(history);
  if (!sides.length && item.annotation) sides.push({ annotation: item.annotation, events: [], current: true });
  current = { item, sides, history };
  byId("review-empty").hidden = true;
  byId("review-unseen").hidden = true;
  view.hidden = false;
  picture.replaceChildren(large(item));
  draw(sides[0]?.annotation);
  byId("review-why").textContent = reason(item);
  byId("review-source").textContent = item.source;
  byId("review-page").href = `${root}/images/${item.sha256}`;
  byId("review-label").href = `${root}/label?state=review&image=${item.sha256}`;
  sidesList.replaceChildren(...sides.map(sideRow));
  drawClasses();
  lookTimer = setTimeout(() => (place.ariaBusy = "false"), LOOK);
  sidesList.querySelector("button")?.focus({ preventScroll: true });
}

function reason(item) {
  if (item.why.reason !== "flagged") return "Two things were said";
  const note = item.why.note ? `: “${item.why.note}”` : "";
  return `Flagged by ${item.why.by || "somebody"}${note}`;
}

// The picture with what was drawn, in the image's own coordinates.
function large({ sha256, source, width, height }) {
  const image = svg("image", { href: preview(sha256), width, height, preserveAspectRatio: "none" });
  image.addEventListener("error", () => byId("review-unseen").toggleAttribute("hidden", false));
  return svg(
    "svg",
    { class: "large", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `The image ${source || sha256.slice(0, 8)}` },
    image,
    svg("g", { class: "shapes" }),
  );
}

function draw(annotation) {
  const boxes = (annotation?.boxes ?? []).map(({ x, y, width, height, class_id }) =>
    svg("rect", { x, y, width, height, stroke: look(class_id).colour }),
  );
  const polygons = (annotation?.shapes ?? [])
    .filter(({ kind }) => kind === "polygon")
    .map(({ points, class_id }) => svg("polygon", { points: points.join(" "), stroke: look(class_id).colour }));
  picture.querySelector(".shapes").replaceChildren(...boxes, ...polygons);
}

function sideRow(side, index) {
  const ids = side.annotation.classes ?? [];
  const words = side.events.map(
    (event) => `${event.author || KINDS[event.author_kind] || "unknown"}${KINDS[event.author_kind] && event.author ? ` (${KINDS[event.author_kind]})` : ""}, ${moments.format(new Date(event.at))}`,
  );
  const dot = ids.length
    ? svg("svg", { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("circle", { cx: 5, cy: 5, r: 4.5, fill: look(ids[0]).colour }))
    : null;
  const button = html(
    "button",
    { type: "button", class: "side", onclick: () => decide(side.annotation) },
    html("kbd", { "aria-hidden": "true" }, String(index + 1)),
    html(
      "span",
      { class: "side-text" },
      html("span", { class: "strong class-name" }, dot, inWords(side.annotation, look), side.current ? " " : null, side.current ? html("span", { class: "badge" }, "counts now") : null),
      ...words.map((text) => html("span", { class: "soft small" }, text)),
    ),
  );
  button.addEventListener("focus", () => draw(side.annotation));
  button.addEventListener("pointerenter", () => draw(side.annotation));
  return html("li", {}, button);
}

function drawClasses() {
  if (!otherClasses) return;
  otherClasses.replaceChildren(
    ...offered.map(({ id, name }) => html("button", { type: "button", onclick: () => decide({ classes: [id] }) }, name)),
  );
}

async function guarded(work) {
  if (busy) return;
  busy = true;
  problem.hidden = true;
  try {
    await work();
  } catch (error) {
    undoNext = false;
    if (!(error instanceof ApiError)) throw error;
    problem.textContent = explain(error);
    problem.hidden = false;
    if (!current) view.hidden = true; // what was there is decided
    place.ariaBusy = "false";
    said.textContent = "";
  } finally {
    busy = false;
    undoButton.disabled = decisions.length === 0;
  }
  if (!undoNext) return;
  undoNext = false;
  await undo();
}

// Sent until it is answered, as the same event each time: it is recorded once. Undefined where
// somebody was faster: then the image is shown as it stands.
async function sent(event) {
  const body = { event_id: uuid(), ...event };
  const ask = () => post(`${api}/events`, body, { patience: PATIENCE });
  said.textContent = "On its way …";
  try {
    return await insist(ask, event.kind === "undo" ? "Undo" : "Decision");
  } catch (error) {
    if (error.status !== 409 || !error.body.current) throw error;
    said.textContent = "Somebody decided meanwhile; this is how it stands now.";
    await show(error.body.current);
    return undefined;
  }
}

function decide(annotation) {
  if (!current || place.ariaBusy === "true") return undefined;
  return guarded(async () => {
    const { item } = current;
    const event = { sha256: item.sha256, kind: "label", annotation, base_sequence: item.sequence };
    const answer = await sent(event);
    if (!answer) return;
    decisions.push({ sha256: item.sha256, sequence: answer.sequence });
    current = null;
    said.textContent = `Decided: ${inWords(annotation, look)}${answer.state === "review" ? ", still to review" : ""}.`;
    await next();
  });
}

function skip() {
  if (!current || place.ariaBusy === "true") return undefined;
  return guarded(async () => {
    const { sha256 } = current.item;
    passed.add(sha256);
    await insist(() => post(`${api}/queue/release`, { sha256: [sha256] }, { patience: PATIENCE }));
    said.textContent = "Left for later.";
    await next();
  });
}

function undo() {
  undoNext = busy;
  const last = decisions.at(-1);
  if (busy || !last) return undefined;
  return guarded(async () => {
    const waits = current?.item;
    const answer = await sent({ sha256: last.sha256, kind: "undo", undoes: last.sequence });
    decisions.pop();
    if (waits) waiting.unshift(waits);
    if (!answer) return;
    said.textContent = "Taken back.";
    await show(await image(last.sha256));
  });
}

byId("review-skip").addEventListener("click", skip);
undoButton.addEventListener("click", undo);

const keyboard = new Keys();
keyboard.on("s", () => void skip());
keyboard.on("z", () => void undo());
keyboard.on("l", () => void byId("review-label").click());
keyboard.on("1 2 3 4 5 6 7 8 9", (event) => {
  const side = current?.sides[Number(event.key) - 1];
  if (!side) return false;
  decide(side.annotation);
  return true;
});
if (task === "classification") {
  for (const [id, key] of classKeys) {
    if (!/[0-9sflz]/.test(key)) keyboard.on(key, () => void decide({ classes: [id] }));
  }
}

// Leases end with the page, so that colleagues need not wait.
addEventListener("pagehide", () => {
  const held = [...waiting.map(({ sha256 }) => sha256), ...(current ? [current.item.sha256] : [])];
  if (held.length) post(`${api}/queue/release`, { sha256: held }, { keepalive: true }).catch(() => {});
});

const asked = place.dataset.image;
guarded(async () => {
  const item = asked && (await image(asked).catch(gone));
  if (item) await show(item);
  else await next();
});

function gone(error) {
  if (error.status !== 404) throw error;
  said.textContent = "The image that was asked for is not here any more.";
}
