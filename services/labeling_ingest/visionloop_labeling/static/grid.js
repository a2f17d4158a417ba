// The grid: tiles that a model calls the same. A click says "wrong", a class's key says what it is
// instead, Enter accepts the rest: one request for all, each label with the label it was based on.

import { explain, hold, insist } from "./connection.js";
import { inSentence } from "./label/describe.js";
import { byId, html } from "./label/dom.js";
import { assignKeys, Keys } from "./label/keys.js";
import { labels } from "./label/unsent.js";
import { ApiError, PATIENCE, get, post, uuid } from "./http.js";

const place = byId("grid");
const list = byId("grid-tiles");
const title = byId("grid-title");
const accept = byId("grid-accept");
const acceptText = byId("grid-accept-text");
const undoButton = byId("grid-undo");
const said = byId("grid-said");
const problem = byId("grid-error");

const { dataset, predicted, order } = place.dataset;
const size = Number(place.dataset.size);
const api = `/v1/datasets/${encodeURIComponent(dataset)}`;
const classes = JSON.parse(byId("grid-classes").textContent);
const keys = assignKeys(classes);
const named = new Map(classes.map((one) => [one.id, one.name]));
const called = (id) => inSentence(named.get(id) ?? "");
const mine = called(predicted);
// With two classes, what is not the one is the other.
const theOther = classes.length === 2 ? classes.find(({ id }) => id !== predicted).id : "";

const LOOK = 250; // milliseconds; who presses Enter earlier means the tiles before

let tiles = []; // {item, button, element, choice: "" | class id, wrong, unseen}
let began = 0; // when these tiles were there to look at
let done = []; // sequences of what was said, a list a round: what undo takes back
let passed = new Set(); // marked wrong without a class: they wait for the labelling page
let after = "";
let busy = false; // something is on its way
let undoNext = false; // asked for meanwhile: it means what is on its way
let fresh = false; // nobody can have looked at the tiles yet

function preview(item, edge = 256) {
  return `${api}/images/${item.sha256}/preview?edge=${edge}`;
}

// Pages until there are enough that nobody marked as wrong before.
async function fetchItems() {
  const found = [];
  let next = after;
  while (found.length < size) {
    const query = new URLSearchParams({ state: "open", predicted, order, limit: String(size) });
    if (next) query.set("after", next);
    const page = await get(`${api}/images?${query}`, { patience: PATIENCE });
    for (const item of page.items) {
      if (!passed.has(item.sha256) && item.suggestion?.scores[0][0] === predicted) found.push(item);
    }
    if (!page.next) break;
    next = page.next;
  }
  return found.slice(0, size);
}

function makeTile(item, index) {
  const probability = item.suggestion.scores[0][1];
  const button = html(
    "button",
    { type: "button", class: "grid-tile", "aria-pressed": "false", tabindex: index ? -1 : 0 },
    html("span", { class: "picture" }, html("img", { src: preview(item), alt: "", width: 256, height: 256 })),
    html("span", { class: "grid-text" }),
  );
  const select = html("select", { "aria-label": "What it is", hidden: true });
  const tile = { item, button, select, probability, wrong: false, choice: "" };
  button.addEventListener("click", () => mark(tile, !tile.wrong, theOther));
  button.addEventListener("focus", () => rove(tile));
  select.addEventListener("change", () => mark(tile, true, select.value));
  tile.element = html("li", {}, button, select);
  describe(tile);
  return tile;
}

function choices() {
  const others = classes.filter(({ id }) => id !== predicted);
  return [
    html("option", { value: "" }, "Not now"),
    ...others.map(({ id, name }) => html("option", { value: id }, name)),
  ];
}

