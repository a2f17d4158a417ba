/**
 * The labelling page: puts its parts together. Everything a person can do here is one of the
 * commands below, with a key and a button; what happens then is the parts' affair.
 */

/** @import { Annotation, Item, LabelEvent, QueueState, Task } from "./wire.js" */

import { Api } from "./api.js";
import { AttributeForm } from "./attributes.js";
import { BoxEditor, boxList } from "./boxes.js";
import { ClassPanel, percent } from "./classes.js";
import { Conflicts } from "./conflicts.js";
import { inWords, saidInWords } from "./describe.js";
import { byId, html } from "./dom.js";
import { Draft, outcome, suggestedClasses } from "./draft.js";
import { Drafts } from "./drafts.js";
import { Journal } from "./journal.js";
import { Keys } from "./keys.js";
import { Progress } from "./progress.js";
import { Queue } from "./queue.js";
import { Session, currentAnnotation } from "./session.js";
import { drawShapes } from "./shapes.js";
import { Stage } from "./stage.js";
import { Strip } from "./strip.js";
import { why } from "./why.js";

const COUNTED = 500; // events of today that are counted at the start

const root = byId("label");
const dataset = root.dataset.dataset ?? "";
const author = root.dataset.author ?? "";
const task = /** @type {Task} */ (root.dataset.task);
const state = /** @type {QueueState} */ (root.dataset.state);

const api = new Api(dataset);
const journal = new Journal(api, dataset, author);
const queue = new Queue(api, state, (sha256, asked) => journal.outdated(sha256, asked));
const session = new Session(api, queue, journal);
const stage = new Stage(byId("stage"), byId("layer"));
const classes = new ClassPanel(
  byId("classes"),
  /** @type {HTMLInputElement} */ (byId("find")),
  byId("classes-more"),
);
const look = (/** @type {string} */ id) => classes.look(id);
const overlay = /** @type {SVGElement} */ (/** @type {unknown} */ (byId("overlay")));
const boxes = new BoxEditor(overlay, stage, look);
const conflicts = new Conflicts(api, journal, session, look);
const strip = new Strip(byId("strip"), api, session, look);
const progress = new Progress(byId("progress"));
const note = /** @type {HTMLTextAreaElement} */ (byId("note"));
const keys = new Keys();
const drafts = new Drafts(dataset);
const detection = task === "detection";

let draft = new Draft(task, null);
/** @type {AttributeForm} */
let attributes = new AttributeForm(byId("attributes"), [], () => {});
let saysAtOnce = task === "classification"; // whether a class's key is the whole decision

// ---- what is on screen --------------------------------------------------------------------------

function show() {
  const visit = session.visit;
  byId("nothing").hidden = visit !== undefined;
  byId("layer").hidden = visit === undefined;
  if (!visit) {
    showNothing();
    return;
  }
  const { item, preview } = visit;
  const begun = drafts.get(item.sha256);
  draft = new Draft(task, begun ?? currentAnnotation(visit));
  draft.changed = begun !== undefined;
  showPreview(visit);
  stage.open(item.width, item.height);
  boxes.open(draft.boxes, detection);
  const shapesGroup = /** @type {SVGElement} */ (/** @type {unknown} */ (byId("shapes")));
  drawShapes(shapesGroup, /** @type {HTMLCanvasElement} */ (byId("masks")), draft.shapes, look);
  showAttributes();
  note.value = draft.note;
  byId("why").textContent = why(item, look);
  byId("source").textContent = item.source;
  byId("source").title = item.source;
  showStored(item);
  showDraft();
  showSuggestion(item);
  afterPaint(() => {
    strip.draw();
    showProgress();
  });
  void preview.ready.then(() => session.visit === visit && showPreview(visit));
}

/** @param {import("./session.js").Visit} visit */
function showPreview({ item, preview }) {
  const place = byId("picture");
  if (place.firstElementChild !== preview.image) place.replaceChildren(preview.image);
  byId("layer").classList.toggle("loading", preview.state === "loading");
  byId("failed").hidden = preview.state !== "failed";
  byId("stage").setAttribute("aria-label", `Image ${item.source || item.sha256.slice(0, 12)}`);
}

function showNothing() {
  const words = {
    loading: ["Fetching images …", ""],
    ready: ["Fetching images …", ""],
    unreachable: [
      "The service does not answer",
      "What you have labelled is kept on this device. New images come as soon as it is back.",
    ],
    refused: ["This queue is not for you", queue.refusal],
    empty: [
      session.trail.length > 0 ? "All done here" : "No image waits here",
      "New ones appear by themselves.",
    ],
  }[queue.status];
  byId("nothing-title").textContent = words[0];
  byId("nothing-text").textContent = words[1];
  byId("nothing-links").hidden = queue.status !== "empty";
  byId("why").textContent = "";
  byId("source").textContent = "";
  byId("picture").replaceChildren();
  boxes.open([], false);
  draft = new Draft(task, null);
  showDraft();
  byId("suggestion").hidden = true;
  byId("stored").hidden = true;
  strip.draw();
  showProgress();
}

