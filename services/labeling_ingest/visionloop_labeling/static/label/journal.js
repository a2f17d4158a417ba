/**
 * The journal: what was said here and is not yet known to be stored by the service.
 *
 * `record` returns at once; the event goes to IndexedDB and from there to the service, in order, as
 * batches in the background. Each event has a UUID that the service records once, so sending again
 * after a crash, a restart or a lost answer is always safe, and nothing is taken out before its
 * answer is here. An event may refer to one before it whose sequence is not known yet (an undo, a
 * correction of a correction): it waits until that one is answered.
 *
 * Several tabs share the journal; a Web Lock lets one of them send at a time and a BroadcastChannel
 * tells the others. Where IndexedDB is refused (some private windows) the journal lives in memory,
 * and says so.
 */

/** @import { Api } from "./api.js" */
/** @import { Answer, Item, LabelEvent, Refusal } from "./wire.js" */

import { ApiError } from "../http.js";
import { MemoryShelf, openShelf } from "./shelf.js";

/**
 * @typedef {{event: string, otherwise?: number}} Reference to an event's answer; `otherwise` is the
 *   sequence to use when that event never came to be
 * @typedef {{order?: number, dataset: string, author: string, body: LabelEvent,
 *   base?: Reference, undoes?: Reference, status: "unsent" | "conflict" | "refused",
 *   refusal?: Refusal}} Entry
 * @typedef {{event_id: string, at: number, answer: Answer}} Answered
 * @typedef {"saved" | "saving" | "offline" | "busy" | "signed_out" | "forbidden"} Phase what stands
 *   between here and the service: no answer, one that puts off, one that wants to know who asks, one
 *   that refuses this person
 */

const BATCH = 50; // events; a request that is answered well within its time
const FIRST_PAUSE = 500; // milliseconds between tries while the service does not answer
const LONGEST_PAUSE = 5_000;
const FORBIDDEN_PAUSE = 30_000; // somebody has to change the person's role meanwhile

