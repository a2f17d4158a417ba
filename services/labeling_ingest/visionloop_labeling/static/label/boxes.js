/**
 * Boxes drawn and edited over the image, as SVG whose user units are the oriented image's pixels:
 * what is drawn is what is stored, at any zoom.
 *
 * Drag draws; a box is chosen by a click, moved by dragging it and sized by its handles. From the
 * keyboard: Tab from box to box, arrows move by a pixel (Shift: ten), D copies, Delete removes.
 * Where edges may lie is in `geometry`.
 */

/** @import { Box } from "./wire.js" */
/** @import { Drag, Point, Stage } from "./stage.js" */

import { setVariable, svg } from "./dom.js";
import { SMALLEST, contains, moved, sized, spanned } from "./geometry.js";

const CLICK = 4; // screen pixels; a shorter drag is a click
const HANDLE = 10; // screen pixels
const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const UNDO_DEPTH = 100;

export class BoxEditor extends EventTarget {
  /**
   * Dispatches "change" when boxes or the chosen one changed.
   * @param {SVGElement} overlay
   * @param {Stage} stage
   * @param {(id: string) => {name: string, colour: string}} look of a class
   */
  constructor(overlay, stage, look) {
    super();
    this.overlay = overlay;
    this.stage = stage;
    this.look = look;
    /** @type {Box[]} */
    this.boxes = [];
    this.chosen = -1;
    this.hidden = false;
    this.editable = false;
    this.currentClass = "";
    /** @type {string[]} earlier states, as JSON */
    this.past = [];
    this.group = svg("g", { class: "boxes" });
    this.cross = svg("g", { class: "cross" }, svg("line"), svg("line"));
    overlay.append(this.group, this.cross);
    stage.addEventListener("view", () => this.draw());
    stage.frame.addEventListener("pointermove", (event) => this.#aim(event));
    stage.frame.addEventListener("pointerleave", () => this.cross.classList.remove("shown"));
  }

  /**
   * Shows these boxes; they are changed in place.
   * @param {Box[]} boxes
   * @param {boolean} editable
   */
  open(boxes, editable) {
    this.boxes = boxes;
    this.chosen = -1;
    this.past = [];
    this.editable = editable;
    this.stage.editor = editable ? (at, event) => this.#start(at, event) : null;
    this.stage.frame.classList.toggle("drawing", editable);
    this.cross.classList.remove("shown");
    this.draw();
  }

  /** @param {number} index -1 for none */
  choose(index) {
    this.chosen = index;
    this.draw();
    this.#changed();
  }

  /**
   * Chooses the next box; from the last on to the first.
   * @param {1 | -1} direction
   * @returns {boolean} false where there is none
   */
  cycle(direction) {
    if (this.boxes.length === 0 || this.hidden) return false;
    const from = this.chosen < 0 && direction < 0 ? 0 : this.chosen;
    this.choose((from + direction + this.boxes.length) % this.boxes.length);
    return true;
  }

  /** @param {number} right @param {number} down pixels of the image @returns {boolean} */
  nudge(right, down) {
    const box = this.boxes[this.chosen];
    if (!box) return false;
    this.#remember();
    this.#put(moved(box, right, down, this.stage));
    return true;
  }

  /** Removes the chosen box. @returns {boolean} */
  remove() {
    if (!this.boxes[this.chosen]) return false;
    this.#remember();
    this.boxes.splice(this.chosen, 1);
    this.choose(Math.min(this.chosen, this.boxes.length - 1));
    return true;
  }

  /** Copies the chosen box a little to the right and down. @returns {boolean} */
  duplicate() {
    const box = this.boxes[this.chosen];
    if (!box) return false;
    this.#remember();
    const by = Math.max(1, Math.round(12 / this.stage.scale));
    this.boxes.push(moved(structuredClone(box), by, by, this.stage));
    this.choose(this.boxes.length - 1);
    return true;
  }

  /**
   * The class of the chosen box, and of those drawn next.
   * @param {string} id
   */
  setClass(id) {
    this.currentClass = id;
    const box = this.boxes[this.chosen];
    if (box && box.class_id !== id) {
      this.#remember();
      box.class_id = id;
      this.draw();
    }
    this.#changed();
  }

  /** Takes back the last change of a box. @returns {boolean} false where there is none */
  undo() {
    const before = this.past.pop();
    if (before === undefined) return false;
    this.boxes.splice(0, this.boxes.length, ...JSON.parse(before));
    this.choose(Math.min(this.chosen, this.boxes.length - 1));
    return true;
  }

  toggleHidden() {
    this.hidden = !this.hidden;
    this.draw();
    this.#changed();
  }

  /** Draws everything anew: a few hundred nodes at most. */
  draw() {
    const { width, height, scale } = this.stage;
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const order = this.boxes.map((_, index) => index).sort((a, b) => this.#area(b) - this.#area(a));
    const nodes = this.hidden ? [] : order.map((index) => this.#node(index, 1 / scale));
    this.group.replaceChildren(...nodes);
  }

  /** @param {number} index @param {number} unit a screen pixel in those of the image */
  #node(index, unit) {
    const box = this.boxes[index];
    const { name, colour } = this.look(box.class_id);
    const chosen = index === this.chosen;
    const frame = { x: box.x, y: box.y, width: box.width, height: box.height };
    const above = box.y > 20 * unit;
    const group = svg(
      "g",
      { class: chosen ? "box chosen" : "box", "data-box": index },
      svg("rect", { ...frame, class: "halo" }),
      svg("rect", { ...frame, class: "edge" }),
      svg("title", {}, name),
      svg(
        "text",
        {
          x: box.x + 5 * unit,
          y: above ? box.y - 6 * unit : box.y + 15 * unit,
          "font-size": 12.5 * unit,
          "stroke-width": 3.5 * unit,
        },
        name,
      ),
    );
    if (chosen && this.editable) group.append(...handles(box, unit));
    setVariable(group, "--colour", colour);
    return group;
  }

  /**
   * A pointer went down: size, move or draw.
   * @param {Point} at
   * @param {PointerEvent} event
   * @returns {Drag | null}
   */
  #start(at, event) {
    if (this.hidden) return null;
    const target = event.target instanceof Element ? event.target : null;
    const box = this.boxes[this.chosen];
    const handle = target?.getAttribute("data-handle");
    if (box && handle) return this.#sizing(box, handle, at);
    if (box && contains(box, at)) return this.#moving(box, at, event);
    return this.#drawing(at, event);
  }

  /** @param {Box} box @param {string} handle @param {Point} from @returns {Drag} */
  #sizing(box, handle, from) {
    const start = { ...box };
    this.#remember();
    return {
      move: (at) => this.#put(sized(start, handle, at.x - from.x, at.y - from.y, this.stage)),
      end: () => this.#forgetUnchanged(),
      cancel: () => this.undo(),
    };
  }

