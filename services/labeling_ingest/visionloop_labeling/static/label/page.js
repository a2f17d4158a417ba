/**
 * The labelling page: puts its parts together. Everything a person can do here is one of the
 * commands below, with a key and a button; what happens then is the parts' affair.
 */

/** @import { Item, QueueState, Task } from "./wire.js" */

import { Api } from "./api.js";
import { Balance } from "./balance.js";
import { Conflicts } from "./conflicts.js";
import { inSentence, saidInWords } from "./describe.js";
import { Desk } from "./desk.js";
import { byId } from "./dom.js";
import { Journal } from "./journal.js";
import { Keys } from "./keys.js";
import { Progress } from "./progress.js";
import { Queue } from "./queue.js";
import { Session } from "./session.js";
import { Strip } from "./strip.js";
import { insist } from "../connection.js";
import { announce, showJournal, showMeanings, showNothing, showTrouble } from "./view.js";
import { currentAnnotation } from "./visit.js";

const COUNTED = 500; // earlier events that are counted for today, and that undo reaches

const given = byId("label").dataset;
const dataset = given.dataset ?? "";
const author = given.author ?? "";
const task = /** @type {Task} */ (given.task);
const state = /** @type {QueueState} */ (given.state);

const api = new Api(dataset);
const journal = new Journal(api, dataset, author);
const queue = new Queue(api, state, (sha256, asked) => journal.outdated(sha256, asked));
const session = new Session(api, queue, journal);
const desk = new Desk(session, dataset, task);
const { boxes, classes, stage } = desk;
const conflicts = new Conflicts(api, journal, session, desk.look);
const strip = new Strip(byId("strip"), api, session, desk.look);
const progress = new Progress(byId("progress"));
const balance = new Balance(api, journal);
const keys = new Keys();

/** Whether the image on screen has been painted: a key pressed twice means the one before. */
const seen = () => !byId("stage").hasAttribute("data-fresh");

// ---- commands -----------------------------------------------------------------------------------

/** @type {Record<string, () => void>} */
const commands = {
  save: () => seen() && next(saved(desk.accept())),
  skip: () => pass("skip", "Skipped."),
  flag: () => pass("flag", "Flagged for review."),
  undo: () => void undo(),
  back: () => go(-1),
  forward: () => go(1),
  help: () => /** @type {HTMLDialogElement} */ (byId("help")).showModal(),
  closer: () => stage.step(1),
  farther: () => stage.step(-1),
  fit: () => stage.fit(),
  retry: () => session.reload(),
};

/** @param {string} id */
function choose(id) {
  if (classes.withdrawn.has(id)) {
    announce(`${inSentence(desk.look(id).name)} is no longer offered; choose another class.`, true);
    return;
  }
  if (seen()) next(saved(desk.choose(id)));
}

/** @param {"skip" | "flag"} kind @param {string} done */
function pass(kind, done) {
  if (!session.visit || !seen()) return;
  desk.pass(kind);
  next(done);
}

/** @param {string | undefined} words */
function saved(words) {
  return words && `${journal.error ? "Kept here" : "Saved"}: ${words}.`;
}

/** @param {string | undefined} done what was done; undefined when the image is not decided yet */
function next(done) {
  if (!done) return;
  session.advance();
  announce(`${done} ${session.visit ? "Next image." : "No image is left."}`);
}

async function undo() {
  if (desk.undoBox()) {
    announce("Box change undone.");
    return;
  }
  const kind = await session.undo();
  const done = journal.error ? "Undone here" : "Undone";
  announce(kind ? `${done}: ${kind}.` : "There is nothing to undo.", !kind);
}

/** @param {1 | -1} steps */
function go(steps) {
  if (session.go(steps) && session.visit) {
    announce(`Image: ${saidInWords(undefined, currentAnnotation(session.visit), desk.look)}.`);
  } else if (steps > 0) {
    announce("This is the newest image. S skips it.", true);
  } else {
    announce("There is no image before this one.", true);
  }
}

/** @param {KeyboardEvent} event @param {number} right @param {number} down */
function arrow(event, right, down) {
  const by = event.shiftKey ? 10 : 1;
  if (desk.detection && boxes.nudge(right * by, down * by)) return true;
  if (right !== 0 && !event.repeat) go(/** @type {1 | -1} */ (right));
  return right !== 0;
}

/** @param {KeyboardEvent} event */
function tab(event) {
  const inside = event.target === document.body || event.target === byId("stage");
  return inside && boxes.cycle(event.shiftKey ? -1 : 1);
}

function escape() {
  if (boxes.chosen >= 0) boxes.choose(-1);
  else if (!stage.fitted) stage.fit();
  else return false;
  return true;
}

// ---- keys and buttons ---------------------------------------------------------------------------

