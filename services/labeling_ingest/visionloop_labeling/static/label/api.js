/**
 * The service's HTTP API as this page uses it. Every failure is an ApiError (see ../http.js);
 * status 0 means that no answer came that can be read: offline, timeout, restart.
 */

/** @import { Answer, Attribute, Item, LabelClass, LabelEvent, QueueState, Refusal } from "./wire.js" */

import { ApiError, PATIENCE, call } from "../http.js";

export class Api {
  /** @param {string} dataset */
  constructor(dataset) {
    this.root = `/v1/datasets/${encodeURIComponent(dataset)}`;
  }

  /** @param {string} sha256 @param {256 | 1600} edge */
  previewUrl(sha256, edge) {
    return `${this.root}/images/${sha256}/preview?edge=${edge}`;
  }

  /**
   * Leases images to the caller.
   * @param {number} count
   * @param {QueueState} state
   * @returns {Promise<{remaining: number, items: Item[]}>}
   */
  queue(count, state) {
    return this.#ask("GET", `/queue?n=${count}&state=${state}`);
  }

  /**
   * Gives leases back. It is called while the page goes away, so nobody waits for the answer.
   * @param {string[]} digests
   */
  release(digests) {
    const options = { keepalive: true };
    call("POST", `${this.root}/queue/release`, { sha256: digests }, options).catch(() => {});
  }

  /** @param {string} sha256 @returns {Promise<Item>} */
  item(sha256) {
    return this.#ask("GET", `/images/${sha256}`);
  }

  /**
   * @param {LabelEvent[]} events at most 200
   * @returns {Promise<({ok: Answer} | {error: Refusal})[]>} one for each
   */
  async submit(events) {
    const { results } = (await this.#ask("POST", "/events/batch", { events })) ?? {};
    if (results?.length !== events.length) throw new ApiError(0, { message: "The answer is not one to these labels." });
    return results;
  }

  /**
   * One person's events, newest first.
   * @param {string} author
   * @param {number} limit
   * @returns {Promise<any[]>}
   */
  events(author, limit) {
    const query = new URLSearchParams({ author, limit: String(limit) });
    return this.#ask("GET", `/events?${query}`).then((found) => found.events ?? found);
  }

  /** @returns {Promise<LabelClass[]>} those that may be said, in the order of the page */
  async classes() {
    const found = await this.#ask("GET", "/classes");
    /** @type {LabelClass[]} */
    const all = found.classes ?? found;
    return all.filter((one) => one.state === "active");
  }

  /** @returns {Promise<Attribute[]>} */
  async attributes() {
    const found = await this.#ask("GET", "/attributes");
    /** @type {Attribute[]} */
    const all = found.attributes ?? found;
    return all.filter((one) => !one.retired);
  }

  /** @returns {Promise<{instructions?: string}>} */
  preferences() {
    return this.#ask("GET", "/preferences");
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object} [body]
   * @returns {Promise<any>}
   */
  #ask(method, path, body) {
    return call(method, this.root + path, body, { patience: PATIENCE });
  }
}
