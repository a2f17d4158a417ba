/**
 * One person's way through the queue: which image is on screen, which ones were before it, what was
 * said about each, and how to take it back. Knows nothing of the page.
 *
 * Moving never waits: statements go to the journal and the next image is there already.
 */

/** @import { Api } from "./api.js" */
/** @import { Journal } from "./journal.js" */
/** @import { Queue } from "./queue.js" */
/** @import { Visit } from "./visit.js" */
/** @import { Item, Kind, LabelEvent } from "./wire.js" */

import { uuid } from "../http.js";
import { countedClasses, isSettled } from "./visit.js";

const KEPT = 100; // images to go back to
const UNDO_PATIENCE = 5_000; // milliseconds; later its image would come as a surprise

/** @typedef {{event_id: string, sha256: string, kind: Kind, sequence?: number}} Said */

export class Session extends EventTarget {
  /**
   * Dispatches "show" when another image, or the same in another state, is to be shown, and "moved"
   * ({sha256, before, now}) when something was said: the classes that an image counted for and does.
   * @param {Api} api
   * @param {Queue} queue
   * @param {Journal} journal
   */
  constructor(api, queue, journal) {
    super();
    this.api = api;
    this.queue = queue;
    this.journal = journal;
    /** @type {Visit[]} oldest first */
    this.trail = [];
    this.cursor = -1;
    /** @type {Said[]} what undo takes back, newest last */
    this.said = [];
    /** @type {number[]} when labels were made here, milliseconds since 1970 */
    this.moments = [];
    this.shownAt = performance.now();
    this.hidden = 0;
    this.hiddenSince = 0;
    /** @type {Promise<Said[]> | undefined} */
    this.remembered = undefined;
    /** @type {Map<string, string>} sha256 → the last undo after which it comes from the service */
    this.undone = new Map();
    /** @type {Promise<void>} */
    this.fetched = Promise.resolve();
    document.addEventListener("visibilitychange", () => this.#watchClock());
    queue.addEventListener("change", () => this.visit || this.advance());
  }

  /** @returns {Visit | undefined} what is on screen; undefined when nothing is left */
  get visit() {
    return this.trail[this.cursor];
  }

  /** Seconds that the image on screen was looked at. */
  get seconds() {
    const away = document.hidden ? performance.now() - this.hiddenSince : 0;
    return Math.round((performance.now() - this.shownAt - this.hidden - away) / 10) / 100;
  }

  /**
   * Starts with the image asked for, or with the first of the queue.
   * @param {Item | undefined} item undefined for the queue's first
   * @param {Promise<any[]>} events what this person said before, newest first: undo reaches it too
   */
  async start(item, events) {
    this.remembered = events.then((found) => this.#remember(found)).catch(() => []);
    if (item) this.#enter(item);
    await this.queue.refill();
    if (!this.visit) this.advance();
  }

  /**
   * Says something about the image on screen. Returns the event at once; the journal keeps it.
   * @param {Kind} kind
   * @param {Partial<LabelEvent>} [more]
   * @returns {LabelEvent | undefined}
   */
  say(kind, more = {}) {
    const visit = this.visit;
    if (!visit) return undefined;
    const { sha256, sequence } = visit.item;
    const before = countedClasses(visit);
    /** @type {LabelEvent} */
    const body = { event_id: uuid(), sha256, kind, seconds: this.seconds, ...more };
    if (!visit.last) body.base_sequence = sequence;
    this.journal.record(body, visit.last ? { base: visit.last } : {});
    visit.statements.push({ event_id: body.event_id, kind, annotation: body.annotation });
    visit.last = { event: body.event_id, otherwise: sequence };
    this.said.push({ event_id: body.event_id, sha256, kind });
    if (kind === "label") this.moments.push(Date.now());
    this.queue.done(sha256);
    this.#tell(visit, before);
    return body;
  }

  /** Goes to the next image that waits: one of the trail that was undone, or the queue's next. */
  advance() {
    const open = this.trail.findIndex((one, place) => place > this.cursor && !isSettled(one));
    if (open >= 0) {
      this.cursor = open;
    } else {
      const next = this.queue.take();
      this.cursor = this.trail.length; // past the end: nothing to show until the queue has more
      if (next) this.trail.push({ ...next, statements: [] });
      while (this.trail.length > KEPT) {
        this.trail.shift();
        this.cursor -= 1;
      }
    }
    this.#show();
  }

  /**
   * Goes along the trail.
   * @param {number} steps -1 back, +1 forward
   * @returns {boolean} false at its ends
   */
  go(steps) {
    const last = this.cursor === this.trail.length - 1;
    if (steps > 0 && last && this.visit && isSettled(this.visit)) {
      this.advance(); // the queue may have more by now
      return true;
    }
    return this.goTo(this.cursor + steps);
  }

  /** @param {number} place in the trail @returns {boolean} */
  goTo(place) {
    const visit = this.trail[place];
    if (!visit || place === this.cursor) return false;
    this.cursor = place;
    visit.preview = this.queue.preview(visit.item.sha256);
    this.#show();
    return true;
  }

  /**
   * Takes back the last thing this person said, about whichever image, and shows that image.
   * @returns {Promise<Kind | undefined>} what was taken back
   */
  async undo() {
    const last = this.said.pop() ?? (await this.#popEarlier());
    if (!last) return undefined;
    const event_id = uuid();
    this.journal.record(
      { event_id, sha256: last.sha256, kind: "undo" },
      { undoes: { event: last.event_id, otherwise: last.sequence } },
    );
    const place = this.trail.findIndex(({ statements }) =>
      statements.some((one) => one.event_id === last.event_id),
    );
    if (place < 0) {
      await this.#fetchUndone(last.sha256, event_id);
      return last.kind;
    }
    const visit = this.trail[place];
    const before = countedClasses(visit);
    visit.statements = visit.statements.filter((one) => one.event_id !== last.event_id);
    visit.last = { event: event_id, otherwise: visit.item.sequence };
    this.cursor = place;
    visit.preview = this.queue.preview(visit.item.sha256);
    this.#tell(visit, before);
    this.#show();
    return last.kind;
  }

  /**
   * Says again what was in conflict, knowing now what it replaces.
   * @param {LabelEvent} body
   * @param {number | undefined} sequence of the label that it replaces
   */
  insist(body, sequence) {
    const event_id = uuid();
    const same = (/** @type {{event_id: string}} */ one) => one.event_id === body.event_id;
    this.journal.record({ ...body, event_id, base_sequence: sequence });
    for (const visit of this.trail) {
      const statement = visit.statements.find(same);
      if (!statement) continue;
      statement.event_id = event_id;
      visit.last = { event: event_id, otherwise: sequence };
    }
    const said = this.said.find(same);
    if (said) said.event_id = event_id;
  }

  /**
   * Gives up what was in conflict: from now on the image is what somebody else made of it.
   * @param {LabelEvent} body
   * @param {Item | undefined} item as it stands
   */
  yield(body, item) {
    this.said = this.said.filter((one) => one.event_id !== body.event_id);
    for (const visit of this.trail.filter((one) => one.item.sha256 === body.sha256)) {
      visit.item = item ?? visit.item;
      visit.last = undefined;
      visit.statements = visit.statements.filter((one) => one.event_id !== body.event_id);
    }
    this.#show();
  }

  /**
   * Gives up what was refused, and shows its image again.
   * @param {LabelEvent} body
   */
  async revisit(body) {
    this.yield(body, undefined);
    const place = this.trail.findIndex((one) => one.item.sha256 === body.sha256);
    if (place >= 0) this.goTo(place);
    else await this.#fetch(body.sha256);
  }

  /** Loads the image on screen again, after that failed. */
  reload() {
    const visit = this.visit;
    if (!visit) return;
    visit.preview = this.queue.preview(visit.item.sha256);
    this.#show();
  }

  /**
   * The last thing said before this page was opened: what is said while that is asked for was not
   * meant by who wanted to take something back before. It is taken out in the same step as it is
   * found: who presses twice meanwhile means two of them.
   * @returns {Promise<Said | undefined>}
   */
  async #popEarlier() {
    const earlier = (await this.remembered) ?? [];
    const last = earlier.findLast((one) => this.said.includes(one));
    if (last) this.said.splice(this.said.indexOf(last), 1);
    return last;
  }

  /**
   * Undone in an earlier visit of the page: the image comes from the service, without the label.
   * Several come one after the other, as they were undone; one of which two things were taken back
   * comes once, without both.
   * @param {string} sha256
   * @param {string} event_id
   */
  async #fetchUndone(sha256, event_id) {
    const answer = this.journal.answered(event_id, UNDO_PATIENCE);
    answer.catch(() => {}); // it may have to wait before it is listened to
    this.undone.set(sha256, event_id);
    const isLast = () => this.undone.get(sha256) === event_id;
    this.fetched = this.fetched.then(() => this.#fetch(sha256, answer, isLast));
    await this.fetched;
  }

  /**
   * @param {string} sha256
   * @param {Promise<unknown>} [before] what is waited for first
   * @param {() => boolean} [isWanted] whether it is still to be shown
   */
  async #fetch(sha256, before, isWanted = () => true) {
    try {
      await before;
      const item = await this.api.item(sha256);
      if (isWanted()) this.#enter(item);
    } catch {
      setTimeout(() => this.dispatchEvent(new Event("unreachable"))); // the last word, not the first
    }
  }

  /** @param {Item} item shown now; the image on screen comes after it */
  #enter(item) {
    const preview = this.queue.preview(item.sha256);
    const there = this.trail.findIndex((one) => one.item.sha256 === item.sha256);
    this.cursor = there < 0 ? Math.max(0, this.cursor) : there;
    if (there < 0) {
      this.trail.splice(this.cursor, 0, { item, preview, statements: [] });
    } else {
      const visit = Object.assign(this.trail[there], { item, preview });
      if (!isSettled(visit)) visit.last = undefined;
    }
    this.#show();
  }