/** @param {Item} item */
function showStored(item) {
  const place = byId("stored");
  place.hidden = !item.annotation;
  if (place.hidden) return;
  const who = item.author === "local" ? "" : item.author || item.author_kind || "";
  const words = inWords(item.annotation, look);
  place.textContent = `${item.disputed ? "Disputed label" : "Label"}: ${words}${who && ` · ${who}`}`;
}

/** Those of the chosen box, or else of the image. */
function showAttributes() {
  const box = boxes.boxes[boxes.chosen];
  if (box) box.attributes ??= {};
  const values = box?.attributes ?? draft.attributes;
  if (attributes.values !== values) attributes.open(values);
  byId("attributes-title").textContent = box ? "Attributes of the box" : "Attributes";
}

/** @param {Item} item */
function showSuggestion(item) {
  const suggestion = item.suggestion;
  const suggested = suggestedClasses(task, suggestion);
  byId("suggestion").hidden = suggested.length === 0;
  if (!suggestion || suggested.length === 0) return;
  const sure = suggestion.sure ? "" : " (unsure)";
  byId("suggestion-class").textContent = suggested.map((id) => look(id).name).join(", ");
  byId("suggestion-probability").textContent = percent(suggestion.scores[0][1]) + sure;
  byId("suggestion-model").textContent = `${suggestion.model}:${suggestion.version}`;
}

function showDraft() {
  const item = session.visit?.item;
  const suggested = suggestedClasses(task, item?.suggestion ?? null);
  const pressed = detection ? [boxes.currentClass] : draft.classes;
  classes.show(pressed, item?.suggestion ?? null, suggested);
  byId("box-list").replaceChildren(...boxList(boxes));
  byId("box-help").hidden = !detection || draft.boxes.length > 0;
  byId("boxes-hidden").hidden = !boxes.hidden;
  byId("save").toggleAttribute("disabled", !session.visit);
  byId("save-text").textContent = saveWords(suggested);
  byId("undo").setAttribute("aria-disabled", String(session.said.length === 0));
}

/** @param {string[]} suggested */
function saveWords(suggested) {
  if (detection) {
    const count = draft.boxes.length;
    if (count === 0) return "Nothing there";
    return `Save ${count} ${count === 1 ? "box" : "boxes"}`;
  }
  if (draft.empty && !draft.changed && suggested.length > 0) return "Accept";
  if (draft.empty && task === "multi_label") return "None of these";
  return "Save";
}

/** What the classes mean, where somebody wrote it down, in the dialog of keys. */
function showMeanings() {
  const explained = classes.classes.filter((one) => one.help);
  byId("meanings").hidden = explained.length === 0;
  byId("meanings-list").replaceChildren(
    ...explained.flatMap((one) => [html("dt", {}, one.name), html("dd", {}, one.help)]),
  );
}

/**
 * The image first: what stands beside it may come a frame later.
 * @param {() => void} work
 */
function afterPaint(work) {
  requestAnimationFrame(() => setTimeout(work));
}

function showProgress() {
  progress.show(session.moments, queue.remaining);
}

function showJournal() {
  const count = journal.unsent.length;
  const words = {
    saved: journal.durable ? "All saved" : "All saved (private window)",
    saving: `Saving ${count} …`,
    offline: `Offline: ${count} kept here`,
    signed_out: `Signed out: ${count} kept here`,
  }[journal.phase];
  const place = byId("journal");
  if (place.dataset.phase !== journal.phase) {
    if (journal.phase === "offline") announce("Offline. Labels are kept on this device.");
    if (place.dataset.phase === "offline" && journal.phase === "saved") announce("Online. All saved.");
  }
  place.dataset.phase = journal.phase;
  byId("journal-text").textContent = words;
  byId("sign-in").hidden = journal.phase !== "signed_out";
}

/** @param {string} text for screen readers, and for everybody where it is a mistake */
function announce(text, mistake = false) {
  byId("live").textContent = text;
  const place = byId("hint");
  place.textContent = mistake ? text : "";
  place.hidden = !mistake;
}

// ---- commands -----------------------------------------------------------------------------------

