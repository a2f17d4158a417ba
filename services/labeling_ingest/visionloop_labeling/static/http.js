// Calls of our own API: JSON in and out, errors as one kind of exception, in words for people.
//
// A session may end while a page is open, and be begun again beside it. So the page's token is not a
// constant: what is refused because it is an old one is sent again with the new one, as long as the
// same person is signed in. Nothing is ever sent in somebody else's name.

export const PATIENCE = 20_000; // milliseconds; what takes longer is asked again, where that is safe
const UNREADABLE = "Something between this page and the service answered in its place.";

export class ApiError extends Error {
  // `status` is 0 where no answer came, or none of the service's. `body` is the answer's JSON:
  // {reason, message, field, …}. `wait`: seconds that the service asks to be left alone.
  constructor(status, body, wait = 0) {
    super(body.message || (status ? `The service failed (${status}).` : "The service does not answer."));
    this.status = status;
    this.reason = body.reason || "unreachable";
    this.body = body;
    this.wait = wait;
  }

  // Whether the same request may succeed later.
  get passes() {
    return [0, 408, 425, 429].includes(this.status) || this.status >= 500;
  }

  // Whether it waits for the page's person to sign in again.
  get signedOut() {
    return this.reason === "signed_out";
  }
}

const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content ?? "";

// Whose page this is.
export const person = meta("person");
let token = meta("csrf");

// What a request says beside its content.
export const ownHeaders = () => (token ? { "X-CSRF-Token": token } : {});

/**
 * @param {string} method
 * @param {string} path
 * @param {object} [body]
 * @param {{patience?: number, keepalive?: boolean, headers?: Record<string, string>}} [options]
 * @returns {Promise<any>}
 */
export async function call(method, path, body, options = {}) {
  const used = token;
  try {
    return await ask(method, path, body, options);
  } catch (error) {
    if (![401, 403].includes(error.status)) throw error;
    await checkSession();
    if (token === used) throw error;
    return ask(method, path, body, options);
  }
}

async function ask(method, path, body, { headers = {}, patience, ...options }) {
  if (patience) options.signal = AbortSignal.timeout(patience);
  const init = { ...options, method, headers: { Accept: "application/json", ...headers } };
  if (method !== "GET") Object.assign(init.headers, ownHeaders());
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["Content-Type"] = "application/json";
  }
  let answer;
  let text;
  try {
    answer = await fetch(path, init);
    text = await answer.text(); // may break off as well
  } catch {
    throw new ApiError(0, {});
  }
  const value = parsed(text);
  // A page of a proxy is no verdict of the service, unless it is about the request's size or time.
  const verdict = value?.reason || answer.status >= 500 || [408, 413, 425, 429].includes(answer.status);
  if (!answer.ok && !verdict) throw new ApiError(0, { message: UNREADABLE });
  if (!answer.ok) throw new ApiError(answer.status, value ?? {}, seconds(answer.headers.get("Retry-After")));
  if (value === undefined) throw new ApiError(0, { message: UNREADABLE });
  return value;
}

// null for nothing, undefined for what is no JSON.
function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return undefined;
  }
}

const seconds = (header) => Math.min(Number(header) || 0, 60);

/**
 * Asks who is signed in, and takes over the token of a person who has signed in again since. Throws
 * an ApiError that is `signedOut` where it is not this page's person, one that `passes` where nobody
 * can tell now.
 * @returns {Promise<void>}
 */
export async function checkSession() {
  const session = await ask("GET", "/v1/session", undefined, { patience: PATIENCE }).catch((error) => error);
  if (session.status === 401) throw new ApiError(401, { reason: "signed_out", message: "You are signed out." });
  if (session.passes) throw session;
  if (session instanceof Error) return; // whatever it is, it is not the session
  if (session.name !== person) {
    const message = `${session.name} is signed in here now, and this page is that of ${person}.`;
    throw new ApiError(401, { reason: "signed_out", message });
  }
  token = session.csrf;
}

// Signs the page's person in again.
export async function signIn(password) {
  const session = await ask("POST", "/v1/session", { name: person, password }, {});
  token = session.csrf;
}

// A UUID, also where the page is served without TLS and `crypto.randomUUID` is not there.
/** @returns {string} */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body, options) => call("POST", path, body, options);

// A short message at the foot of the page, also for screen readers.
export function say(text, kind = "") {
  const place = document.querySelector("[data-toasts]");
  const toast = document.createElement("p");
  toast.className = `toast ${kind}`;
  toast.textContent = text;
  place.append(toast);
  setTimeout(() => toast.remove(), kind === "bad" ? 9000 : 4000);
}
