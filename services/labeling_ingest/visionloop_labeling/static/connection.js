// What stands between this page and the service: no answer, a busy one, a session that has ended.
// One bar under the head of every page says it and what to do; work that must not be lost is sent
// until it is answered, and the browser asks before the page is closed on it.

import { ApiError, signIn } from "./http.js";
import { html } from "./label/dom.js";

const FIRST = 500; // milliseconds between tries, then twice as long each time
const LONGEST = 5_000;

const bar = document.querySelector("[data-trouble]");
const dialog = document.getElementById("sign-in-again");
const troubles = new Map(); // who tells it → its trouble

/**
 * Shows what is wrong, until `settled(source)`.
 * @param {object} source who tells it: it has one trouble at a time
 * @param {{what?: string, why: string, more?: string, signIn?: boolean, link?: {text: string, href: string}}} trouble
 *   `what` is not saved yet, as "3 labels"; `why` and what `more` there is to know, in sentences
 */
export function tell(source, trouble) {
  troubles.set(source, trouble);
  show();
}

/** @param {object} source */
export function settled(source) {
  if (troubles.delete(source)) show();
}

function show() {
  const told = [...troubles.values()];
  // The same reason once: with what is not saved for it, if anything.
  const rows = told.filter(({ what, why }, place) => {
    return what || !told.some((other, at) => other.why === why && (other.what || at < place));
  });
  // What stays the same stays in place: a screen reader reads aloud what is new.
  while (bar.children.length > rows.length) bar.lastElementChild.remove();
  rows.forEach(({ what, why, more, signIn: ended, link }, place) => {
    const row = bar.children[place] ?? bar.appendChild(emptyRow());
    const [text, button, anchor] = row.children;
    const tries = !ended && !link;
    const rest = more || (tries && !what ? "This page tries again by itself." : "");
    put(text.firstElementChild, what ? `${what} not saved yet${tries ? "; trying again" : ""}.` : "");
    put(text.lastElementChild, `${why} ${rest}`.trim());
    button.hidden = !ended || !dialog;
    anchor.hidden = !link;
    if (link) [anchor.textContent, anchor.href] = [link.text, link.href];
  });
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function emptyRow() {
  return html(
    "div",
    {},
    html("p", {}, html("strong"), " ", html("span")),
    html("button", { type: "button", onclick: () => dialog.showModal() }, "Sign in"),
    html("a", { class: "button" }),
  );
}

const form = dialog?.querySelector("form");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = dialog.querySelector("[role=alert]");
  problem.hidden = true;
  try {
    await signIn(form.elements.password.value);
    form.reset();
    dialog.close();
    document.dispatchEvent(new Event("signed-in"));
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
    form.elements.password.select();
  }
});
dialog?.querySelector("[data-close]").addEventListener("click", () => dialog.close());

const held = new Set();
const ask = (event) => event.preventDefault();

/**
 * Whether the browser asks before this page is left: something is unsent.
 * @param {object} source
 * @param {boolean} unsent
 */
export function hold(source, unsent) {
  if (unsent) held.add(source);
  else held.delete(source);
  // Only while it is needed: a page that listens is not kept for the way back.
  if (held.size) addEventListener("beforeunload", ask);
  else removeEventListener("beforeunload", ask);
}

/** Whether something is unsent. */
export const holding = () => held.size > 0;

/** @param {ApiError} error @returns {boolean} */
export const mayPass = (error) => error instanceof ApiError && (error.passes || error.signedOut);

/**
 * Does the work until the service has answered it, one way or the other. It must be safe to repeat.
 * @template T
 * @param {() => Promise<T>} work
 * @param {string} what is not saved as long as there is no answer; "" where nothing is to be saved
 * @param {(error: ApiError) => boolean} waits whether to try again after this
 * @returns {Promise<T>}
 */
export async function insist(work, what = "", waits = mayPass) {
  const source = {};
  hold(source, Boolean(what));
  try {
    for (let pause = FIRST; ; pause = Math.min(2 * pause, LONGEST)) {
      try {
        return await work();
      } catch (error) {
        if (!waits(error)) throw error;
        const more = what && "Leave this page open.";
        tell(source, { what, why: explain(error), more, signIn: error.signedOut });
        await patience(Math.max(pause, 1000 * error.wait));
      }
    }
  } finally {
    hold(source, false);
    settled(source);
  }
}

/** What happened, in sentences. @param {ApiError} error */
export function explain(error) {
  const said = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  const sentence = said.replace(/[.!?]?$/, ".");
  if (error.signedOut) return `${sentence} Sign in again, and it goes on here; nothing is lost.`;
  return error.status === 403 ? `${sentence} An administrator can change that.` : sentence;
}

// Less, where something may have changed meanwhile.
function patience(milliseconds) {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      removeEventListener("online", wake);
      document.removeEventListener("signed-in", wake);
      resolve();
    };
    const timer = setTimeout(wake, milliseconds * (0.75 + Math.random() / 2));
    addEventListener("online", wake);
    document.addEventListener("signed-in", wake);
  });
}
