/**
 * One image on a person's way: what the service said about it, what was said here since, and what
 * follows from both. Plain data.
 */

/** @import { Reference } from "./journal.js" */
/** @import { Preview } from "./queue.js" */
/** @import { Annotation, Item, Kind } from "./wire.js" */

/**
 * `item` is what the service said, `statements` what was said here since.
 * @typedef {{item: Item, preview: Preview, statements: Statement[], last?: Reference}} Visit
 * @typedef {{event_id: string, kind: Kind, annotation?: Annotation}} Statement
 */

const ACCEPTED = ["human", "import"]; // whose labels count for a class

/**
 * What counts for an image now, as far as is known here.
 * @param {Visit} visit
 * @returns {Annotation | null}
 */
export function currentAnnotation(visit) {
  return lastLabel(visit)?.annotation ?? visit.item.annotation;
}

/**
 * The classes that the image counts for, each once: what an app or a model said counts for none.
 * @param {Visit} visit
 * @returns {string[]}
 */
export function countedClasses(visit) {
  const accepted = lastLabel(visit) || ACCEPTED.includes(visit.item.author_kind ?? "");
  const { classes = [], boxes = [], shapes = [] } = (accepted && currentAnnotation(visit)) || {};
  return [...new Set([...classes, ...[...boxes, ...shapes].map((one) => one.class_id)])];
}

/**
 * The last thing said here about an image: "label", "skip", "flag", or undefined.
 * @param {Visit} visit
 */
export function lastSaid(visit) {
  return visit.statements.at(-1)?.kind;
}

/** @param {Visit} visit */
export function isSettled(visit) {
  return visit.statements.length > 0;
}

/** @param {Visit} visit */
function lastLabel(visit) {
  return visit.statements.filter((one) => one.kind === "label").at(-1);
}
