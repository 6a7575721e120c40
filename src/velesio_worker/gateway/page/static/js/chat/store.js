// What the browser keeps: conversations and their messages, in IndexedDB, and what other tabs are told of changes.

const NAME = "velesio-chat";
const VERSION = 1;

/**
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {number} created in milliseconds since 1970
 * @property {number} updated
 * @property {string} [model]
 * @property {string} [system] the system prompt
 * @property {object} [sampling] parameters that were set, as the protocol names them
 *
 * @typedef {object} Message
 * @property {string} id
 * @property {string} conversation
 * @property {number} at its place in the conversation
 * @property {"user" | "assistant"} role
 * @property {string} content
 * @property {string[]} [images] data URIs
 * @property {"done" | "running" | "stopped" | "failed"} [state] of an answer
 */

/** A random id; `crypto.randomUUID` is missing where the page is served without TLS. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const finished = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });

function upgrade(database) {
  database.createObjectStore("conversations", { keyPath: "id" });
  database.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
}

/** Conversations and messages; tells its subscribers, in every tab, of what has changed. */
export class Store {
  #database;
  #channel = new BroadcastChannel(NAME);
  #listeners = new Set();

  constructor(database) {
    this.#database = database;
    this.#channel.onmessage = ({ data }) => this.#hand(data);
  }

  /** Open the browser's store. @returns {Promise<Store>} */
  static async open() {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => upgrade(request.result);
    const database = await settled(request);
    database.onversionchange = () => database.close();
    return new Store(database);
  }

  /** Call `listener` with what is told of changes and runs, by this tab (`own` is true) and others. */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tell all other tabs, and with `here` this one too. */
  tell(news, { here = false } = {}) {
    this.#channel.postMessage(news);
    if (here) this.#hand({ ...news, own: true });
  }

  #hand(news) {
    for (const listener of [...this.#listeners]) listener(news);
  }

  #of(name, mode = "readonly") {
    return this.#database.transaction(name, mode).objectStore(name);
  }

  /** All conversations, the one that was used last first. @returns {Promise<Conversation[]>} */
  async conversations() {
    const found = await settled(this.#of("conversations").getAll());
    return found.sort((one, other) => other.updated - one.updated);
  }

  /** @returns {Promise<Conversation | undefined>} */
  conversation(id) {
    return settled(this.#of("conversations").get(id));
  }

  /** The messages of a conversation, in order. @returns {Promise<Message[]>} */
  async messages(conversation) {
    const found = await settled(this.#of("messages").index("conversation").getAll(conversation));
    return found.sort((one, other) => one.at - other.at);
  }

  /** @returns {Promise<Message | undefined>} */
  message(id) {
    return settled(this.#of("messages").get(id));
  }

  async saveConversation(conversation) {
    await settled(this.#of("conversations", "readwrite").put(conversation));
    this.tell({ kind: "conversations" }, { here: true });
  }

  /** Keep messages. With `quiet` nobody is told: an answer that grows is told of piece by piece. */
  async saveMessages(messages, { quiet = false } = {}) {
    const transaction = this.#database.transaction("messages", "readwrite");
    for (const message of messages) transaction.objectStore("messages").put(message);
    await finished(transaction);
    if (!quiet) this.#changed(messages[0].conversation);
  }

  /** Keep an answer that grows, unless somebody has removed it meanwhile. @returns {Promise<boolean>} */
  async updateMessage(message) {
    const transaction = this.#database.transaction("messages", "readwrite");
    const messages = transaction.objectStore("messages");
    const there = await settled(messages.getKey(message.id));
    if (there !== undefined) messages.put(message);
    await finished(transaction);
    return there !== undefined;
  }

  /** Replace what comes from place `from` on by these messages, in one step. */
  async replaceFrom(conversation, from, messages) {
    const old = (await this.messages(conversation)).filter((message) => message.at >= from);
    const transaction = this.#database.transaction("messages", "readwrite");
    for (const message of old) transaction.objectStore("messages").delete(message.id);
    for (const message of messages) transaction.objectStore("messages").put(message);
    await finished(transaction);
    this.#changed(conversation);
  }

  #changed(conversation) {
    this.tell({ kind: "messages", conversation }, { here: true });
  }

  /** Remove conversations with all that was said in them. */
  async remove(ids) {
    const messages = (await Promise.all(ids.map((id) => this.messages(id)))).flat();
    const transaction = this.#database.transaction(["conversations", "messages"], "readwrite");
    for (const id of ids) transaction.objectStore("conversations").delete(id);
    for (const message of messages) transaction.objectStore("messages").delete(message.id);
    await finished(transaction);
    this.tell({ kind: "conversations", removed: ids }, { here: true });
  }

  /** Add whole conversations. */
  async add(conversations, messages) {
    const transaction = this.#database.transaction(["conversations", "messages"], "readwrite");
    for (const one of conversations) transaction.objectStore("conversations").put(one);
    for (const one of messages) transaction.objectStore("messages").put(one);
    await finished(transaction);
    this.tell({ kind: "conversations" }, { here: true });
  }
}