function describe(tile) {
  const { button, select, wrong, choice } = tile;
  const words = tile.unseen && !wrong ? "cannot be shown" : wrong ? (choice ? `→ ${called(choice)}` : `not ${mine}`) : `${Math.round(100 * tile.probability)} %`;
  button.querySelector(".grid-text").textContent = words;
  button.setAttribute("aria-pressed", String(wrong));
  button.setAttribute("aria-label", `${tile.item.source || "Image"}: ${wrong ? words.replace("→ ", "") : `${mine}, ${words}`}`);
  select.hidden = !wrong || classes.length < 3;
  // Only where it is asked: 500 classes in each of 48 tiles are 24,000 options.
  if (!select.hidden && !select.options.length) select.append(...choices());
  select.value = choice;
}

function mark(tile, wrong, choice) {
  if (busy) return describe(tile); // what is on its way is said already
  tile.wrong = wrong;
  tile.choice = wrong ? choice : "";
  describe(tile);
  count();
}

function count() {
  const wrong = tiles.filter((tile) => tile.wrong).length;
  const unseen = tiles.filter((tile) => tile.unseen && !tile.wrong).length;
  const rest = tiles.length - wrong - unseen;
  title.textContent = tiles.length ? `${tiles.length} predicted ${mine}` : `Predicted ${mine}`;
  const apart = [wrong && `${wrong} wrong`, unseen && `${unseen} not shown`].filter(Boolean);
  acceptText.textContent = apart.length && !rest ? `Go on without these ${wrong + unseen}` : ["Accept " + rest, ...apart].join(", ");
  hold(place, !busy && wrong > 0);
  accept.disabled = busy || fresh || tiles.length === 0;
  undoButton.disabled = busy || done.length === 0;
}

function rove(tile) {
  for (const one of tiles) one.button.tabIndex = one === tile ? 0 : -1;
}

async function load() {
  list.setAttribute("aria-busy", "true");
  try {
    tiles = (await insist(fetchItems)).map(makeTile);
  } catch (error) {
    tiles = []; // those that were there are decided
    throw error;
  } finally {
    list.setAttribute("aria-busy", "false");
    list.replaceChildren(...tiles.map((tile) => tile.element));
  }
  byId("grid-empty").hidden = tiles.length > 0;
  void letLook(tiles);
}

// Nothing is accepted before its picture was there to look at.
async function letLook(shown) {
  fresh = true;
  count();
  await Promise.all(shown.map(loaded));
  began = performance.now();
  if (!document.activeElement || document.activeElement === document.body) tiles[0]?.button.focus({ preventScroll: true });
  await new Promise((resolve) => setTimeout(resolve, LOOK));
  if (shown !== tiles) return;
  fresh = false;
  count();
}

// Nobody has seen what stands on a picture that does not come: it is not accepted with the rest.
async function loaded(tile) {
  try {
    await tile.button.querySelector("img").decode();
  } catch {
    tile.unseen = true;
    describe(tile);
    count();
  }
}

function labelEvent(tile, seconds) {
  const { item, wrong, choice } = tile;
  return {
    event_id: uuid(),
    sha256: item.sha256,
    kind: "label",
    annotation: { classes: [wrong ? choice : predicted] },
    base_sequence: item.sequence,
    suggested_by: `${item.suggestion.model}:${item.suggestion.version}`,
    suggestion: wrong ? "rejected" : "accepted",
    seconds,
  };
}

async function guarded(work) {
  if (busy) return;
  busy = true;
  problem.hidden = true;
  count();
  try {
    await work();
  } catch (error) {
    undoNext = false;
    if (!(error instanceof ApiError)) throw error;
    problem.textContent = explain(error);
    problem.hidden = false;
  } finally {
    busy = false;
    count();
  }
  if (!undoNext) return;
  undoNext = false;
  await undoRound();
}

// Sent until they are answered, the same events each time: nothing is said twice.
async function sent(events) {
  if (!events.length) return [];
  const what = events[0].kind === "undo" ? "Undo" : labels(events.length);
  said.textContent = `${what}: on its way …`;
  const ask = () => post(`${api}/events/batch`, { events }, { patience: PATIENCE });
  const { results } = await insist(ask, what);
  return results;
}

