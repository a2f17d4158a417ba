/**
 * What the page says in words and pictures about the image on screen, the queue and the journal.
 * Only shows: it decides nothing and knows no keys.
 */

/** @import { Journal } from "./journal.js" */
/** @import { Queue } from "./queue.js" */
/** @import { Visit } from "./visit.js" */
/** @import { Item, LabelClass, Task } from "./wire.js" */

import { hold, settled, tell } from "../connection.js";
import { percent } from "./classes.js";
import { inSentence, inWords } from "./describe.js";
import { byId, html } from "./dom.js";
import { suggestedClasses } from "./draft.js";
import { status, trouble } from "./unsent.js";
import { why } from "./why.js";

/**
 * For screen readers; where it is a mistake, for everybody.
 * @param {string} text
 */
export function announce(text, mistake = false) {
  const live = byId("live");
  // What was said before, word for word, is read aloud again only if it is not the same text.
  live.textContent = live.textContent === text ? `${text}\u00a0` : text;
  const place = byId("hint");
  place.textContent = mistake ? text : "";
  place.hidden = !mistake;
}

/** @param {Visit} visit */
export function showPreview({ item, preview }) {
  const place = byId("picture");
  if (place.firstElementChild !== preview.image) place.replaceChildren(preview.image);
  byId("nothing").hidden = true;
  byId("layer").hidden = false;
  byId("layer").classList.toggle("loading", preview.state === "loading");
  byId("failed").hidden = preview.state !== "failed";
  byId("stage").setAttribute("aria-label", `Image ${item.source || item.sha256.slice(0, 12)}`);
}

/**
 * @param {Queue} queue
 * @param {boolean} begun whether there was an image before
 */
export function showNothing(queue, begun) {
  const [title, text] = {
    loading: ["Fetching images …", ""],
    ready: ["Fetching images …", ""],
    unreachable: [
      "The service does not answer",
      "What you have labelled is kept on this device. New images come as soon as it is back.",
    ],
    signed_out: ["You are signed out", "Sign in again, and the next image comes."],
    refused: ["No images can be had here", queue.refusal],
    empty: [begun ? "All done here" : "No image waits here", "New ones appear by themselves."],
  }[queue.status];
  showTrouble(title, text);
  byId("nothing-links").hidden = queue.status !== "empty";
}

/** @param {string} title @param {string} text */
export function showTrouble(title, text) {
  byId("nothing").hidden = false;
  byId("layer").hidden = true;
  byId("picture").replaceChildren();
  byId("nothing-title").textContent = title;
  byId("nothing-text").textContent = text;
  for (const id of ["why", "source"]) byId(id).textContent = "";
  for (const id of ["suggestion", "stored"]) byId(id).hidden = true;
}

/**
 * @param {Item} item
 * @param {Task} task
 * @param {(id: string) => {name: string}} look
 */
export function showItem(item, task, look) {
  byId("why").textContent = why(item, look);
  byId("source").textContent = item.source;
  byId("source").title = item.source;
  showStored(item, look);
  showSuggestion(item, task, look);
}

/** @param {Item} item @param {(id: string) => {name: string}} look */
function showStored(item, look) {
  const place = byId("stored");
  place.hidden = !item.annotation;
  if (place.hidden) return;
  const who = item.author === "local" ? "" : item.author || item.author_kind || "";
  const words = inWords(item.annotation, look);
  place.textContent = `${item.disputed ? "Disputed label" : "Label"}: ${words}${who && ` · ${who}`}`;
}

/** @param {Item} item @param {Task} task @param {(id: string) => {name: string}} look */
function showSuggestion({ suggestion }, task, look) {
  const suggested = suggestedClasses(task, suggestion);
  byId("suggestion").hidden = suggested.length === 0;
  if (!suggestion || suggested.length === 0) return;
  const sure = suggestion.sure ? "" : " (unsure)";
  byId("suggestion-class").textContent = suggested.map((id) => inSentence(look(id).name)).join(", ");
  byId("suggestion-probability").textContent = percent(suggestion.scores[0][1]) + sure;
  byId("suggestion-model").textContent = `${suggestion.model}:${suggestion.version}`;
}

/**
 * What the classes mean, where somebody wrote it down, in the dialog of keys.
 * @param {LabelClass[]} classes
 */
export function showMeanings(classes) {
  const explained = classes.filter((one) => one.help);
  byId("no-classes").hidden = classes.length > 0;
  byId("meanings").hidden = explained.length === 0;
  byId("meanings-list").replaceChildren(
    ...explained.flatMap((one) => [html("dt", {}, one.name), html("dd", {}, one.help)]),
  );
}

let troubled = false; // since the last time that all was saved

/** @param {Journal} journal */
export function showJournal(journal) {
  const place = byId("journal");
  const told = trouble(journal);
  if (told) tell(journal, told);
  else settled(journal);
  hold(journal, journal.unsent.length > 0);
  if (troubled && journal.phase === "saved") announce("All saved.");
  troubled = told !== undefined || (troubled && journal.phase !== "saved");
  place.dataset.phase = journal.phase;
  byId("journal-text").textContent = status(journal);
}
