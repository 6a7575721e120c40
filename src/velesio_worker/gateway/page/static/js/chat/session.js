// The chat of one tab: which conversation is open, what is said in it, and the runs that this tab knows of.

import { begunAgain, failed, newAnswer } from "./answer.js";
import { jobOf, titleOf } from "./request.js";
import { Run } from "./run.js";
import { newId } from "./store.js";

const OPEN = "velesio.chat.open";
/** So many milliseconds a question may take to be sent. */
const SENDING = 20_000;

const fresh = (settings = {}) => ({
  id: newId(),
  title: "New chat",
  created: Date.now(),
  updated: Date.now(),
  sampling: {},
  draft: true,
  ...settings,
});

/** Conversations, the open one with its messages, and what can be done with them. */
export class Session {
  #listeners = new Set();
  #loading = 0;
  /** Answers that are about to be removed: nobody follows them any more. */
  #dropped = new Set();

  /** @param {{api: object, store: import("./store.js").Store, announce: (text: string) => void}} parts */
  constructor(parts) {
    this.parts = parts;
    this.store = parts.store;
    this.conversations = [];
    this.conversation = fresh();
    this.messages = [];
    /** @type {Map<string, Run>} by the answer's id */
    this.runs = new Map();
    this.store.subscribe((news) => this.#hear(news));
  }

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #changed() {
    for (const listener of [...this.#listeners]) listener();
  }

  /** The run of the open conversation, if one goes on. */
  get run() {
    const last = this.messages.at(-1);
    return last && this.runs.get(last.id);
  }

  /** Whether an answer is being asked for or written. */
  get busy() {
    return this.messages.at(-1)?.state === "running";
  }

  /** Open what was open before a reload, or else what was used last. */
  async begin() {
    this.conversations = await this.store.conversations();
    const known = sessionStorage.getItem(OPEN);
    const found =
      this.conversations.find(({ id }) => id === known) ?? (known === "new" ? undefined : this.conversations[0]);
    if (found) await this.open(found.id);
    else this.#changed();
  }

  /** Begin another conversation, with the model of this one. */
  create() {
    this.#loading += 1;
    this.conversation = fresh({ model: this.conversation.model });
    this.messages = [];
    sessionStorage.setItem(OPEN, "new");
    this.#changed();
  }

  async open(id) {
    const turn = ++this.#loading;
    const [conversation, messages] = await Promise.all([this.store.conversation(id), this.store.messages(id)]);
    if (turn !== this.#loading || conversation === undefined) return;
    sessionStorage.setItem(OPEN, id);
    this.conversation = conversation;
    this.messages = this.#withRuns(messages);
    this.#changed();
  }

  /** Messages as they are kept, but for answers that this tab sees grow. */
  #withRuns(messages) {
    return messages.map((message) => {
      const run = this.runs.get(message.id);
      if (message.state !== "running") return message;
      if (run) return run.answer;
      if (this.#dropped.has(message.id)) return message;
      if (message.run) return this.#follow(message).answer;
      this.#sendingSince(message);
      return message;
    });
  }

  /** Some tab is sending it at this moment, or was when it was closed: then nobody is, which shows after a while. */
  #sendingSince(message) {
    const left = message.asked + SENDING - Date.now();
    if (left < 0) failed(message, { code: "unsent", message: "The question was not sent." });
    else setTimeout(() => this.#refresh(message.conversation), left + 50);
  }

  #follow(answer) {
    const run = new Run(this.parts, answer);
    this.runs.set(answer.id, run);
    run.follow().then(
      () => this.#ended(answer),
      (error) => {
        // It is shown as far as it came, but not read again: what failed once would fail for ever.
        this.runs.delete(answer.id);
        console.warn("An answer could not be kept.", error);
        this.#changed();
      },
    );
    return run;
  }

  #ended(answer) {
    this.runs.delete(answer.id);
    return this.#refresh(answer.conversation);
  }

  async #hear(news) {
    if (news.kind === "messages") await this.#refresh(news.conversation);
    if (news.kind !== "conversations") return;
    this.conversations = await this.store.conversations();
    const mine = this.conversations.find(({ id }) => id === this.conversation.id);
    // What this tab has changed since is newer than what it reads of its own.
    if (mine) this.conversation = news.own ? { ...this.conversation, title: mine.title } : mine;
    if (news.removed?.includes(this.conversation.id)) this.create();
    this.#changed();
  }