function sayRound() {
  if (fresh) return undefined;
  return guarded(async () => {
    const spoken = tiles.filter((tile) => (tile.wrong ? tile.choice : !tile.unseen));
    const seconds = Math.round((performance.now() - began) / Math.max(1, spoken.length)) / 1000;
    const results = await sent(spoken.map((tile) => labelEvent(tile, seconds)));
    for (const tile of tiles) if (!spoken.includes(tile)) passed.add(tile.item.sha256);
    const round = [];
    results.forEach(({ ok }, at) => {
      if (ok) round.push({ sha256: spoken[at].item.sha256, sequence: ok.sequence });
      else passed.add(spoken[at].item.sha256);
    });
    if (round.length) done.push(round);
    tell(spoken.filter((_, at) => results[at].ok), refusals(results), tiles.length - spoken.length);
    await load();
    scrollTo({ top: 0 });
  });
}

function tell(kept, refused, waiting) {
  const rejected = kept.filter((tile) => tile.wrong).length;
  const parts = [`${kept.length - rejected} labelled ${mine}`];
  if (rejected) parts.push(`${rejected} otherwise`);
  if (waiting) parts.push(`${waiting} left for later`);
  said.textContent = [`${[...parts, ...refused.meanwhile].join(", ")}.`, ...refused.why].join(" ");
}

// What was not taken: overtaken by somebody else, or for a reason that the service gives.
function refusals(results) {
  const errors = results.filter(({ ok }) => !ok).map(({ error }) => error);
  const overtaken = errors.filter(({ current }) => current).length;
  const why = new Map();
  for (const { current, message } of errors) if (!current) why.set(message, (why.get(message) ?? 0) + 1);
  return {
    meanwhile: overtaken ? [`${overtaken} had been labelled by somebody else meanwhile`] : [],
    why: [...why].map(([message, times]) => `${times} not taken: ${message}.`),
  };
}

function undoRound() {
  undoNext = busy;
  if (busy || !done.length) return undefined;
  return guarded(async () => {
    const round = done.at(-1);
    const events = round.map(({ sha256, sequence }) => ({ event_id: uuid(), sha256, kind: "undo", undoes: sequence }));
    const results = await sent(events);
    done.pop();
    const undone = results.filter(({ ok }) => ok).length;
    const kept = results.length - undone;
    said.textContent = `${undone} taken back${kept ? `, ${kept} not: something else was said about them since` : ""}.`;
    for (const { sha256 } of round) passed.delete(sha256);
    await load();
  });
}

function columns() {
  const top = tiles[0].element.offsetTop;
  const inRow = tiles.findIndex((tile) => tile.element.offsetTop !== top);
  return inRow === -1 ? tiles.length : inRow;
}

function current() {
  return tiles.find((tile) => tile.element.contains(document.activeElement));
}

function move(by) {
  if (!tiles.length) return false;
  const from = tiles.indexOf(current());
  const to = from === -1 ? 0 : from + by;
  tiles[Math.min(Math.max(to, 0), tiles.length - 1)].button.focus();
  return true;
}

accept.addEventListener("click", sayRound);
undoButton.addEventListener("click", undoRound);

const keyboard = new Keys();
keyboard.on("z", () => void undoRound());
for (const [id, key] of keys) {
  keyboard.on(key, () => {
    const tile = current();
    if (!tile) return false;
    mark(tile, id !== predicted, id === predicted ? "" : id);
    return true;
  });
}
const MOVES = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: () => columns() };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input, summary, a")) return;
  if (event.key === "Enter" && !event.repeat && event.target !== undoButton) {
    event.preventDefault(); // on a tile too: Space is what turns it
    sayRound();
  } else if (MOVES[event.key] && move(tiles.length ? MOVES[event.key]() : 0)) {
    event.preventDefault();
  }
});

guarded(load);