/** @param {string} id */
function chooseClass(id) {
  if (!session.visit) return;
  if (detection) {
    boxes.setClass(id);
    announce(`Class ${look(id).name}`);
    return;
  }
  draft.toggle(id);
  if (saysAtOnce) save();
  else changed();
}

/** Stores what is chosen; where nothing is, what the model suggests. */
function accept() {
  const item = session.visit?.item;
  if (!item) return;
  const suggested = suggestedClasses(task, item.suggestion);
  if (draft.empty && !draft.changed) draft.classes = new Set(suggested);
  if (task === "classification" && draft.empty) announce("Choose a class first.", true);
  else save();
}

/** The draft is no longer what is stored. */
function changed() {
  draft.changed = true;
  const item = session.visit?.item;
  if (item) drafts.keep(item.sha256, draft.annotation);
  showDraft();
}

function save() {
  const item = session.visit?.item;
  if (!item) return;
  const problem = attributes.problem;
  if (problem) {
    announce(problem, true);
    return;
  }
  const annotation = draft.annotation;
  /** @type {Partial<LabelEvent>} */
  const event = { annotation };
  const suggested = suggestedClasses(task, item.suggestion);
  if (item.suggestion && suggested.length > 0) {
    event.suggested_by = `${item.suggestion.model}:${item.suggestion.version}`;
    event.suggestion = outcome(suggested, annotation.classes ?? []);
  }
  drafts.drop(item.sha256);
  session.say("label", event);
  next(`Saved: ${inWords(annotation, look)}.`);
}

/** @param {"skip" | "flag"} kind */
function pass(kind) {
  if (!session.visit) return;
  drafts.drop(session.visit.item.sha256);
  session.say(kind, note.value.trim() ? { note: note.value.trim() } : {});
  next(kind === "skip" ? "Skipped." : "Flagged for review.");
}

/** @param {string} done */
function next(done) {
  session.advance();
  const waiting = session.visit ? "Next image." : "No image is left.";
  announce(`${done} ${waiting}`);
}

async function undo() {
  if (detection && boxes.undo()) {
    if (boxes.past.length === 0 && session.visit) drafts.drop(session.visit.item.sha256);
    announce("Box change undone.");
    return;
  }
  const kind = await session.undo();
  announce(kind ? `Undone: ${kind}.` : "There is nothing to undo.", !kind);
}

/** @param {1 | -1} steps */
function go(steps) {
  if (session.go(steps)) {
    const visit = session.visit;
    if (visit) announce(`Image: ${saidInWords(undefined, currentAnnotation(visit), look)}.`);
  } else if (steps > 0) {
    announce("This is the newest image. S skips it.", true);
  } else {
    announce("There is no image before this one.", true);
  }
}

/** @param {KeyboardEvent} event @param {number} right @param {number} down */
function arrow(event, right, down) {
  const by = event.shiftKey ? 10 : 1;
  if (detection && boxes.nudge(right * by, down * by)) return true;
  if (right !== 0 && !event.repeat) go(/** @type {1 | -1} */ (right));
  return right !== 0;
}

/** @param {KeyboardEvent} event */
function tab(event) {
  const inside = event.target === document.body || event.target === byId("stage");
  return detection && inside && boxes.cycle(event.shiftKey ? -1 : 1);
}

function escape() {
  if (boxes.chosen >= 0) boxes.choose(-1);
  else if (!stage.fitted) stage.fit();
  else return false;
  return true;
}

// ---- keys and buttons ---------------------------------------------------------------------------

/** @type {Record<string, () => void>} */
const commands = {
  save: accept,
  skip: () => pass("skip"),
  flag: () => pass("flag"),
  undo: () => void undo(),
  back: () => go(-1),
  forward: () => go(1),
  help: () => /** @type {HTMLDialogElement} */ (byId("help")).showModal(),
  closer: () => stage.step(1),
  farther: () => stage.step(-1),
  fit: () => stage.fit(),
  retry: () => session.reload(),
};

function listen() {
  keys.on("enter", accept);
  if (!detection) keys.on("space", accept);
  keys.on("s", commands.skip);
  keys.on("f", commands.flag);
  keys.on("z", commands.undo);
  keys.on("?", commands.help);
  keys.on("/", () => classes.find());
  keys.on("n", () => note.focus());
  keys.on("c", () => !byId("undecided").hidden && conflicts.open());
  keys.on("+ =", commands.closer, { repeats: true });
  keys.on("-", commands.farther, { repeats: true });
  keys.on("0", commands.fit);
  keys.on("arrowleft", (event) => arrow(event, -1, 0), { repeats: true });
  keys.on("arrowright", (event) => arrow(event, 1, 0), { repeats: true });
  keys.on("arrowup", (event) => arrow(event, 0, -1), { repeats: true });
  keys.on("arrowdown", (event) => arrow(event, 0, 1), { repeats: true });
  keys.on("escape", escape);
  if (detection) listenForBoxes();
  for (const [id, key] of classes.keys) keys.on(key, () => chooseClass(id));
  for (const button of document.querySelectorAll("[data-command]")) {
    const command = commands[/** @type {HTMLElement} */ (button).dataset.command ?? ""];
    button.addEventListener("click", (event) => {
      command();
      giveBackFocus(/** @type {MouseEvent} */ (event));
    });
  }
}

