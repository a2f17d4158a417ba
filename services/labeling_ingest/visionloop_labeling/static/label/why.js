/** Why an image is shown now, in a sentence. The service gives a word and figures. */

/** @import { Item } from "./wire.js" */

import { percent } from "./classes.js";

/** @type {Record<string, string>} */
const SENTENCES = {
  uncertain: "The model is unsure about this one",
  margin: "The model hesitates between two classes",
  disagree: "Two model versions disagree here",
  models_disagree: "Two model versions disagree here",
  random: "Picked at random, so that the figures stay honest",
  disputed: "What was said about this image does not agree",
  flagged: "Somebody flagged this image",
  split: "Its class was split; which part is it?",
  class_split: "Its class was split; which part is it?",
  skipped: "It was skipped before",
  feedback: "An app sent feedback about it",
  app_only: "Only an app or a model has labelled it so far",
  rare: "Images of this class are rare",
  deficit: "Images of this class are rare",
};

/**
 * @param {Item} item
 * @param {(id: string) => {name: string}} look
 * @returns {string}
 */
export function why(item, look) {
  const { reason, between, note } = item.why ?? {};
  const words = reason ? SENTENCES[reason] ?? sentence(reason) : order(item);
  const pair = Array.isArray(between) ? between.map((one) => said(one, look)).join(" / ") : "";
  const details = [pair, typeof note === "string" ? note : ""].filter(Boolean).join("; ");
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
  if (!Array.isArray(score)) return look(String(score)).name;
  return `${look(String(score[0])).name} ${percent(Number(score[1]))}`;
}
