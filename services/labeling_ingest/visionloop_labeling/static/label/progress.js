/** How the work goes: labels today, how many a minute, how many images are left. */

const WINDOW = 10 * 60_000; // milliseconds that the rate looks back

export class Progress {
  /**
   * @param {HTMLElement} place with [data-today], [data-rate], [data-left]
   */
  constructor(place) {
    this.place = place;
    this.earlier = 0;
    this.more = false;
  }

  /**
   * What was said today before this page was opened.
   * @param {number} count
   * @param {boolean} more whether there is more than was counted
   */
  begin(count, more) {
    this.earlier = count;
    this.more = more;
  }

  /**
   * @param {number[]} moments of what was said here, milliseconds since 1970, oldest first
   * @param {number} left images in the queue
   */
  show(moments, left) {
    const midnight = new Date().setHours(0, 0, 0, 0);
    const here = moments.filter((at) => at >= midnight).length;
    this.#put("today", `${count(this.earlier + here)}${this.more ? "+" : ""}`);
    this.#put("rate", rate(moments, Date.now()));
    this.#put("left", count(left));
  }

  /** @param {string} name @param {string} text */
  #put(name, text) {
    const node = this.place.querySelector(`[data-${name}]`);
    if (node && node.textContent !== text) node.textContent = text;
  }
}

/**
 * Labels a minute over the last ten, from the first one in them.
 * @param {number[]} moments
 * @param {number} now
 */
export function rate(moments, now) {
  const recent = moments.filter((at) => now - at < WINDOW);
  if (recent.length < 3) return "–";
  const minutes = Math.max((recent[recent.length - 1] - recent[0]) / 60_000, 1 / 60);
  return count(Math.round((recent.length - 1) / minutes));
}

/** @param {number} value */
export function count(value) {
  return value.toLocaleString("en").replaceAll(",", "\u202f");
}
