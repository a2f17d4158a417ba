/**
 * Decisions that are not made yet: boxes drawn, classes switched, a note begun. They stay when
 * another image is looked at in between and when the page is loaded again, in this tab.
 */

/** @import { Annotation } from "./wire.js" */

const PREFIX = "visionloop-draft:";

export class Drafts {
  /** @param {string} dataset */
  constructor(dataset) {
    this.prefix = `${PREFIX}${dataset}:`;
  }

  /**
   * @param {string} sha256
   * @returns {Annotation | undefined}
   */
  get(sha256) {
    const kept = sessionStorage.getItem(this.prefix + sha256);
    return kept ? JSON.parse(kept) : undefined;
  }

  /** @param {string} sha256 @param {Annotation} annotation */
  keep(sha256, annotation) {
    try {
      sessionStorage.setItem(this.prefix + sha256, JSON.stringify(annotation));
    } catch {
      // Full or forbidden: then it lives as long as the image is on screen.
    }
  }

  /** @param {string} sha256 */
  drop(sha256) {
    sessionStorage.removeItem(this.prefix + sha256);
  }
}
