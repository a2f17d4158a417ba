/**
 * Polygons and masks that came with an import: shown over the image, never changed here.
 */

/** @import { Mask, Polygon } from "./wire.js" */

import { setVariable, svg } from "./dom.js";

/**
 * @param {SVGElement} group
 * @param {HTMLCanvasElement} canvas of the same place and shape as the image
 * @param {(Polygon | Mask)[]} shapes
 * @param {(id: string) => {name: string, colour: string}} look of a class
 */
export function drawShapes(group, canvas, shapes, look) {
  const polygons = shapes.filter((shape) => shape.kind === "polygon");
  group.replaceChildren(
    ...polygons.map(({ class_id, points }) => {
      const { name, colour } = look(class_id);
      const node = svg("polygon", { points: points.join(" ") }, svg("title", {}, name));
      setVariable(node, "--colour", colour);
      return node;
    }),
  );
  const masks = shapes.filter((shape) => shape.kind === "mask");
  canvas.hidden = masks.length === 0;
  if (masks.length > 0) paintMasks(canvas, masks, look);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Mask[]} masks
 * @param {(id: string) => {colour: string}} look
 */
function paintMasks(canvas, masks, look) {
  const [height, width] = masks[0].size;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) return;
  const picture = context.createImageData(width, height);
  for (const mask of masks) {
    if (mask.size[0] !== height || mask.size[1] !== width) continue;
    const [red, green, blue] = channels(look(mask.class_id).colour);
    for (const [from, to] of runs(mask.counts)) {
      for (let place = from; place < Math.min(to, width * height); place += 1) {
        // COCO's run lengths go down the columns.
        const pixel = 4 * ((place % height) * width + Math.floor(place / height));
        picture.data.set([red, green, blue, 110], pixel);
      }
    }
  }
  context.putImageData(picture, 0, 0);
}

/**
 * Where a mask's ones stand: its counts tell zeros and ones by turns.
 * @param {number[]} counts
 * @returns {Generator<[number, number]>} from, to (exclusive)
 */
export function* runs(counts) {
  let place = 0;
  for (const [index, count] of counts.entries()) {
    if (index % 2 === 1) yield [place, place + count];
    place += count;
  }
}

/** @param {string} colour "#rrggbb" */
function channels(colour) {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16) || 0);
}
