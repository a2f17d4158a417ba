/** The journal in words: how much is not with the service yet, why, and what becomes of it. */

/** @import { Journal } from "./journal.js" */

import { explain } from "../connection.js";

/** @param {number} count */
export function labels(count) {
  return count === 1 ? "1 label" : `${count} labels`;
}

/**
 * What there is to tell on the page's bar; undefined while all goes well.
 * @param {Journal} journal
 * @returns {{what: string, why: string, more: string, signIn: boolean} | undefined}
 */
export function trouble({ unsent, error, durable }) {
  if (!error) return undefined;
  const more = durable
    ? "What you have said is kept on this device, also when this page is closed."
    : "What you have said is kept in this window alone: leave it open.";
  return {
    what: unsent.length > 0 ? labels(unsent.length) : "",
    why: explain(error),
    more: unsent.length > 0 ? more : "",
    signIn: error.signedOut,
  };
}

/**
 * The same in a few words, beside the classes.
 * @param {Journal} journal
 */
export function status({ phase, unsent, durable }) {
  const count = unsent.length;
  if (phase === "saved") return durable ? "All saved" : "All saved (private window)";
  if (phase === "saving") return `Saving ${count} …`;
  if (count > 0) return `${labels(count)} not saved yet`;
  return phase === "signed_out" ? "Signed out" : "No connection";
}