  async #refresh(id) {
    if (id !== this.conversation.id) return;
    const messages = await this.store.messages(id);
    if (id !== this.conversation.id) return;
    this.messages = this.#withRuns(messages);
    this.#changed();
  }

  /** Change settings of the open conversation. */
  async set(changes) {
    this.conversation = { ...this.conversation, ...changes };
    this.#changed();
    if (!this.conversation.draft) await this.store.saveConversation(this.conversation);
  }

  async rename(id, title) {
    const conversation = await this.store.conversation(id);
    if (conversation && title.trim()) await this.store.saveConversation({ ...conversation, title: title.trim() });
  }

  /** Ask something, at the end of the open conversation. */
  async send(content, images = []) {
    await this.#ask(this.messages.length, [{ role: "user", content, images }]);
  }

  /** Ask something else in place of a question; what came after it goes. */
  async edit(message, content) {
    await this.#ask(this.#placeOf(message), [{ role: "user", content, images: message.images ?? [] }]);
  }

  /** Have another answer in place of one. */
  async regenerate(message) {
    await this.#ask(this.#placeOf(message), []);
  }

  /** Have an answer go on where it ends. */
  async goOn(message) {
    const place = this.#placeOf(message);
    const answer = begunAgain(message, this.conversation.model);
    await this.#submit(answer, [...this.messages.slice(0, place), answer], place);
  }

  #placeOf(message) {
    return this.messages.findIndex(({ id }) => id === message.id);
  }

  async #ask(place, questions) {
    if (this.busy && place >= this.messages.length) return;
    const { id } = this.conversation;
    const asked = questions.map((question, n) => ({ id: newId(), conversation: id, at: place + n, ...question }));
    if (this.conversation.draft) {
      const { draft, ...kept } = this.conversation;
      this.conversation = { ...kept, title: titleOf(asked[0].content) };
      sessionStorage.setItem(OPEN, id);
    }
    const before = [...this.messages.slice(0, place), ...asked];
    const answer = newAnswer(newId(), id, before.length, this.conversation.model);
    await this.#submit(answer, before, place, asked);
  }

  async #submit(answer, said, place, asked = []) {
    const { conversation } = this;
    for (const old of this.messages.slice(place)) this.#drop(old);
    this.messages = [...this.messages.slice(0, place), ...asked, answer];
    this.#changed();
    await this.store.saveConversation({ ...conversation, updated: Date.now() });
    await this.store.replaceFrom(conversation.id, place, [...asked, answer]);
    try {
      const { id } = await this.parts.api.submit(jobOf(conversation, said));
      answer.run = { id, after: "0-0" };
      answer.phase = "waiting";
      await this.store.updateMessage(answer);
      this.#follow(answer);
    } catch (error) {
      failed(answer, { code: error.code, message: error.message });
      await this.store.updateMessage(answer);
      this.parts.announce("The question could not be sent.");
    }
    this.store.tell({ kind: "messages", conversation: conversation.id }, { here: true });
  }

  #drop(message) {
    const run = this.runs.get(message.id);
    if (run === undefined) return;
    this.#dropped.add(message.id);
    run.leave();
    this.parts.api.cancel(run.job).catch(() => {}); // nobody will see it
  }

  stop() {
    return this.run?.stop();
  }

  /** Remove conversations; what is being written for them is stopped. */
  async remove(ids) {
    for (const run of this.runs.values()) if (ids.includes(run.answer.conversation)) this.#drop(run.answer);
    await this.store.remove(ids);
  }

  /** Conversations with their messages, for a file. */
  async entries(ids) {
    const found = await Promise.all(
      ids.map(async (id) => ({
        conversation: await this.store.conversation(id),
        messages: await this.store.messages(id),
      })),
    );
    return found.filter(({ conversation }) => conversation !== undefined);
  }
}
