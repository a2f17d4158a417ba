/**
 * Where the journal's entries lie: IndexedDB, or memory where the browser refuses it.
 * An entry and the answer to it change places in one transaction.
 */

/** @import { Answered, Entry } from "./journal.js" */

const NAME = "visionloop-journal";
const ANSWERS_KEPT = 7 * 86_400_000; // milliseconds; only unsent events refer to answers

/**
 * @typedef {object} Shelf
 * @property {boolean} durable whether it survives the page
 * @property {() => Promise<Entry[]>} entries in the order they were added
 * @property {(entry: Entry) => Promise<number>} add gives its order
 * @property {(entry: Entry) => Promise<void>} put
 * @property {(entry: Entry) => Promise<void>} remove
 * @property {(entry: Entry, answered: Answered) => Promise<void>} settle
 * @property {() => Promise<Answered[]>} answers
 * @property {(event_id: string) => Promise<Answered | undefined>} answer
 */

/** @returns {Promise<Shelf>} */
export async function openShelf() {
  try {
    const shelf = new IndexedShelf(await opened());
    await shelf.forget(Date.now() - ANSWERS_KEPT);
    return shelf;
  } catch (error) {
    console.warn("IndexedDB cannot be used; unsent labels live in memory only", error);
    return new MemoryShelf();
  }
}

/** @returns {Promise<IDBDatabase>} */
function opened() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("entries", { keyPath: "order", autoIncrement: true });
    request.result.createObjectStore("answers", { keyPath: "event_id" });
  };
  return result(request);
}

/** @implements {Shelf} */
class IndexedShelf {
  durable = true;

  /** @param {IDBDatabase} database */
  constructor(database) {
    this.database = database;
  }

  /** @returns {Promise<Entry[]>} */
  entries() {
    return this.#within("readonly", (store) => result(store("entries").getAll()));
  }

  /** @param {Entry} entry @returns {Promise<number>} */
  add(entry) {
    const { order: _, ...plain } = entry;
    return this.#within("readwrite", async (store) =>
      Number(await result(store("entries").add(plain))),
    );
  }

  /** @param {Entry} entry @returns {Promise<void>} */
  put(entry) {
    return this.#within("readwrite", async (store) => void store("entries").put({ ...entry }));
  }

  /** @param {Entry} entry @returns {Promise<void>} */
  remove(entry) {
    if (entry.order === undefined) return Promise.resolve();
    const order = entry.order;
    return this.#within("readwrite", async (store) => void store("entries").delete(order));
  }

  /** @param {Entry} entry @param {Answered} answered @returns {Promise<void>} */
  settle(entry, answered) {
    return this.#within("readwrite", async (store) => {
      store("answers").put(answered);
      if (entry.order !== undefined) store("entries").delete(entry.order);
    });
  }

  /** @returns {Promise<Answered[]>} */
  answers() {
    return this.#within("readonly", (store) => result(store("answers").getAll()));
  }

  /** @param {string} event_id @returns {Promise<Answered | undefined>} */
  answer(event_id) {
    return this.#within("readonly", (store) => result(store("answers").get(event_id)));
  }

  /** @param {number} before milliseconds since 1970 */
  async forget(before) {
    for (const one of await this.answers()) {
      if (one.at >= before) continue;
      await this.#within("readwrite", async (store) => void store("answers").delete(one.event_id));
    }
  }

  /**
   * Resolves when the transaction is committed.
   * @template T
   * @param {IDBTransactionMode} mode
   * @param {(store: (name: string) => IDBObjectStore) => Promise<T>} work
   * @returns {Promise<T>}
   */
  async #within(mode, work) {
    const transaction = this.database.transaction(["entries", "answers"], mode);
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(undefined);
      transaction.onabort = () => reject(transaction.error);
    });
    const [found] = await Promise.all([work((name) => transaction.objectStore(name)), done]);
    return found;
  }
}

/** @implements {Shelf} */
export class MemoryShelf {
  durable = false;
  last = 0;
  /** @type {Map<number, Entry>} */
  kept = new Map();
  /** @type {Map<string, Answered>} */
  known = new Map();

  async entries() {
    return [...this.kept.values()];
  }

  /** @param {Entry} entry */
  async add(entry) {
    this.last += 1;
    this.kept.set(this.last, entry);
    return this.last;
  }

  async put() {}

  /** @param {Entry} entry */
  async remove(entry) {
    this.kept.delete(entry.order ?? 0);
  }

  /** @param {Entry} entry @param {Answered} answered */
  async settle(entry, answered) {
    this.known.set(answered.event_id, answered);
    await this.remove(entry);
  }

  async answers() {
    return [...this.known.values()];
  }

  /** @param {string} event_id */
  async answer(event_id) {
    return this.known.get(event_id);
  }
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
