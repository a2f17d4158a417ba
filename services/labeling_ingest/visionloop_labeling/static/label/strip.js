/** The images that were before, as small pictures to go back to. */

/** @import { Api } from "./api.js" */
/** @import { Session } from "./session.js" */
/** @import { Visit } from "./visit.js" */

import { inWords } from "./describe.js";
import { html } from "./dom.js";
import { currentAnnotation, lastSaid } from "./visit.js";

const SHOWN = 24;

export class Strip {
  /**
   * @param {HTMLElement} list
   * @param {Api} api
   * @param {Session} session
   * @param {(id: string) => {name: string}} look
   */
  constructor(list, api, session, look) {
    this.list = list;
    this.api = api;
    this.session = session;
    this.look = look;
    /** @type {WeakMap<Visit, HTMLElement>} */
    this.nodes = new WeakMap();
  }

  /** Brings it up to date; the pictures that are there stay. */
  draw() {
    const { trail, cursor } = this.session;
    const from = Math.max(0, Math.min(trail.length - SHOWN, cursor - 4));
    const shown = trail.slice(from, from + SHOWN);
    const nodes = shown.map((visit, index) => this.#node(visit, from + index));
    if (nodes.some((node, index) => this.list.children[index] !== node)) {
      this.list.replaceChildren(...nodes);
    }
    while (this.list.children.length > nodes.length) this.list.lastElementChild?.remove();
    const current = this.list.querySelector("[aria-current]");
    if (!current) return;
    const { offsetLeft, offsetWidth } = /** @type {HTMLElement} */ (current.parentElement);
    this.list.scrollLeft = offsetLeft + offsetWidth - this.list.clientWidth + offsetWidth;
  }

  /** @param {Visit} visit @param {number} place */
  #node(visit, place) {
    let node = this.nodes.get(visit);
    if (!node) {
      node = this.#made(visit);
      this.nodes.set(visit, node);
    }
    const button = /** @type {HTMLElement} */ (node.firstElementChild);
    const kind = lastSaid(visit);
    const words = { skip: "skipped", flag: "flagged" }[String(kind)] ??
      inWords(currentAnnotation(visit), this.look);
    const caption = /** @type {HTMLElement} */ (button.lastElementChild);
    const text = kind || visit.item.annotation ? words : "";
    if (caption.textContent !== text) caption.textContent = text;
    button.classList.toggle("skipped", kind === "skip");
    button.classList.toggle("flagged", kind === "flag");
    if (place === this.session.cursor) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    button.setAttribute("aria-label", `Image ${place + 1}: ${text || "waits"}`);
    return node;
  }

  /**
   * The small picture does not come (offline): the large one is in the browser's cache.
   * @param {HTMLImageElement} image
   * @param {Visit} visit
   */
  #instead(image, visit) {
    const large = this.api.previewUrl(visit.item.sha256, 1600);
    if (image.src.endsWith(large)) image.classList.add("failed");
    else image.src = large;
  }

  /** @param {Visit} visit */
  #made(visit) {
    const image = html("img", {
      src: this.api.previewUrl(visit.item.sha256, 256),
      alt: "",
      loading: "lazy",
      decoding: "async",
      fetchpriority: "low",
    });
    image.addEventListener("error", () => this.#instead(/** @type {HTMLImageElement} */ (image), visit));
    const button = html(
      "button",
      { type: "button", onclick: () => this.session.goTo(this.session.trail.indexOf(visit)) },
      image,
      html("span", { class: "clip", "aria-hidden": "true" }),
    );
    return html("li", {}, button);
  }
}