  /** @param {any[]} events newest first @returns {Said[]} oldest first */
  #remember(events) {
    const undone = new Set();
    /** @type {Said[]} */
    const earlier = [];
    for (const { kind, undoes, sequence, event_id, sha256 } of events) {
      if (kind === "undo") undone.add(undoes);
      else if (!undone.has(sequence)) earlier.unshift({ event_id, sha256, kind, sequence });
    }
    // What is still on its way was said later than anything that has arrived.
    const waiting = this.journal.unsent.map((entry) => entry.body);
    const taken = new Set(this.journal.unsent.map((entry) => entry.undoes?.event));
    for (const { event_id, sha256, kind } of waiting) {
      if (kind !== "undo" && !taken.has(event_id)) earlier.push({ event_id, sha256, kind });
    }
    const here = new Set(this.said.map((one) => one.event_id));
    const found = earlier.filter((one) => !here.has(one.event_id) && !taken.has(one.event_id));
    this.said.unshift(...found);
    this.dispatchEvent(new Event("remembered"));
    return found;
  }

  /** @param {Visit} visit @param {string[]} before */
  #tell(visit, before) {
    const detail = { sha256: visit.item.sha256, before, now: countedClasses(visit) };
    this.dispatchEvent(new CustomEvent("moved", { detail }));
  }

  #show() {
    this.shownAt = performance.now();
    this.hidden = 0;
    this.hiddenSince = this.shownAt;
    this.dispatchEvent(new Event("show"));
  }

  #watchClock() {
    if (document.hidden) this.hiddenSince = performance.now();
    else this.hidden += performance.now() - this.hiddenSince;
  }
}
