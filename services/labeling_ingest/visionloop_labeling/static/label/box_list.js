/** The boxes as a list beside the image: the same choice by other means, and what is read aloud. */

/** @import { BoxEditor } from "./boxes.js" */

import { html, setVariable } from "./dom.js";

/**
 * @param {BoxEditor} editor
 * @returns {HTMLElement[]}
 */
export function boxList(editor) {
  return editor.boxes.map((box, index) => {
    const { name, colour } = editor.look(box.class_id);
    const size = `${Math.round(box.width)} × ${Math.round(box.height)} px`;
    const row = html(
      "button",
      {
        type: "button",
        class: "box-row",
        "aria-pressed": String(index === editor.chosen),
        onclick: () => editor.choose(index),
      },
      html("span", { class: "chip", "aria-hidden": "true" }),
      html("span", { class: "clip grow" }, name),
      html("span", { class: "soft small" }, `${size} at ${Math.round(box.x)}, ${Math.round(box.y)}`),
    );
    setVariable(row, "--colour", colour);
    return html("li", {}, row);
  });
}
