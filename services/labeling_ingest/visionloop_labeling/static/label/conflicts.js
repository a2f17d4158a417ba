/**
 * What could not be stored and needs a person: somebody else labelled the image meanwhile (both
 * versions side by side), or the service refused an event (with its reason). It waits behind a
 * button, so that it never stands in the way of the next image.
 */

/** @import { Api } from "./api.js" */
/** @import { Entry, Journal } from "./journal.js" */
/** @import { Session } from "./session.js" */
/** @import { Annotation, Item } from "./wire.js" */

import { inWords, saidInWords } from "./describe.js";
import { byId, html, setVariable, svg } from "./dom.js";

export class Conflicts {
  /**
   * @param {Api} api
   * @param {Journal} journal
   * @param {Session} session
   * @param {(id: string) => {name: string, colour: string}} look
   */
  constructor(api, journal, session, look) {
    this.api = api;
    this.journal = journal;
    this.session = session;
    this.look = look;
    /** @type {Entry | undefined} what is to be decided */
    this.entry = undefined;
    this.dialog = /** @type {HTMLDialogElement} */ (byId("conflict"));
    this.button = byId("undecided");
    this.button.addEventListener("click", () => this.open());
    this.dialog.addEventListener("keydown", (event) => this.#pressed(event));
    journal.addEventListener("change", () => this.#count());
  }

  /** Shows the first one that waits. */
  open() {
    const entry = this.journal.undecided[0];
    if (!entry) {
      this.dialog.close();
      return;
    }
    this.entry = entry;
    const body = byId("conflict-body");
    body.replaceChildren(...(entry.status === "conflict" ? this.#both(entry) : this.#refused(entry)));
    if (!this.dialog.open) this.dialog.showModal();
    body.querySelector("button")?.focus();
  }

  /** @param {Entry} entry */
  #both(entry) {
    const current = /** @type {Item} */ (entry.refusal?.current);
    const own = current.author === this.journal.author;
    const who = own ? "another window" : current.author || current.author_kind || "somebody else";
    const words = inWords(current.annotation, this.look);
    /** @param {string} text */
    const theirs = (text) =>
      this.#version(`From ${who}`, words, current.annotation, current, [
        this.#choice(text, "T", () => this.#takeTheirs(entry)),
      ]);
    if (entry.body.kind === "undo") {
      byId("conflict-title").textContent = "This could not be taken back";
      const since = `Since you said it, ${who} has said something else, which counts now.`;
      return [html("p", { class: "soft" }, since), theirs("Leave it so")];
    }
    byId("conflict-title").textContent = "This image was labelled twice";
    const mine = saidInWords(entry.body.kind, entry.body.annotation ?? null, this.look);
    return [
      html(
        "p",
        { class: "soft" },
        `Since you opened it, ${who} has said something else. Which one counts?`,
      ),
      html(
        "div",
        { class: "versions" },
        this.#version("Yours", mine, entry.body.annotation, current, [
          this.#choice("Keep mine", "K", () => this.#keepMine(entry)),
        ]),
        theirs("Take theirs"),
      ),
    ];
  }

  /** @param {Entry} entry */
  #refused(entry) {
    const { kind, sha256, annotation } = entry.body;
    byId("conflict-title").textContent = "This could not be stored";
    return [
      html("img", { class: "version-image", src: this.api.previewUrl(sha256, 256), alt: "The image" }),
      html("p", {}, `You said: ${saidInWords(kind, annotation ?? null, this.look)}.`),
      html("p", { class: "notice bad" }, entry.refusal?.message || "The service gave no reason."),
      html(
        "div",
        { class: "row" },
        this.#choice("Label it anew", "L", () => this.#labelAnew(entry)),
        this.#choice("Try again", "K", () => this.#keepMine(entry)),
        this.#choice("Discard it", "T", () => this.#takeTheirs(entry)),
      ),
    ];
  }

  /**
   * @param {string} title
   * @param {string} words
   * @param {Annotation | null | undefined} annotation
   * @param {Item} item
   * @param {Node[]} choices
   */
  #version(title, words, annotation, item, choices) {
    const note = annotation?.note;
    return html(
      "section",
      { class: "version" },
      html("h3", {}, title),
      html("div", { class: "version-image" }, this.#image(item, annotation)),
      html("p", { class: "strong break" }, words),
      note ? html("p", { class: "soft small break" }, note) : null,
      ...choices,
    );
  }

  /** @param {Item} item @param {Annotation | null | undefined} annotation */
  #image({ sha256, width, height }, annotation) {
    const boxes = (annotation?.boxes ?? []).map(({ class_id, x, y, width: w, height: h }) => {
      const node = svg("rect", { class: "edge", x, y, width: w, height: h });
      setVariable(node, "--colour", this.look(class_id).colour);
      return node;
    });
    const href = this.api.previewUrl(sha256, 256);
    const picture = svg("image", { href, width, height });
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, picture, ...boxes);
  }

  /** @param {string} text @param {string} key @param {() => void} run */
  #choice(text, key, run) {
    const hint = html("kbd", { "aria-hidden": "true" }, key);
    return html("button", { type: "button", "data-key": key.toLowerCase(), onclick: run }, text, hint);
  }

  /**
   * Each is decided once, however fast somebody presses.
   * @param {Entry} entry
   */
  #decides(entry) {
    const open = this.entry === entry;
    this.entry = undefined;
    return open;
  }

  /** @param {Entry} entry */
  #keepMine(entry) {
    if (!this.#decides(entry)) return;
    this.session.insist(entry.body, entry.refusal?.current?.sequence ?? entry.body.base_sequence);
    void this.#settle(entry);
  }

  /** @param {Entry} entry */
  #takeTheirs(entry) {
    if (!this.#decides(entry)) return;
    this.session.yield(entry.body, entry.refusal?.current);
    void this.#settle(entry);
  }

  /** @param {Entry} entry */
  async #labelAnew(entry) {
    if (!this.#decides(entry)) return;
    await this.journal.discard(entry);
    this.dialog.close();
    await this.session.revisit(entry.body);
  }

  /** @param {Entry} entry */
  async #settle(entry) {
    await this.journal.discard(entry);
    this.open();
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // they are the browser's
    const button = this.dialog.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!(button instanceof HTMLButtonElement)) return;
    event.preventDefault();
    if (!event.repeat) button.click(); // held, it would decide the next ones as well
  }

  #count() {
    const count = this.journal.undecided.length;
    this.button.hidden = count === 0;
    const words = count === 1 ? "1 label needs a decision" : `${count} labels need a decision`;
    byId("undecided-text").textContent = words;
  }
}
