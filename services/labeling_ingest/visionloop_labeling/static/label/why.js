/** Why an image is shown now, in a sentence. The service gives a word and figures. */

/** @import { Item } from "./wire.js" */

import { percent } from "./classes.js";
import { inSentence } from "./describe.js";

/** @type {Record<string, string>} */
const SENTENCES = {
  uncertain: "The model is unsure about this one",
  rare: "Images like this one are rare here",
  random: "Picked at random, to keep the figures honest",
  disputed: "What was said about this image does not agree",
  flagged: "Flagged for a second look",
  class_split: "Its class was split: which part is it?",
  label_taken_back: "Its label was taken back",
  skipped: "It was skipped before",
};

/**
 * @param {Item} item
 * @param {(id: string) => {name: string}} look
 * @returns {string}
 */
export function why(item, look) {
  const { reason, between, note, by } = item.why ?? {};
  const words = reason ? SENTENCES[reason] ?? sentence(reason) : order(item);
  const pair = Array.isArray(between) ? between.map((one) => said(one, look)).join(" / ") : "";
  const who = typeof by === "string" && by !== "local" ? `by ${by}` : "";
  const details = [pair, who, typeof note === "string" ? note : ""].filter(Boolean).join(", ");
  return details ? `${words}: ${details}` : words;
}

/** @param {Item} item */
function order(item) {
  if (item.disputed) return SENTENCES.disputed;
  if (item.state === "skipped") return SENTENCES.skipped;
  return "Next in the order of arrival";
}

/** @param {string} word */
function sentence(word) {
  const text = word.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** @param {unknown} score @param {(id: string) => {name: string}} look */
function said(score, look) {
  if (!Array.isArray(score)) return inSentence(look(String(score)).name);
  return `${inSentence(look(String(score[0])).name)} ${percent(Number(score[1]))}`;
}
