/**
 * The keyboard. Every command has a key, and every key is written where its command stands.
 *
 * Keys belong to the page, not to a focused element, so that nobody has to click first; while
 * somebody writes into a field or a dialog is open they are left alone.
 */

/** @import { LabelClass } from "./wire.js" */

// What classes cannot have: the page's own letters. The service refuses the same (taxonomy.py).
export const RESERVED = new Set(["s", "f", "z", "b", "d", "h", "n", "c"]);

const AUTOMATIC = [..."123456789", ..."qwertyuiopagjklxvm"];

/**
 * The key of each class: what its dataset says first, then digits and letters in order.
 * @param {LabelClass[]} classes
 * @returns {Map<string, string>} class id → key; classes beyond the last key have none
 */
export function assignKeys(classes) {
  const keys = new Map();
  const taken = new Set(RESERVED);
  for (const { id, hotkey } of classes) {
    const key = (hotkey || "").toLowerCase();
    if (!key || taken.has(key)) continue;
    keys.set(id, key);
    taken.add(key);
  }
  const free = AUTOMATIC.filter((key) => !taken.has(key));
  for (const { id } of classes) {
    if (!keys.has(id) && free.length > 0) keys.set(id, free.shift());
  }
  return keys;
}

/**
 * @typedef {(event: KeyboardEvent) => boolean | void} Command returns false when the key is not for
 *   it after all: then the browser has it
 */

export class Keys {
  constructor() {
    this.enabled = true; // keys of one letter get in the way of speech input: they can be off
    /** @type {Map<string, Command>} */
    this.commands = new Map();
    /** @type {Set<string>} */
    this.repeating = new Set();
    document.addEventListener("keydown", (event) => this.#pressed(event));
  }

  /**
   * @param {string} keys as KeyboardEvent.key in lower case, several with blanks between
   * @param {Command} command
   * @param {{repeats?: boolean}} [options] whether holding the key down repeats it
   */
  on(keys, command, { repeats = false } = {}) {
    for (const key of keys.split(" ")) {
      this.commands.set(key, command);
      if (repeats) this.repeating.add(key);
    }
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = named(event);
    const command = this.commands.get(key);
    if (!command || (!this.enabled && key.length === 1) || isWriting(event.target) || document.querySelector("dialog[open]")) return;
    // A control that was reached by keyboard keeps the keys that work it.
    if ((key === "enter" || key === "space") && isControl(event.target)) return;
    if (event.repeat && !this.repeating.has(key)) {
      event.preventDefault(); // a held key must not label image after image
      return;
    }
    if (command(event) !== false) event.preventDefault();
  }
}

/**
 * The key's name. Where the layout has no Latin letters, its place on the keyboard counts.
 * @param {KeyboardEvent} event
 */
function named(event) {
  if (event.key === " ") return "space";
  const letter = /^Key([A-Z])$/.exec(event.code);
  const foreign = event.key.length === 1 && event.key > "\u024f";
  return (foreign && letter ? letter[1] : event.key).toLowerCase();
}

/** @param {EventTarget | null} target */
function isWriting(target) {
  return target instanceof Element && target.matches("input, textarea, select, [contenteditable]");
}

/** @param {EventTarget | null} target */
function isControl(target) {
  return target instanceof Element && target.closest("button, a, summary") !== null;
}
