/**
 * How many images each class has: what the service counted last, and what was said here since.
 *
 * A label counts here the moment it is made, and nobody waits for the service. Its own numbers take
 * the place of ours every half minute, for others label too, and after what only the service can
 * count: a conflict, a label undone that was made in an earlier visit. They are asked for while
 * nothing is on its way, and passed over when something was said meanwhile: the next ones know.
 */

/** @import { Api } from "./api.js" */
/** @import { Journal } from "./journal.js" */
/** @import { LabelClass } from "./wire.js" */

const EVERY = 30_000; // milliseconds

export class Balance extends EventTarget {
  /**
   * Dispatches "change" when the service's numbers are in.
   * @param {Api} api
   * @param {Journal} journal
   */
  constructor(api, journal) {
    super();
    this.api = api;
    this.journal = journal;
    /** @type {Map<string, number>} class id → images, as the service counted */
    this.counted = new Map();
    /** @type {Map<string, {before: string[], now: string[]}>} sha256 → its classes then and now */
    this.moved = new Map();
    this.said = 0;
    this.undecided = 0;
    this.doubtful = false;
    this.asking = false;
  }

  /** @param {LabelClass[]} classes with their images; from now on the numbers are kept fresh */
  open(classes) {
    this.#take(classes);
    this.journal.addEventListener("answer", (event) =>
      this.#answered(/** @type {CustomEvent<{sha256: string}>} */ (event).detail.sha256),
    );
    this.journal.addEventListener("change", () => this.#changed());
    document.addEventListener("visibilitychange", () => this.#look());
    setInterval(() => this.#look(), EVERY);
  }

  /**
   * Something was said here about an image.
   * @param {string} sha256
   * @param {string[]} before the classes that it counted for
   * @param {string[]} now those that it counts for
   */
  move(sha256, before, now) {
    this.said += 1;
    this.moved.set(sha256, { before: this.moved.get(sha256)?.before ?? before, now });
  }

  /** @returns {Map<string, number>} class id → images, as far as is known here */
  get images() {
    const images = new Map(this.counted);
    const add = (/** @type {string} */ id, /** @type {number} */ change) =>
      images.set(id, Math.max(0, (images.get(id) ?? 0) + change));
    for (const { before, now } of this.moved.values()) {
      for (const id of now) add(id, 1);
      for (const id of before) add(id, -1);
    }
    return images;
  }

  /** The numbers may be wrong: asks the service as soon as nothing is on its way. */
  doubt() {
    this.doubtful = true;
    if (!this.asking && this.journal.unsent.length === 0) void this.#ask();
  }

  async #ask() {
    this.asking = true;
    this.doubtful = false;
    const said = this.said;
    const classes = await this.api.classes().catch(() => undefined); // the next time may go better
    this.asking = false;
    if (classes && said === this.said) this.#take(classes);
    else this.doubtful = true;
    if (classes && this.doubtful) this.doubt();
  }

  /** @param {LabelClass[]} classes */
  #take(classes) {
    this.counted = new Map(classes.map((one) => [one.id, one.images]));
    this.moved.clear();
    this.dispatchEvent(new Event("change"));
  }

  #look() {
    if (!document.hidden) this.doubt();
  }

  /** @param {string} sha256 of what is stored now: said in an earlier visit, or in another tab? */
  #answered(sha256) {
    if (!this.moved.has(sha256)) this.doubt();
  }

  #changed() {
    const { length } = this.journal.undecided;
    if (length !== this.undecided) this.doubtful = true;
    this.undecided = length;
    if (this.doubtful) this.doubt();
  }
}
