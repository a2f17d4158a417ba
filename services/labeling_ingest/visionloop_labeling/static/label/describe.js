/** Annotations and events in words: for the strip, the live region and the conflict dialog. */

/** @import { Annotation, Kind } from "./wire.js" */

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/**
 * A name within a sentence. One that is written from right to left would draw the numbers and commas
 * behind it to its other side.
 * @param {string} name
 */
export function inSentence(name) {
  return RIGHT_TO_LEFT.test(name) ? `\u2068${name}\u2069` : name;
}

/**
 * @param {Annotation | null | undefined} annotation
 * @param {(id: string) => {name: string}} look
 * @returns {string}
 */
export function inWords(annotation, look) {
  if (!annotation) return "no label";
  const boxes = annotation.boxes;
  const classes = annotation.classes ?? [];
  const shapes = annotation.shapes ?? [];
  const parts = classes.map((id) => inSentence(look(id).name));
  if (boxes && boxes.length > 0) parts.push(counted(boxes, look));
  if (boxes && boxes.length === 0 && parts.length === 0) parts.push("nothing there");
  if (annotation.classes && classes.length === 0 && parts.length === 0) parts.push("none of them");
  if (shapes.length > 0) parts.push(`${shapes.length} ${shapes.length === 1 ? "shape" : "shapes"}`);
  return parts.join(", ") || "no class";
}

/**
 * @param {Kind | undefined} kind
 * @param {Annotation | null} annotation
 * @param {(id: string) => {name: string}} look
 */
export function saidInWords(kind, annotation, look) {
  if (kind === "skip") return "skipped";
  if (kind === "flag") return "flagged";
  return inWords(annotation, look);
}

/** @param {{class_id: string}[]} boxes @param {(id: string) => {name: string}} look */
function counted(boxes, look) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const { class_id } of boxes) counts.set(class_id, (counts.get(class_id) ?? 0) + 1);
  return [...counts].map(([id, count]) => `${count} × ${inSentence(look(id).name)}`).join(", ");
}
