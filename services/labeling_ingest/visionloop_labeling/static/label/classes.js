/**
 * The classes as buttons, each with its key and its images so far, and the field that finds one
 * among many.
 */

/** @import { LabelClass, Suggestion } from "./wire.js" */

import { html, setVariable } from "./dom.js";
import { assignKeys } from "./keys.js";
import { count } from "./progress.js";

const SHOWN = 60; // buttons, beside those that are chosen; the field finds the rest
const FILTER_FROM = 10; // classes

// Told apart also by people who see red and green alike, on light and on dark pictures; names and
// keys always stand beside.
const PALETTE = [
  "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
  "#8a6bd1", "#b3a100", "#a6564b", "#4c7f8f",
]; // prettier-ignore

export class ClassPanel extends EventTarget {
  /**
   * Dispatches "choose" ({id}) when a class is chosen by a click or in the field.
   * @param {HTMLElement} list
   * @param {HTMLInputElement} field
   * @param {HTMLElement} more where it says how many are not shown
   */
  constructor(list, field, more) {
    super();
    this.list = list;
    this.field = field;
    this.more = more;
    /** @type {LabelClass[]} */
    this.classes = [];
    /** @type {Map<string, string>} */
    this.keys = new Map();
    /** @type {Map<string, LabelClass & {look: {name: string, colour: string}}>} */
    this.byId = new Map();
    /** @type {Set<string>} */
    this.pressed = new Set();
    /** @type {Map<string, number>} */
    this.probabilities = new Map();
    /** @type {Set<string>} */
    this.suggested = new Set();
    /** @type {Map<string, number>} */
    this.images = new Map();
    this.most = 0; // images of the largest class
    /** @type {string[]} ids of those that have a button only because they are chosen */
    this.farther = [];
    /** @type {Set<string>} ids of those that were taken out since: the keys of the others stay */
    this.withdrawn = new Set();
    field.addEventListener("input", () => this.#draw());
    field.addEventListener("keydown", (event) => this.#typed(event));
  }

  /** @param {LabelClass[]} classes */
  open(classes) {
    this.classes = classes;
    this.keys = assignKeys(classes);
    this.byId = new Map(
      classes.map((one, place) => {
        const colour = one.colour || PALETTE[place % PALETTE.length];
        return [one.id, { ...one, look: { name: one.name, colour } }];
      }),
    );
    const parent = this.field.closest(".finder");
    if (parent instanceof HTMLElement) parent.hidden = classes.length < FILTER_FROM;
    this.#draw();
  }

  /**
   * What is offered by now, as far as it concerns what stands here.
   * @param {string[]} ids
   * @returns {boolean} whether there are others to choose, which come with the page
   */
  offer(ids) {
    this.withdrawn = new Set(this.classes.map(({ id }) => id).filter((id) => !ids.includes(id)));
    for (const button of this.list.querySelectorAll("button")) this.#dress(button);
    return ids.some((id) => !this.byId.has(id));
  }

  /** @param {string} id @returns {{name: string, colour: string}} */
  look(id) {
    return this.byId.get(id)?.look ?? { name: id, colour: "#8b8982" };
  }

  /** @param {string} key @returns {string | undefined} the class of this key */
  withKey(key) {
    return this.classes.find(({ id }) => this.keys.get(id) === key)?.id;
  }

  /**
   * @param {Iterable<string>} pressed ids of what is chosen
   * @param {Suggestion | null} suggestion
   * @param {string[]} suggested ids that accepting it would say
   */
  show(pressed, suggestion, suggested) {
    this.pressed = new Set(pressed);
    this.suggested = new Set(suggested);
    this.probabilities = new Map(suggestion?.scores ?? []);
    if (this.#farther(this.#found).join() !== this.farther.join()) this.#draw();
    for (const button of this.list.querySelectorAll("button")) this.#dress(button);
  }

  /**
   * Says how many images each class has, as a number and as a bar beside the largest class's.
   * @param {Map<string, number>} images class id → images
   */
  weigh(images) {
    this.images = images;
    const most = Math.max(1, ...images.values());
    if (most !== this.most) {
      this.most = most; // only when it changed: every button inherits it
      setVariable(this.list, "--most", String(most));
      setVariable(this.list, "--digits", String(count(most).length));
    }
    for (const button of this.list.querySelectorAll("button")) this.#weigh(button);
  }

  /** Opens the field for typing. */
  find() {
    const parent = this.field.closest(".finder");
    if (parent instanceof HTMLElement) parent.hidden = false;
    this.field.focus();
    this.field.select();
  }

  /** @returns {LabelClass[]} those the field finds, names that begin so first */
  get #found() {
    const words = this.field.value.trim().toLowerCase();
    if (!words) return this.classes;
    const found = this.classes.filter(({ name }) => name.toLowerCase().includes(words));
    const begins = (/** @type {LabelClass} */ one) => one.name.toLowerCase().startsWith(words);
    return [...found.filter(begins), ...found.filter((one) => !begins(one))];
  }

  /**
   * What is chosen stands there to be seen and taken back, however many classes come before it.
   * @param {LabelClass[]} found
   */
  #farther(found) {
    return found.slice(SHOWN).flatMap(({ id }) => (this.pressed.has(id) ? [id] : []));
  }

  #draw() {
    const found = this.#found;
    this.farther = this.#farther(found);
    const shown = found.filter((one, place) => place < SHOWN || this.farther.includes(one.id));
    const buttons = shown.map((one) => this.#button(one));
    this.list.replaceChildren(...buttons.splice(SHOWN), ...buttons);
    const hidden = found.length - shown.length;
    this.more.hidden = this.classes.length === 0 || (found.length > 0 && hidden <= 0);
    this.more.textContent =
      found.length === 0 ? "No class of that name." : `${hidden} more: press / and type.`;
  }

  /** @param {LabelClass} one */
  #button(one) {
    const key = this.keys.get(one.id);
    const button = html(
      "button",
      {
        type: "button",
        class: "class-button",
        "data-id": one.id,
        title: one.help || null,
        "aria-keyshortcuts": key || null,
        onclick: () => this.#choose(one.id),
      },
      html("kbd", { "aria-hidden": "true", class: key ? "" : "none" }, key ? key.toUpperCase() : ""),
      html("span", { class: "chip", "aria-hidden": "true" }),
      html("span", { class: "name" }, one.name),
      html("span", { class: "probability" }),
      html("span", { class: "count", "aria-hidden": "true" }),
      html("span", { class: "hidden" }),
    );
    setVariable(button, "--colour", this.look(one.id).colour);
    this.#dress(button);
    this.#weigh(button);
    return html("li", {}, button);
  }