export class Journal extends EventTarget {
  /**
   * Dispatches "change" when `phase`, `entries` or `durable` did, and "answer" ({event_id, sha256,
   * answer}) for each event that was stored.
   * @param {Api} api
   * @param {string} dataset
   * @param {string} author whose events these are; another person's wait until he is back
   */
  constructor(api, dataset, author) {
    super();
    this.api = api;
    this.dataset = dataset;
    this.author = author;
    /** @type {Entry[]} in the order they were made */
    this.entries = [];
    /** @type {Phase} */
    this.phase = "saved";
    /** @type {ApiError | undefined} why nothing is sent at the moment */
    this.error = undefined;
    this.durable = true;
    /** @type {import("./shelf.js").Shelf} */
    this.shelf = new MemoryShelf();
    /** @type {Map<string, number>} sha256 → when its last event was answered (performance.now) */
    this.answeredAt = new Map();
    /** @type {Map<string, Answer>} */
    this.answers = new Map();
    this.pause = 0;
    this.timer = 0;
    this.leftAlone = 0; // performance.now() until which the service asked not to be asked
    this.sending = false;
    this.again = false;
    /** @type {Promise<unknown>} */
    this.written = Promise.resolve();
    this.channel = new BroadcastChannel("visionloop-journal");
    this.channel.addEventListener("message", () => void this.#reload());
  }

  /** Reads what an earlier visit left, and sends it. */
  async open() {
    this.shelf = await openShelf();
    this.durable = this.shelf.durable;
    for (const one of await this.shelf.answers()) this.answers.set(one.event_id, one.answer);
    await this.#reload();
    addEventListener("online", () => this.send());
    addEventListener("offline", () => this.#be("offline", new ApiError(0, {})));
    addEventListener("pageshow", (event) => event.persisted && this.send());
    document.addEventListener("signed-in", () => this.send());
    document.addEventListener("visibilitychange", () => document.hidden || this.send());
    this.send();
  }

  /** @returns {Entry[]} */
  get unsent() {
    return this.entries.filter((entry) => entry.status === "unsent");
  }

  /** @returns {Entry[]} what the service refused or found in conflict: a person must decide */
  get undecided() {
    return this.entries.filter((entry) => entry.status !== "unsent");
  }

  /**
   * Whether an answer of the service that was asked for at `asked` may not know yet what was said
   * about this image.
   * @param {string} sha256
   * @param {number} asked performance.now()
   */
  outdated(sha256, asked) {
    const unsent = this.unsent.some((entry) => entry.body.sha256 === sha256);
    return unsent || (this.answeredAt.get(sha256) ?? -1) >= asked;
  }

  /**
   * Keeps an event and starts to send it. Returns at once.
   * @param {LabelEvent} body
   * @param {{base?: Reference, undoes?: Reference}} [references]
   */
  record(body, references = {}) {
    /** @type {Entry} */
    const entry = {
      dataset: this.dataset,
      author: this.author,
      body,
      ...references,
      status: "unsent",
    };
    this.entries.push(entry);
    this.#be(this.phase === "saved" ? "saving" : this.phase, this.error);
    this.written = this.written.then(() => this.#keep(entry)).then(() => this.send());
  }

  /**
   * The answer to an event. Rejects when none came in time.
   * @param {string} event_id
   * @param {number} patience milliseconds
   * @returns {Promise<Answer>}
   */
  answered(event_id, patience) {
    return new Promise((resolve, reject) => {
      const look = () => {
        const found = this.answers.get(event_id);
        if (!found) return;
        this.removeEventListener("answer", look);
        clearTimeout(timer);
        resolve(found);
      };
      const timer = setTimeout(() => {
        this.removeEventListener("answer", look);
        reject(new Error("no answer yet"));
      }, patience);
      this.addEventListener("answer", look);
      look();
    });
  }

  /**
   * Takes an undecided event out for good.
   * @param {Entry} entry
   */
  async discard(entry) {
    this.entries = this.entries.filter((one) => one !== entry);
    await this.shelf.remove(entry);
    this.#tell();
    this.channel.postMessage("changed");
  }

  /** Sends what is unsent, unless that is being done already or the service asked for a pause. */
  send() {
    if (this.sending) {
      this.again = true;
      return;
    }
    clearTimeout(this.timer);
    const early = this.leftAlone - performance.now();
    if (early > 0) {
      this.timer = setTimeout(() => this.send(), early);
      return;
    }
    this.sending = true;
    void this.#drain()
      .catch((error) => this.#stumbled(error))
      .finally(() => {
        this.sending = false;
        if (this.again) this.send();
      });
  }

  /** @param {Entry} entry */
  async #keep(entry) {
    try {
      entry.order = await this.shelf.add(entry);
    } catch (error) {
      await this.#moveToMemory(error);
    }
  }

  /** The browser has taken the shelf away (its data was cleared, the disk is full). */
  async #moveToMemory(/** @type {unknown} */ error) {
    console.warn("IndexedDB failed; unsent labels live in memory only", error);
    this.durable = false;
    this.shelf = new MemoryShelf();
    for (const one of this.entries) one.order = await this.shelf.add(one);
  }

  /** What nobody thought of must not keep labels here for ever. */
  async #stumbled(/** @type {unknown} */ error) {
    if (this.durable) await this.#moveToMemory(error);
    this.#later();
  }

  async #drain() {
    do {
      this.again = false;
      await this.written;
    } while ((await alone(() => this.#sendBatch())) || (this.again && !this.error));
  }

  /** @returns {Promise<boolean>} whether there may be more to send now */
  async #sendBatch() {
    await this.#read();
    const batch = await this.#nextBatch();
    if (batch.length === 0) {
      this.#be("saved");
      return false;
    }
    if (!this.error) this.#be("saving");
    try {
      const results = await this.api.submit(batch.map((entry) => entry.body));
      this.pause = 0;
      this.#be("saving");
      for (const [place, entry] of batch.entries()) await this.#settle(entry, results[place]);
      this.channel.postMessage("changed");
      return true;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      return this.#failed(error, batch);
    }
  }

  /**
   * The next entries that can be sent together. What refers to an event of the same batch waits.
   * @returns {Promise<Entry[]>}
   */
  async #nextBatch() {
    const batch = [];
    for (const entry of this.unsent) {
      if (batch.length === (this.single ? 1 : BATCH)) break;
      const waits = [entry.base, entry.undoes].some(
        (one) => one && this.unsent.some((other) => other.body.event_id === one.event),
      );
      if (waits) break;
      if (!(await this.#resolve(entry))) continue;
      batch.push(entry);
    }
    return batch;
  }

  /**
   * Puts the sequences in that an entry refers to.
   * @param {Entry} entry
   * @returns {Promise<boolean>} false when it undid what never came to be: then both are gone
   */
  async #resolve(entry) {
    if (entry.base) {
      const found = this.answers.get(entry.base.event);
      entry.body.base_sequence = found ? found.label_sequence : entry.base.otherwise;
    }
    if (!entry.undoes) return true;
    const found = this.answers.get(entry.undoes.event);
    entry.body.undoes = found ? found.sequence : entry.undoes.otherwise;
    if (entry.body.undoes !== undefined) return true;
    const undone = this.undecided.find((one) => one.body.event_id === entry.undoes?.event);
    if (undone) await this.discard(undone);
    await this.discard(entry);
    return false;
  }

  /**
   * @param {Entry} entry
   * @param {{ok: Answer} | {error: Refusal}} result
   */
  async #settle(entry, result) {
    const { event_id, sha256 } = entry.body;
    if ("ok" in result && result.ok) {
      this.answers.set(event_id, result.ok);
      this.answeredAt.set(sha256, performance.now());
      this.entries = this.entries.filter((one) => one !== entry);
      await this.shelf.settle(entry, { event_id, at: Date.now(), answer: result.ok });
      this.dispatchEvent(
        new CustomEvent("answer", { detail: { event_id, sha256, answer: result.ok } }),
      );
    } else {
      const { error } = /** @type {{error: Refusal}} */ (result);
      entry.status = error.reason === "conflict" && error.current ? "conflict" : "refused";
      entry.refusal = error;
      await this.shelf.put(entry);
    }
    this.#tell();
  }

  /**
   * @param {ApiError} error
   * @param {Entry[]} batch
   * @returns {Promise<boolean>}
   */
  async #failed(error, batch) {
    if (error.signedOut || error.status === 403 || error.passes) {
      this.#be(phaseOf(error), error);
      return this.#later(error);
    }
    // The request as a whole was refused: one event is at fault. One at a time shows which.
    if (batch.length === 1) await this.#settle(batch[0], { error: error.body });
    this.single = batch.length > 1;
    return true;
  }

