/**
 * What is said about an image beside its class: choices, numbers and colours, as a small form.
 */

/** @import { Attribute } from "./wire.js" */

import { html } from "./dom.js";

export class AttributeForm {
  /**
   * @param {HTMLElement} place
   * @param {Attribute[]} attributes
   * @param {() => void} changed
   */
  constructor(place, attributes, changed) {
    this.attributes = attributes;
    this.changed = changed;
    /** @type {Record<string, string | number>} */
    this.values = {};
    /** @type {Map<string, HTMLInputElement | HTMLSelectElement>} */
    this.fields = new Map();
    place.replaceChildren(...attributes.map((one) => this.#row(one)));
  }

  /** @param {Record<string, string | number>} values changed in place */
  open(values) {
    this.values = values;
    for (const { name, kind } of this.attributes) {
      const field = this.fields.get(name);
      if (!field) continue;
      field.value = String(values[name] ?? (kind === "colour" ? "#808080" : ""));
      field.removeAttribute("aria-invalid");
      this.#mark(name);
    }
  }

  /** @returns {string | undefined} what is wrong with the first value that is */
  get problem() {
    for (const [name, field] of this.fields) {
      if (!field.checkValidity()) return `${name}: ${field.validationMessage}`;
    }
    return undefined;
  }

  /** @param {Attribute} attribute */
  #row(attribute) {
    const { name, kind, detail } = attribute;
    const id = `attribute-${this.fields.size}`;
    const field = /** @type {HTMLInputElement | HTMLSelectElement} */ (this.#field(attribute, id));
    this.fields.set(name, field);
    field.addEventListener("input", () => this.#set(name, kind, field));
    field.addEventListener("keydown", (event) => {
      if (event instanceof KeyboardEvent && ["Escape", "Enter"].includes(event.key)) field.blur();
    });
    const unit = detail.unit ? ` (${detail.unit})` : "";
    const clear = html(
      "button",
      { type: "button", class: "quiet icon", "aria-label": `Clear ${name}`, hidden: true },
      "×",
    );
    clear.addEventListener("click", () => {
      delete this.values[name];
      this.open(this.values);
      this.changed();
    });
    return html(
      "div",
      { class: "attribute" },
      html("label", { for: id, class: "clip" }, name + unit),
      field,
      clear,
    );
  }

  /** @param {Attribute} attribute @param {string} id */
  #field({ kind, detail }, id) {
    if (kind === "choice") {
      const options = (detail.choices ?? []).map((one) => html("option", { value: one }, one));
      return html("select", { id }, html("option", { value: "" }, "–"), ...options);
    }
    if (kind === "number") {
      const { minimum = null, maximum = null } = detail;
      return html("input", { id, type: "number", step: "any", min: minimum, max: maximum });
    }
    return html("input", { id, type: "color" });
  }

  /**
   * @param {string} name
   * @param {Attribute["kind"]} kind
   * @param {HTMLInputElement | HTMLSelectElement} field
   */
  #set(name, kind, field) {
    const valid = field.checkValidity();
    if (valid) field.removeAttribute("aria-invalid");
    else field.setAttribute("aria-invalid", "true");
    if (field.value === "") delete this.values[name];
    else if (valid) this.values[name] = kind === "number" ? Number(field.value) : field.value;
    this.#mark(name);
    this.changed();
  }

  /** @param {string} name */
  #mark(name) {
    const row = this.fields.get(name)?.closest(".attribute");
    const clear = row?.querySelector("button");
    const set = name in this.values;
    row?.classList.toggle("unset", !set);
    if (clear) clear.hidden = !set;
  }
}
