/**
 * The image on screen: its place, its zoom, and the gestures of mouse, pen and fingers.
 *
 * A layer of the image's shape holds the preview and whatever lies over it. Zooming changes the
 * layer's size and place rather than a transform, so lines drawn over it keep their width and every
 * coordinate is a plain share of the layer. Wheel zooms at the cursor, two fingers pinch, the middle
 * button or space and drag pans; one finger or the left button draws where an editor asks for it.
 */

const LARGEST = 40; // screen pixels for one pixel of the image
const STEP = 1.25;
const SHARP = 3; // from this scale on pixels are shown as squares, to be hit exactly

/**
 * @typedef {{x: number, y: number}} Point
 * @typedef {{move: (at: Point, event: PointerEvent) => void, end: (event: PointerEvent) => void,
 *   cancel: () => void}} Drag
 */

export class Stage extends EventTarget {
  /**
   * Dispatches "view" when scale or place changed.
   * @param {HTMLElement} frame what the image is shown in
   * @param {HTMLElement} layer what has the image's shape
   */
  constructor(frame, layer) {
    super();
    this.frame = frame;
    this.layer = layer;
    this.width = 1;
    this.height = 1;
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.fitted = true;
    this.spaceHeld = false;
    /** @type {((at: Point, event: PointerEvent) => Drag | null) | null} */
    this.editor = null;
    /** @type {Map<number, PointerEvent>} */
    this.pointers = new Map();
    /** @type {Drag | null} */
    this.drag = null;
    this.#listen();
    new ResizeObserver(() => this.#resized()).observe(frame);
  }

  /**
   * Shows an image of this size, whole.
   * @param {number} width
   * @param {number} height oriented pixels
   */
  open(width, height) {
    this.width = width;
    this.height = height;
    this.#endDrag();
    this.fit();
  }

  /** Whole image in view, never larger than sensible for a tiny one. */
  fit() {
    this.fitted = true;
    this.scale = this.#fitScale();
    this.left = (this.frame.clientWidth - this.width * this.scale) / 2;
    this.top = (this.frame.clientHeight - this.height * this.scale) / 2;
    this.#place();
  }

  /** One pixel of the image on one of the screen. */
  actualSize() {
    const box = this.frame.getBoundingClientRect();
    this.zoomAt(box.left + box.width / 2, box.top + box.height / 2, 1 / this.scale);
  }

  /** @param {1 | -1} direction in or out, at the middle */
  step(direction) {
    const box = this.frame.getBoundingClientRect();
    const factor = direction > 0 ? STEP : 1 / STEP;
    this.zoomAt(box.left + box.width / 2, box.top + box.height / 2, factor);
  }

  /**
   * Zooms so that what is under the point stays there.
   * @param {number} clientX
   * @param {number} clientY
   * @param {number} factor
   */
  zoomAt(clientX, clientY, factor) {
    const least = this.#fitScale();
    const scale = Math.min(Math.max(this.scale * factor, least), Math.max(LARGEST, least));
    if (scale <= least) {
      this.fit();
      return;
    }
    const box = this.frame.getBoundingClientRect();
    const x = clientX - box.left;
    const y = clientY - box.top;
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.#place();
  }

  /** @param {number} right @param {number} down screen pixels */
  panBy(right, down) {
    this.left += right;
    this.top += down;
    this.fitted = false;
    this.#place();
  }

  /**
   * Where a point of the screen lies in the image.
   * @param {number} clientX
   * @param {number} clientY
   * @returns {Point} pixels of the oriented image, inside it or not
   */
  toImage(clientX, clientY) {
    const box = this.frame.getBoundingClientRect();
    return {
      x: (clientX - box.left - this.left) / this.scale,
      y: (clientY - box.top - this.top) / this.scale,
    };
  }

  #fitScale() {
    const room = Math.min(
      this.frame.clientWidth / this.width,
      this.frame.clientHeight / this.height,
    );
    return Math.min(room || 1, 8);
  }