  /** @param {Box} box @param {Point} from @param {PointerEvent} down @returns {Drag} */
  #moving(box, from, down) {
    const start = { ...box };
    this.#remember();
    return {
      move: (at, event) => {
        if (isDrag(down, event)) {
          this.#put(moved({ ...start }, at.x - from.x, at.y - from.y, this.stage));
        }
      },
      end: (event) => {
        this.#forgetUnchanged();
        if (!isDrag(down, event)) this.#click(from);
      },
      cancel: () => this.undo(),
    };
  }

  /** @param {Point} from @param {PointerEvent} down @returns {Drag} */
  #drawing(from, down) {
    const sketch = svg("rect", { class: "sketch" });
    this.overlay.append(sketch);
    if (this.currentClass) setVariable(sketch, "--colour", this.look(this.currentClass).colour);
    /** @type {Box | null} */
    let drawn = null;
    return {
      move: (at, event) => {
        if (!isDrag(down, event)) return;
        drawn = spanned(from, at, this.currentClass, this.stage);
        for (const name of /** @type {const} */ (["x", "y", "width", "height"])) {
          sketch.setAttribute(name, String(drawn[name]));
        }
      },
      end: (event) => {
        sketch.remove();
        if (!isDrag(down, event)) this.#click(from);
        else if (drawn) this.#add(drawn);
      },
      cancel: () => sketch.remove(),
    };
  }

  /** @param {Box} box */
  #add(box) {
    if (box.width < SMALLEST || box.height < SMALLEST) {
      this.dispatchEvent(new CustomEvent("refused", { detail: "That box is too small to keep." }));
      return;
    }
    if (!box.class_id) {
      this.dispatchEvent(new CustomEvent("refused", { detail: "Choose a class first." }));
      return;
    }
    this.#remember();
    this.boxes.push(box);
    this.choose(this.boxes.length - 1);
  }

  /**
   * Chooses the smallest box under the point; clicking again, the next larger one.
   * @param {Point} at
   */
  #click(at) {
    const under = this.boxes
      .map((_, index) => index)
      .filter((index) => contains(this.boxes[index], at))
      .sort((a, b) => this.#area(a) - this.#area(b));
    const place = under.indexOf(this.chosen);
    this.choose(under.length === 0 ? -1 : under[(place + 1) % under.length]);
  }

  /** @param {Box} box in place of the chosen one */
  #put(box) {
    this.boxes[this.chosen] = box;
    this.draw();
    this.#changed();
  }

  #remember() {
    this.past.push(JSON.stringify(this.boxes));
    if (this.past.length > UNDO_DEPTH) this.past.shift();
  }

  #forgetUnchanged() {
    if (this.past.at(-1) === JSON.stringify(this.boxes)) this.past.pop();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** @param {number} index */
  #area(index) {
    return this.boxes[index].width * this.boxes[index].height;
  }

  /** The crosshair shows where an edge would be. @param {PointerEvent} event */
  #aim(event) {
    const shown = this.editable && event.pointerType !== "touch" && !this.stage.spaceHeld;
    this.cross.classList.toggle("shown", shown);
    if (!shown) return;
    const { x, y } = this.stage.toImage(event.clientX, event.clientY);
    const { width, height } = this.stage;
    const [across, down] = this.cross.children;
    const ends = { x1: 0, x2: width, y1: Math.round(y), y2: Math.round(y) };
    const tops = { x1: Math.round(x), x2: Math.round(x), y1: 0, y2: height };
    for (const [name, value] of Object.entries(ends)) across.setAttribute(name, String(value));
    for (const [name, value] of Object.entries(tops)) down.setAttribute(name, String(value));
  }
}

/** @param {PointerEvent} down @param {PointerEvent} event */
function isDrag(down, event) {
  return Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) >= CLICK;
}

/** @param {Box} box @param {number} unit */
function handles(box, unit) {
  const side = HANDLE * unit;
  return HANDLES.map((name) => {
    const x = box.x + (name.includes("w") ? 0 : name.includes("e") ? 1 : 0.5) * box.width;
    const y = box.y + (name.includes("n") ? 0 : name.includes("s") ? 1 : 0.5) * box.height;
    return svg("rect", {
      class: `handle ${name}`,
      "data-handle": name,
      x: x - side / 2,
      y: y - side / 2,
      width: side,
      height: side,
    });
  });
}