function listen() {
  keys.on(desk.detection ? "enter" : "enter space", commands.save);
  keys.on("s", commands.skip);
  keys.on("f", commands.flag);
  keys.on("z", commands.undo);
  keys.on("?", commands.help);
  keys.on("/", () => classes.find());
  keys.on("n", () => desk.note.focus());
  keys.on("c", () => !byId("undecided").hidden && conflicts.open());
  keys.on("+ =", commands.closer, { repeats: true });
  keys.on("-", commands.farther, { repeats: true });
  keys.on("0", commands.fit);
  keys.on("arrowleft", (event) => arrow(event, -1, 0), { repeats: true });
  keys.on("arrowright", (event) => arrow(event, 1, 0), { repeats: true });
  keys.on("arrowup", (event) => arrow(event, 0, -1), { repeats: true });
  keys.on("arrowdown", (event) => arrow(event, 0, 1), { repeats: true });
  keys.on("escape", escape);
  if (desk.detection) listenForBoxes();
  for (const [id, key] of classes.keys) keys.on(key, () => choose(id));
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

/**
 * After the mouse, Enter and Space mean the image again; after the keyboard, the button.
 * @param {MouseEvent} event
 */
function giveBackFocus(event) {
  if (event.detail > 0 && !document.querySelector("dialog[open]")) byId("stage").focus();
}

/** Keys of one character can be switched off, for whom they get in the way. */
function offerKeys() {
  const choice = /** @type {HTMLInputElement} */ (byId("single-keys"));
  keys.enabled = choice.checked = localStorage.getItem("visionloop-keys") !== "off";
  choice.addEventListener("change", () => {
    keys.enabled = choice.checked;
    localStorage.setItem("visionloop-keys", choice.checked ? "on" : "off");
  });
}

/**
 * Where there is more to say than a class, its key only chooses, unless somebody wants it otherwise.
 * @param {boolean} more
 */
function offerAtOnce(more) {
  if (!desk.atOnce || !more) return;
  const choice = /** @type {HTMLInputElement} */ (byId("at-once"));
  const name = `visionloop-at-once:${dataset}`;
  byId("at-once-choice").hidden = false;
  desk.atOnce = choice.checked = localStorage.getItem(name) === "yes";
  choice.addEventListener("change", () => {
    desk.atOnce = choice.checked;
    localStorage.setItem(name, choice.checked ? "yes" : "no");
    byId("stage").focus();
  });
}

// ---- what happens elsewhere ---------------------------------------------------------------------

function show() {
  byId("stage").setAttribute("data-fresh", "");
  desk.show();
  if (!session.visit) showNothing(queue, session.trail.length > 0);
  // The image first: what stands beside it may come a frame later.
  requestAnimationFrame(() =>
    setTimeout(() => {
      byId("stage").removeAttribute("data-fresh");
      showBeside();
    }),
  );
}

function showBeside() {
  strip.draw();
  progress.show(session.moments, queue.remaining);
  classes.weigh(balance.images);
}

/** @param {any[]} events of this person, newest first */
function countToday(events) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const here = new Set(session.said.map((one) => one.event_id));
  const today = events.filter(
    (one) => one.kind === "label" && Date.parse(one.at) >= midnight && !here.has(one.event_id),
  );
  progress.begin(today.length, today.length >= COUNTED);
  showBeside();
}

session.addEventListener("show", show);
session.addEventListener("moved", (event) => {
  const { sha256, before, now } = /** @type {CustomEvent} */ (event).detail;
  balance.move(sha256, before, now);
});
balance.addEventListener("change", () => {
  classes.weigh(balance.images);
  byId("classes-changed").hidden = !classes.offer([...balance.counted.keys()]);
});
session.addEventListener("remembered", () => desk.showDraft());
session.addEventListener("unreachable", () =>
  announce("The image cannot be had now; it comes again from the queue.", true),
);
queue.addEventListener("change", () => {
  if (queue.status !== "unreachable" && journal.phase === "offline") journal.send();
  if (session.visit) showBeside();
  else show();
});
let away = false;
journal.addEventListener("change", () => {
  showJournal(journal);
  const back = away && !journal.error;
  away = journal.error !== undefined;
  if (back && session.visit?.preview.state === "failed") session.reload();
});
journal.addEventListener("answer", () => {
  // What is left was counted before this was stored.
  const last = journal.unsent.length === 0 && queue.status === "empty";
  if (last && queue.remaining > 0) void queue.refill();
});
classes.addEventListener("choose", (event) => {
  choose(/** @type {CustomEvent<{id: string}>} */ (event).detail.id);
  byId("stage").focus();
});
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => byId("stage").focus());
}

// ---- start --------------------------------------------------------------------------------------

async function start() {
  const [found, attributes, { instructions = "" }] = await insist(() =>
    Promise.all([api.classes(), api.attributes(), api.preferences()]),
  );
  desk.open(found, attributes);
  balance.open(found);
  offerAtOnce(attributes.length > 0);
  offerKeys();
  showMeanings(found);
  byId("instructions").hidden = !instructions;
  byId("instructions-text").textContent = instructions;
  listen();
  await journal.open();
  const events = api.events(author, COUNTED);
  void events.then(countToday, () => {});
  const asked = await insist(() => asItStands(given.image ?? ""));
  await session.start(asked, events);
  if (given.image && !asked) announce("The image that was asked for is not here any more.", true);
}

/** @param {string} sha256 @returns {Promise<Item | undefined>} undefined for none, and for one that is gone */
async function asItStands(sha256) {
  if (!sha256) return undefined;
  return api.item(sha256).catch((error) => {
    if (error.status !== 404) throw error;
    return undefined;
  });
}

start().catch((error) => showTrouble("This page could not start", error.message));