  #resized() {
    if (this.fitted) this.fit();
    else this.#place();
  }

  #place() {
    const width = this.width * this.scale;
    const height = this.height * this.scale;
    this.left = within(this.left, this.frame.clientWidth, width);
    this.top = within(this.top, this.frame.clientHeight, height);
    const style = this.layer.style;
    style.left = `${this.left}px`;
    style.top = `${this.top}px`;
    style.width = `${width}px`;
    style.height = `${height}px`;
    this.layer.classList.toggle("sharp", this.scale >= SHARP);
    this.frame.classList.toggle("zoomed", !this.fitted);
    this.dispatchEvent(new Event("view"));
  }

  #listen() {
    const frame = this.frame;
    frame.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const lines = event.deltaMode === 1 ? 16 : 1;
        this.zoomAt(event.clientX, event.clientY, Math.exp(-event.deltaY * lines * 0.002));
      },
      { passive: false },
    );
    frame.addEventListener("pointerdown", (event) => this.#down(event));
    frame.addEventListener("pointermove", (event) => this.#move(event));
    frame.addEventListener("pointerup", (event) => this.#up(event));
    frame.addEventListener("pointercancel", (event) => this.#lost(event));
    frame.addEventListener("auxclick", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => event.key === " " && this.#space(true));
    document.addEventListener("keyup", (event) => event.key === " " && this.#space(false));
    addEventListener("blur", () => this.#space(false));
  }

  /** @param {boolean} held */
  #space(held) {
    this.spaceHeld = held;
    this.frame.classList.toggle("panning", held);
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.target instanceof Element && event.target.closest("button, a")) return;
    this.pointers.set(event.pointerId, event);
    this.frame.setPointerCapture(event.pointerId);
    if (this.pointers.size === 2) {
      this.#endDrag();
      return;
    }
    if (this.pointers.size > 2 || event.button === 2) return;
    if (event.button === 1) event.preventDefault();
    const pans = event.button === 1 || this.spaceHeld || !this.editor;
    this.drag = pans ? this.#pan() : this.editor?.(this.#at(event), event) ?? null;
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.pointers.size === 2) this.#pinch(before, event);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 1) this.drag?.move(this.#at(event), event);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const drag = this.drag;
    this.drag = null;
    drag?.end(event);
  }

  /** @param {PointerEvent} event */
  #lost(event) {
    this.pointers.delete(event.pointerId);
    this.#endDrag();
  }

  #endDrag() {
    this.drag?.cancel();
    this.drag = null;
  }

  /** @returns {Drag} */
  #pan() {
    /** @type {PointerEvent | undefined} */
    let last = [...this.pointers.values()][0];
    return {
      move: (_, event) => {
        if (last && !(this.fitted && !this.editor)) {
          this.panBy(event.clientX - last.clientX, event.clientY - last.clientY);
        }
        last = event;
      },
      end: () => {},
      cancel: () => {},
    };
  }

  /** @param {PointerEvent} before @param {PointerEvent} after of the finger that moved */
  #pinch(before, after) {
    const other = [...this.pointers.values()].find((one) => one.pointerId !== after.pointerId);
    if (!other) return;
    const middle = (/** @type {PointerEvent} */ one) => ({
      x: (one.clientX + other.clientX) / 2,
      y: (one.clientY + other.clientY) / 2,
    });
    const distance = (/** @type {PointerEvent} */ one) =>
      Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
    const from = middle(before);
    const to = middle(after);
    this.panBy(to.x - from.x, to.y - from.y);
    this.zoomAt(to.x, to.y, distance(after) / distance(before));
  }

  /** @param {PointerEvent} event */
  #at(event) {
    return this.toImage(event.clientX, event.clientY);
  }
}

/**
 * The place of the layer along one axis: centred where it fits, else no gap at its ends.
 * @param {number} place
 * @param {number} room
 * @param {number} size
 */
function within(place, room, size) {
  if (size <= room) return (room - size) / 2;
  return Math.min(room * 0.25, Math.max(place, room * 0.75 - size));
}