function listenForBoxes() {
  keys.on("tab", tab, { repeats: true });
  keys.on("d", () => boxes.duplicate());
  keys.on("b", () => boxes.setClass(boxes.currentClass));
  keys.on("h", () => boxes.toggleHidden());
  keys.on("delete backspace", () => boxes.remove());
  keys.on("space", () => {}); // held, it pans
}

/** After the mouse, Enter and Space mean the image again; after the keyboard, the button. */
function giveBackFocus(/** @type {MouseEvent} */ event) {
  if (event.detail > 0 && !document.querySelector("dialog[open]")) byId("stage").focus();
}

// ---- start --------------------------------------------------------------------------------------

async function start() {
  const [found, given, preferences] = await Promise.all([
    api.classes(),
    api.attributes(),
    api.preferences(),
  ]);
  classes.open(found);
  boxes.currentClass = found[0]?.id ?? "";
  attributes = new AttributeForm(byId("attributes"), given, changed);
  byId("attributes-group").hidden = given.length === 0;
  offerAtOnce(given.length > 0);
  byId("no-classes").hidden = found.length > 0;
  const instructions = preferences.instructions ?? "";
  byId("instructions").hidden = !instructions;
  byId("instructions-text").textContent = instructions;
  showMeanings();
  listen();
  await journal.open();
  const events = api.events(author, COUNTED);
  void events.then(countToday, () => {});
  await session.start(root.dataset.image ?? "", events);
}

/**
 * Where there is more to say than a class, its key only chooses, unless somebody wants it otherwise.
 * @param {boolean} more
 */
function offerAtOnce(more) {
  if (!saysAtOnce || !more) return;
  const choice = /** @type {HTMLInputElement} */ (byId("at-once"));
  const name = `visionloop-at-once:${dataset}`;
  byId("at-once-choice").hidden = false;
  choice.checked = localStorage.getItem(name) === "yes";
  saysAtOnce = choice.checked;
  choice.addEventListener("change", () => {
    saysAtOnce = choice.checked;
    localStorage.setItem(name, choice.checked ? "yes" : "no");
    byId("stage").focus();
  });
}

/** @param {any[]} events of this person, newest first */
function countToday(events) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const here = new Set(session.said.map((one) => one.event_id));
  const today = events.filter(
    (one) => one.kind === "label" && Date.parse(one.at) >= midnight && !here.has(one.event_id),
  );
  progress.begin(today.length, today.length >= COUNTED);
  showProgress();
}

session.addEventListener("show", show);
session.addEventListener("remembered", showDraft);
session.addEventListener("unreachable", () =>
  announce("Undone; the image is shown when the service answers again.", true),
);
queue.addEventListener("change", () => {
  if (queue.status !== "unreachable" && journal.phase === "offline") journal.send();
  if (session.visit) showProgress();
  else show();
});
journal.addEventListener("change", showJournal);
journal.addEventListener("answer", () => {
  // What is left was counted before this was stored.
  const last = journal.unsent.length === 0 && queue.status === "empty";
  if (last && queue.remaining > 0) void queue.refill();
});
classes.addEventListener("choose", (event) => {
  chooseClass(/** @type {CustomEvent<{id: string}>} */ (event).detail.id);
  byId("stage").focus();
});
boxes.addEventListener("change", () => {
  showAttributes();
  if (boxes.past.length > 0) changed();
  else showDraft();
});
note.addEventListener("input", () => {
  draft.note = note.value;
  changed();
});
boxes.addEventListener("refused", (event) =>
  announce(/** @type {CustomEvent<string>} */ (event).detail, true),
);
note.addEventListener("keydown", (event) => {
  if (event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) {
    byId("stage").focus();
    event.preventDefault();
  }
});
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => byId("stage").focus());
}

start().catch((error) => {
  root.dataset.failed = "true";
  byId("nothing").hidden = false;
  byId("layer").hidden = true;
  byId("nothing-title").textContent = "This page could not start";
  byId("nothing-text").textContent = error.message;
});
