// Where images are kept: an object store of the browser's database, or memory where there is none.

const NAME = "velesio-images";
const STORE = "jobs";

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds the database"));
  });
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Records by their id; other tabs are told of every change. */
export class Shelf {
  #database = null;
  #memory = new Map();
  #channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel(NAME);

  /** @param {(id: string) => void} onElsewhere called when another tab changed a record. */
  constructor(onElsewhere) {
    if (this.#channel) {
      this.#channel.onmessage = ({ data }) => onElsewhere(data);
    }
  }

  /** All records, in no order. */
  async all() {
    this.#database ??= opened().catch(() => null); // a private window, for example
    const objects = await this.#objects("readonly");
    return objects ? done(objects.getAll()) : [...this.#memory.values()];
  }

  /** The record of this id; undefined where there is none. */
  async get(id) {
    const objects = await this.#objects("readonly");
    return objects ? done(objects.get(id)) : this.#memory.get(id);
  }

  /** Keeps a record. Throws where there is no room. */
  async put(record) {
    const objects = await this.#objects("readwrite");
    if (objects) {
      await done(objects.put(record));
    } else {
      this.#memory.set(record.id, record);
    }
    this.#channel?.postMessage(record.id);
  }

  /** Forgets a record. */
  async remove(id) {
    const objects = await this.#objects("readwrite");
    if (objects) {
      await done(objects.delete(id));
    }
    this.#memory.delete(id);
    this.#channel?.postMessage(id);
  }

  /** Ends: what another tab does is not told any more. */
  close() {
    this.#channel?.close();
  }

  async #objects(mode) {
    const database = await this.#database;
    return database?.transaction(STORE, mode).objectStore(STORE);
  }
}
