// Calls of our own API: JSON in and out, errors as one kind of exception.

export class ApiError extends Error {
  // `status` is 0 where no answer came. `body` is the answer's JSON: {reason, message, field, …}.
  constructor(status, body) {
    super(body.message || "the service cannot be reached; is it running?");
    this.status = status;
    this.reason = body.reason || "unreachable";
    this.body = body;
  }
}

export const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";

/**
 * @param {string} method
 * @param {string} path
 * @param {object | FormData} [body]
 * @param {{signal?: AbortSignal, keepalive?: boolean, headers?: Record<string, string>}} [options]
 * @returns {Promise<any>}
 */
export async function call(method, path, body, { signal, keepalive, headers = {} } = {}) {
  const init = { method, signal, keepalive, headers: { Accept: "application/json", ...headers } };
  if (method !== "GET" && csrf) init.headers["X-CSRF-Token"] = csrf;
  if (body instanceof FormData) {
    init.body = body;
  } else if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, {});
  }
  const text = await answer.text();
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    value = { message: `the service answered ${answer.status} in a form not known here` };
  }
  if (!answer.ok) throw new ApiError(answer.status, value ?? {});
  return value;
}

// A UUID, also where the page is served without TLS.
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
