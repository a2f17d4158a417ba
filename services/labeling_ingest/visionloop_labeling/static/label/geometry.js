/**
 * Boxes as numbers: spanned, moved, sized. Edges that are drawn lie on whole pixels of the oriented
 * image, inside it, and at least `SMALLEST` apart; what an import brought keeps its fractions while
 * it is moved.
 */

/** @import { Box } from "./wire.js" */
/** @import { Point } from "./stage.js" */

export const SMALLEST = 3; // pixels of the image; less is a slip of the hand

/** @param {Box} box @param {Point} at */
export function contains(box, { x, y }) {
  return x >= box.x && y >= box.y && x <= box.x + box.width && y <= box.y + box.height;
}

/** @param {number} value @param {number} most */
function clamped(value, most) {
  return Math.min(Math.max(Math.round(value), 0), most);
}

/**
 * The box between two points.
 * @param {Point} a
 * @param {Point} b
 * @param {string} class_id
 * @param {{width: number, height: number}} image
 * @returns {Box}
 */
export function spanned(a, b, class_id, image) {
  const [left, right] = [clamped(a.x, image.width), clamped(b.x, image.width)];
  const [top, bottom] = [clamped(a.y, image.height), clamped(b.y, image.height)];
  return {
    class_id,
    x: Math.min(left, right),
    y: Math.min(top, bottom),
    width: Math.abs(right - left),
    height: Math.abs(bottom - top),
  };
}

/**
 * The box moved by whole pixels, inside the image.
 * @param {Box} box
 * @param {number} right
 * @param {number} down
 * @param {{width: number, height: number}} image
 * @returns {Box}
 */
export function moved(box, right, down, image) {
  box.x = Math.min(Math.max(box.x + Math.round(right), 0), image.width - box.width);
  box.y = Math.min(Math.max(box.y + Math.round(down), 0), image.height - box.height);
  return box;
}

/**
 * The box with the edges of a handle moved; an edge stops before the one opposite.
 * @param {Box} box
 * @param {string} handle of HANDLES
 * @param {number} right
 * @param {number} down
 * @param {{width: number, height: number}} image
 * @returns {Box}
 */
export function sized(box, handle, right, down, image) {
  let [left, top] = [box.x, box.y];
  let [end, bottom] = [box.x + box.width, box.y + box.height];
  if (handle.includes("w")) left = Math.min(clamped(left + right, image.width), end - SMALLEST);
  if (handle.includes("e")) end = Math.max(clamped(end + right, image.width), left + SMALLEST);
  if (handle.includes("n")) top = Math.min(clamped(top + down, image.height), bottom - SMALLEST);
  if (handle.includes("s")) bottom = Math.max(clamped(bottom + down, image.height), top + SMALLEST);
  return { ...box, x: left, y: top, width: end - left, height: bottom - top };
}