  /** @param {ApiError} [error] */
  #later(error) {
    this.pause = Math.min(LONGEST_PAUSE, Math.max(FIRST_PAUSE, this.pause * 2));
    if (error?.status === 403) this.pause = FORBIDDEN_PAUSE;
    this.leftAlone = performance.now() + 1000 * (error?.wait ?? 0);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), this.pause * (0.75 + Math.random() / 2));
    return false;
  }

  async #reload() {
    await this.written;
    if (this.sending) return;
    await this.#read();
    if (this.unsent.length === 0) this.#be("saved");
    else this.#be(this.error ? this.phase : "saving", this.error);
  }

  /** What is on the shelf counts: another tab may have sent a part. */
  async #read() {
    const written = new Set(this.entries.filter((entry) => entry.order !== undefined));
    const stored = await this.shelf.entries();
    const mine = stored.filter((one) => one.dataset === this.dataset && one.author === this.author);
    for (const entry of written) {
      if (!mine.some((one) => one.order === entry.order)) await this.#learn(entry);
    }
    // The same object stays the same, so that whoever holds an entry sees what becomes of it.
    const known = new Map(this.entries.map((entry) => [entry.body.event_id, entry]));
    const read = mine.map((one) => Object.assign(known.get(one.body.event_id) ?? one, one));
    const newer = this.entries.filter((entry) => !written.has(entry) && !read.includes(entry));
    this.entries = [...read, ...newer];
  }

  /**
   * Another tab has sent this entry.
   * @param {Entry} entry
   */
  async #learn(entry) {
    const { event_id, sha256 } = entry.body;
    const found = await this.shelf.answer(event_id);
    if (!found || this.answers.has(event_id)) return;
    this.answers.set(event_id, found.answer);
    this.answeredAt.set(sha256, performance.now());
    const detail = { event_id, sha256, answer: found.answer };
    this.dispatchEvent(new CustomEvent("answer", { detail }));
  }

  /** @param {Phase} phase @param {ApiError} [error] why nothing is sent */
  #be(phase, error) {
    this.phase = phase;
    this.error = error;
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {ApiError} error @returns {Phase} */
function phaseOf(error) {
  if (error.signedOut) return "signed_out";
  if (error.status === 403) return "forbidden";
  return error.status === 0 ? "offline" : "busy";
}

/**
 * Does the work while no other tab does. Browsers offer locks only over HTTPS or on loopback;
 * without them two tabs may send the same event, which the service records once.
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
function alone(work) {
  return navigator.locks ? navigator.locks.request("visionloop-journal", work) : work();
}