  /** @param {HTMLElement} button */
  #dress(button) {
    const id = button.dataset.id ?? "";
    const probability = this.probabilities.get(id);
    button.setAttribute("aria-pressed", String(this.pressed.has(id)));
    button.classList.toggle("suggested", this.suggested.has(id));
    button.setAttribute("aria-disabled", String(this.withdrawn.has(id)));
    const shown = button.querySelector(".probability");
    if (shown) shown.textContent = probability === undefined ? "" : percent(probability);
  }

  /** @param {HTMLElement} button */
  #weigh(button) {
    const images = this.images.get(button.dataset.id ?? "") ?? 0;
    if (button.dataset.images === String(images)) return;
    button.dataset.images = String(images);
    setVariable(button, "--images", String(images));
    const [shown, said] = [...button.children].slice(-2);
    shown.textContent = count(images);
    said.textContent = `(${images} ${images === 1 ? "image" : "images"})`;
  }

  /** @param {KeyboardEvent} event in the field */
  #typed(event) {
    if (event.isComposing) return; // Enter ends a word that is being put together
    if (event.key === "Escape" || (event.key === "Enter" && !this.field.value.trim())) {
      this.#close();
    } else if (event.key === "Enter") {
      const first = this.#found[0];
      if (first) this.#choose(first.id);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  #close() {
    this.field.value = "";
    this.field.blur();
    this.#draw();
  }

  /** @param {string} id */
  #choose(id) {
    if (this.field.value || document.activeElement === this.field) this.#close();
    this.dispatchEvent(new CustomEvent("choose", { detail: { id } }));
  }
}

/** @param {number} probability */
export function percent(probability) {
  const share = 100 * probability;
  if (share > 99 && share < 100) return "> 99 %";
  if (share > 0 && share < 1) return "< 1 %";
  return `${Math.round(share)} %`;
}
