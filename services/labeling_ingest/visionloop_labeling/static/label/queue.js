/**
 * The images that come next: leased from the service a few at a time, their previews fetched and
 * decoded before they are needed, given back when the page is left.
 *
 * An image that cannot be loaded stays in the queue as failed: it is shown as such and stops nobody.
 */

/** @import { Api } from "./api.js" */
/** @import { Item, QueueState } from "./wire.js" */

import { explain, settled, tell } from "../connection.js";
import { ApiError } from "../http.js";

const HELD = 8; // leases; enough for a pause of the network, few enough to share the work
const DECODED = 4; // previews ahead; 1600 px edges are 10 MB each once decoded
const REFILL_BELOW = 6;
const RETRY = 5_000; // milliseconds
const LEASE = 270_000; // milliseconds; the service's five minutes, less what an answer may take
const AFTER_PAINT = 40; // milliseconds; decoding the one after next must not delay the next

/**
 * A preview on its way to the screen.
 * @typedef {{image: HTMLImageElement, ready: Promise<boolean>, state: "loading" | "ready" | "failed"}} Preview
 */

/**
 * Loads and decodes; `ready` tells whether that went well, and never rejects.
 * @param {string} url
 * @returns {Preview}
 */
export function loadPreview(url) {
  const image = new Image();
  image.decoding = "sync"; // it is decoded already: painted in the frame that shows it
  image.draggable = false;
  image.alt = "";
  image.setAttribute("elementtiming", "preview");
  image.src = url;
  /** @type {Preview} */
  const preview = { image, state: "loading", ready: Promise.resolve(false) };
  preview.ready = image.decode().then(
    () => {
      preview.state = "ready";
      return true;
    },
    () => {
      preview.state = "failed";
      return false;
    },
  );
  return preview;
}

export class Queue extends EventTarget {
  /**
   * Dispatches "change" when there is more, or nothing more, to take.
   * @param {Api} api
   * @param {QueueState} state
   * @param {(sha256: string, asked: number) => boolean} outdated whether an answer of then may not
   *   know what was said here about this image
   */
  constructor(api, state, outdated) {
    super();
    this.api = api;
    this.state = state;
    this.outdated = outdated;
    /** @type {Item[]} */
    this.items = [];
    /** @type {WeakMap<Item, number>} when it was leased, by this machine's clock */
    this.leased = new WeakMap();
    /** @type {Map<string, Preview>} */
    this.previews = new Map();
    /** @type {Set<string>} taken, and nothing said about it yet */
    this.taken = new Set();
    this.remaining = 0;
    this.status = /** @type {"loading" | "ready" | "empty" | "unreachable" | "signed_out" | "refused"} */ ("loading");
    this.refusal = "";
    this.loading = false;
    addEventListener("pagehide", () => this.releaseAll());
    addEventListener("pageshow", (event) => event.persisted && void this.refill());
    document.addEventListener("signed-in", () => void this.refill());
  }

  /** The next image with its preview; undefined when none is here yet. Never waits. */
  take() {
    this.#dropExpired();
    const item = this.items.shift();
    setTimeout(() => void this.refill(), item ? AFTER_PAINT : 0);
    if (!item) return undefined;
    this.taken.add(item.sha256);
    return { item, preview: this.preview(item.sha256) };
  }

  /**
   * Somebody has said something about an image: it is no longer ours to give back.
   * @param {string} sha256
   */
  done(sha256) {
    const ours = this.taken.delete(sha256);
    this.items = this.items.filter((item) => item.sha256 !== sha256);
    if (ours && this.remaining > 0) this.remaining -= 1;
  }

  /**
   * The preview of an image, from the few that are kept.
   * @param {string} sha256
   * @returns {Preview}
   */
  preview(sha256) {
    let found = this.previews.get(sha256);
    if (!found || found.state === "failed") found = loadPreview(this.api.previewUrl(sha256, 1600));
    this.previews.delete(sha256); // the newest last
    this.previews.set(sha256, found);
    for (const [old] of this.previews) {
      if (this.previews.size <= HELD + 2 * DECODED) break;
      this.previews.delete(old);
    }
    return found;
  }

  /** Leases more when few are left. */
  async refill() {
    if (this.loading) return;
    if (this.items.length >= REFILL_BELOW) return this.#prefetch();
    this.loading = true;
    clearTimeout(this.timer);
    const asked = performance.now();
    try {
      const { items, remaining } = await this.api.queue(HELD - this.items.length, this.state);
      this.remaining = remaining;
      this.#add(items.filter((item) => !this.outdated(item.sha256, asked)));
      this.status = this.items.length > 0 ? "ready" : "empty";
      settled(this);
    } catch (error) {
      this.#failed(error);
    }
    this.loading = false;
    const again = this.items.length === 0 || this.status === "signed_out";
    if (again) this.timer = setTimeout(() => this.refill(), RETRY);
    this.#prefetch();
    this.dispatchEvent(new Event("change"));
  }

  /** @param {unknown} error */
  #failed(error) {
    const ours = error instanceof ApiError ? error : new ApiError(0, {});
    this.refusal = "";
    if (ours.signedOut) {
      this.status = "signed_out";
      tell(this, { why: explain(ours), signIn: true });
    } else if (ours.passes) {
      this.status = "unreachable";
    } else {
      this.status = "refused";
      this.refusal = ours.message;
    }
  }

  /** Gives back what was leased and not looked at. */
  releaseAll() {
    const digests = [...this.items.map((item) => item.sha256), ...this.taken];
    if (digests.length > 0) this.api.release(digests);
    this.items = [];
  }

  /** @param {Item[]} found */
  #add(found) {
    const known = new Set([...this.items.map((item) => item.sha256), ...this.taken]);
    for (const item of found) {
      this.leased.set(item, Date.now());
      if (!known.has(item.sha256)) this.items.push(item);
    }
  }

  #prefetch() {
    for (const item of this.items.slice(0, DECODED)) this.preview(item.sha256);
  }

  #dropExpired() {
    const least = Date.now() - LEASE;
    this.items = this.items.filter((item) => (this.leased.get(item) ?? 0) > least);
  }
}
