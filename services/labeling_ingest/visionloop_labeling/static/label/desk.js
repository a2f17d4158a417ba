/**
 * The decision about the image on screen: its draft, and the tools that change it (classes, boxes,
 * attributes, note). A decision that is begun is kept until it is made; one that is made goes to
 * the session.
 */

/** @import { Session } from "./session.js" */
/** @import { Attribute, LabelClass, LabelEvent, Task } from "./wire.js" */

import { AttributeForm } from "./attributes.js";
import { boxList } from "./box_list.js";
import { BoxEditor } from "./boxes.js";
import { ClassPanel } from "./classes.js";
import { inSentence, inWords } from "./describe.js";
import { byId } from "./dom.js";
import { Draft, outcome, suggestedClasses } from "./draft.js";
import { Drafts } from "./drafts.js";
import { drawShapes } from "./shapes.js";
import { Stage } from "./stage.js";
import { announce, showItem, showPreview } from "./view.js";
import { currentAnnotation } from "./visit.js";

export class Desk {
  /**
   * @param {Session} session
   * @param {string} dataset
   * @param {Task} task
   */
  constructor(session, dataset, task) {
    this.session = session;
    this.task = task;
    this.detection = task === "detection";
    this.drafts = new Drafts(dataset);
    this.draft = new Draft(task, null);
    this.stage = new Stage(byId("stage"), byId("layer"));
    this.classes = new ClassPanel(
      byId("classes"),
      /** @type {HTMLInputElement} */ (byId("find")),
      byId("classes-more"),
    );
    /** @type {(id: string) => {name: string, colour: string}} */
    this.look = (id) => this.classes.look(id);
    this.boxes = new BoxEditor(graphic("overlay"), this.stage, this.look);
    this.attributes = new AttributeForm(byId("attributes"), [], () => {});
    this.note = /** @type {HTMLTextAreaElement} */ (byId("note"));
    this.atOnce = task === "classification"; // whether a class's key is the whole decision
    this.#listen();
  }

  /**
   * What may be said in this dataset.
   * @param {LabelClass[]} classes
   * @param {Attribute[]} attributes
   */
  open(classes, attributes) {
    this.classes.open(classes);
    this.boxes.currentClass = classes[0]?.id ?? "";
    this.attributes = new AttributeForm(byId("attributes"), attributes, () => this.changed());
    byId("attributes-group").hidden = attributes.length === 0;
  }

  /** Lays the image on screen out, with what was begun or is stored. */
  show() {
    const visit = this.session.visit;
    if (!visit) {
      this.draft = new Draft(this.task, null);
      this.boxes.open([], false);
      this.showDraft();
      return;
    }
    const { item, preview } = visit;
    const begun = this.drafts.get(item.sha256);
    this.draft = new Draft(this.task, begun ?? currentAnnotation(visit));
    this.draft.changed = begun !== undefined;
    showPreview(visit);
    this.stage.open(item.width, item.height);
    this.boxes.open(this.draft.boxes, this.detection);
    const canvas = /** @type {HTMLCanvasElement} */ (byId("masks"));
    drawShapes(graphic("shapes"), canvas, this.draft.shapes, this.look);
    this.note.value = this.draft.note;
    showItem(item, this.task, this.look);
    this.#showAttributes();
    this.showDraft();
    void preview.ready.then(() => this.session.visit === visit && showPreview(visit));
  }

  /** Brings buttons and lists in line with the draft. */
  showDraft() {
    const { boxes, draft } = this;
    const suggestion = this.session.visit?.item.suggestion ?? null;
    const suggested = suggestedClasses(this.task, suggestion);
    const pressed = this.detection ? [boxes.currentClass] : draft.classes;
    this.classes.show(pressed, suggestion, suggested);
    byId("box-list").replaceChildren(...boxList(boxes));
    byId("box-help").hidden = !this.detection || draft.boxes.length > 0;
    byId("boxes-hidden").hidden = !boxes.hidden;
    for (const id of ["save", "skip", "flag"]) {
      byId(id).toggleAttribute("disabled", !this.session.visit);
    }
    byId("save-text").textContent = this.#saveWords(suggested);
    byId("undo").setAttribute("aria-disabled", String(this.session.said.length === 0));
  }

  /** The draft is no longer what is stored. */
  changed() {
    const item = this.session.visit?.item;
    if (!item) return;
    this.draft.changed = true;
    this.drafts.keep(item.sha256, this.draft.annotation);
    this.showDraft();
  }

