/**
 * The annotation that is being made for the image on screen: what may be said, whether it differs
 * from what is stored, and what it makes of the model's suggestion. Plain data, no page.
 */

/** @import { Annotation, Box, Suggestion, Task } from "./wire.js" */

const LIKELY = 0.5; // a suggestion for several classes names those at least this probable

export class Draft {
  /**
   * @param {Task} task
   * @param {Annotation | null} annotation what is stored now
   */
  constructor(task, annotation) {
    this.task = task;
    const given = structuredClone(annotation ?? {});
    this.changed = false; // whether somebody has chosen or changed something
    /** @type {Set<string>} */
    this.classes = new Set(given.classes);
    /** @type {Box[]} */
    this.boxes = given.boxes ?? [];
    this.shapes = given.shapes ?? [];
    this.attributes = given.attributes ?? {};
    this.note = given.note ?? "";
  }

  /**
   * Chooses a class, or takes it back. With one class for an image, the last one counts.
   * @param {string} id
   */
  toggle(id) {
    this.changed = true;
    if (this.task === "multi_label") {
      if (!this.classes.delete(id)) this.classes.add(id);
    } else {
      this.classes = new Set([id]);
    }
  }

  /** Whether it names anything. */
  get empty() {
    return this.classes.size === 0 && this.boxes.length === 0 && this.shapes.length === 0;
  }

  /**
   * @returns {Annotation} only what is not empty, but for the task's own list: no boxes and none of
   *   several classes say something too
   */
  get annotation() {
    /** @type {Annotation} */
    const made = {};
    if (this.classes.size > 0 || this.task === "multi_label") made.classes = [...this.classes];
    if (this.boxes.length > 0 || this.task === "detection") {
      made.boxes = this.boxes.map(({ attributes, ...box }) =>
        attributes && Object.keys(attributes).length > 0 ? { ...box, attributes } : box,
      );
    }
    if (this.shapes.length > 0) made.shapes = this.shapes;
    if (Object.keys(this.attributes).length > 0) made.attributes = this.attributes;
    if (this.note.trim()) made.note = this.note.trim();
    return made;
  }
}

/**
 * The classes that accepting a suggestion says.
 * @param {Task} task
 * @param {Suggestion | null} suggestion
 * @returns {string[]}
 */
export function suggestedClasses(task, suggestion) {
  if (!suggestion || suggestion.scores.length === 0 || task === "detection") return [];
  const likely = suggestion.scores.filter(([, probability]) => probability >= LIKELY);
  if (task === "multi_label" && likely.length > 0) return likely.map(([id]) => id);
  return [suggestion.scores[0][0]];
}

/**
 * What a label makes of a suggestion that its author saw.
 * @param {string[]} suggested
 * @param {string[]} said
 * @returns {"accepted" | "edited" | "rejected"}
 */
export function outcome(suggested, said) {
  const common = suggested.filter((id) => said.includes(id)).length;
  if (common === 0) return "rejected";
  return common === suggested.length && common === said.length ? "accepted" : "edited";
}