  /**
   * Chooses a class, or takes it back.
   * @param {string} id
   * @returns {string | undefined} what was saved by it, in words
   */
  choose(id) {
    if (!this.session.visit) return undefined;
    if (this.atOnce && !this.#isShown()) return undefined;
    if (this.detection) {
      this.boxes.setClass(id);
      announce(`Class ${inSentence(this.look(id).name)}`);
      return undefined;
    }
    this.draft.toggle(id);
    if (this.atOnce) return this.#save();
    this.changed();
    announce(`${inSentence(this.look(id).name)}: ${this.draft.classes.has(id) ? "chosen" : "not chosen"}.`);
    return undefined;
  }

  /**
   * Saves what is chosen; where nothing is, what the model suggests.
   * @returns {string | undefined} what was saved, in words
   */
  accept() {
    const item = this.session.visit?.item;
    if (!item || !this.#isShown()) return undefined;
    const { draft } = this;
    if (draft.empty && !draft.changed) {
      draft.classes = new Set(suggestedClasses(this.task, item.suggestion));
    }
    if (this.task === "classification" && draft.empty) {
      announce("Choose a class first.", true);
      return undefined;
    }
    return this.#save();
  }

  /** @param {"skip" | "flag"} kind */
  pass(kind) {
    const item = this.session.visit?.item;
    if (!item) return;
    const note = this.note.value.trim();
    this.drafts.drop(item.sha256);
    this.session.say(kind, note ? { note } : {});
  }

  /** Takes back the last change of a box. @returns {boolean} false where there is none */
  undoBox() {
    if (!this.detection || !this.boxes.undo()) return false;
    const item = this.session.visit?.item;
    if (item && this.boxes.past.length === 0) this.drafts.drop(item.sha256);
    return true;
  }

  /** Whether the picture is on screen: nobody can say what stands on one that is not. */
  #isShown() {
    const state = this.session.visit?.preview.state;
    if (state === "loading") announce("The image is not here yet.", true);
    if (state === "failed") announce("An image that cannot be shown can be skipped or flagged.", true);
    return state === "ready";
  }

  /** @returns {string | undefined} */
  #save() {
    const item = this.session.visit?.item;
    if (!item) return undefined;
    const problem = this.attributes.problem;
    if (problem) {
      announce(problem, true);
      return undefined;
    }
    const annotation = this.draft.annotation;
    /** @type {Partial<LabelEvent>} */
    const event = { annotation };
    const suggested = suggestedClasses(this.task, item.suggestion);
    if (item.suggestion && suggested.length > 0) {
      event.suggested_by = `${item.suggestion.model}:${item.suggestion.version}`;
      event.suggestion = outcome(suggested, annotation.classes ?? []);
    }
    this.drafts.drop(item.sha256);
    this.session.say("label", event);
    return inWords(annotation, this.look);
  }

  /** @param {string[]} suggested */
  #saveWords(suggested) {
    const { draft } = this;
    if (this.detection) {
      const count = draft.boxes.length;
      return count === 0 ? "Nothing there" : `Save ${count} ${count === 1 ? "box" : "boxes"}`;
    }
    if (draft.empty && !draft.changed && suggested.length > 0) return "Accept";
    return draft.empty && this.task === "multi_label" ? "None of these" : "Save";
  }

  /** Those of the chosen box, or else of the image. */
  #showAttributes() {
    const box = this.boxes.boxes[this.boxes.chosen];
    if (box) box.attributes ??= {};
    const values = box?.attributes ?? this.draft.attributes;
    if (this.attributes.values !== values) this.attributes.open(values);
    byId("attributes-title").textContent = box ? "Attributes of the box" : "Attributes";
  }

  #listen() {
    this.boxes.addEventListener("change", () => {
      this.#showAttributes();
      if (this.boxes.past.length > 0) this.changed();
      else this.showDraft();
    });
    this.boxes.addEventListener("refused", (event) =>
      announce(/** @type {CustomEvent<string>} */ (event).detail, true),
    );
    this.note.addEventListener("input", () => {
      this.draft.note = this.note.value;
      this.changed();
    });
    this.note.addEventListener("keydown", (event) => {
      const done = event.key === "Enter" && (event.ctrlKey || event.metaKey);
      if (!done && event.key !== "Escape") return;
      byId("stage").focus();
      event.preventDefault();
    });
  }
}

/** @param {string} id @returns {SVGElement} */
function graphic(id) {
  return /** @type {SVGElement} */ (/** @type {unknown} */ (byId(id)));
}
