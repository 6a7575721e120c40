// The run of one answer: from its job's stream, or from the tab that follows it, to whoever shows it.

import { apply, completed, failed, wordsIn } from "./answer.js";
import { leading } from "./lead.js";
import { Pace } from "./pace.js";

const KEEP_EVERY = 1000;
const LONG = 100_000;
const ASK_EVERY = 1000;
/** What a gateway knows of the lists is up to a second old: before that it says nothing of a job that has just come. */
const KNOWN_AFTER = 1500;

/** An answer while it is being written. Exactly one tab leads it; the others are told by that one. */
export class Run {
  #api;
  #store;
  #announce;
  #aborted = new AbortController();
  #listeners = new Set();
  #pace = new Pace(() => this.#paint());
  #told = { content: 0, reasoning: 0, version: 0, after: "0" };
  #leads = false;
  #cancelled = false;
  /** Whether the stream was refused for want of a token: then it is read on once there is one. */
  #locked = false;
  #keptAt = 0;
  #keeping = Promise.resolve();
  #unsubscribe;
  #announced = false;

  /** @param {{api: object, store: import("./store.js").Store, announce: (text: string) => void}} parts */
  constructor({ api, store, announce }, answer) {
    this.#api = api;
    this.#store = store;
    this.#announce = announce;
    this.answer = answer;
    this.connected = true;
    this.locked = false;
    this.stopping = false;
  }

  get job() {
    return this.answer.run.id;
  }

  /** Call `listener` at most every 50 ms while the answer changes, and once when it has ended. */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Follow the job until it has ended, or until `leave`. */
  async follow() {
    this.#unsubscribe = this.#store.subscribe((news) => this.#hear(news));
    this.#store.tell({ kind: "run-state?", job: this.job });
    try {
      do {
        await leading(`velesio-run-${this.job}`, this.#aborted.signal, () => this.#lead());
      } while (await this.#unlocked());
    } finally {
      this.#unsubscribe();
      this.#paint();
    }
  }

  /** Wait for a token, if the lack of one is all that keeps this tab from reading on; another tab may lead meanwhile. */
  async #unlocked() {
    const { signal } = this.#aborted;
    if (!this.#locked || signal.aborted) return false;
    await new Promise((resolve) => {
      this.#api.token.given().then(resolve);
      signal.addEventListener("abort", resolve, { once: true });
    });
    this.#locked = false;
    return !signal.aborted;
  }

  /** Follow no longer; the job goes on. */
  leave() {
    this.#aborted.abort();
  }

  /** Have the job stopped. What waits in line has nobody yet who would end it, and counts as stopped at once. */
  async stop() {
    if (this.stopping) return;
    this.stopping = true;
    this.#paint();
    try {
      await this.#api.cancel(this.job);
    } catch (error) {
      if (error.status !== 404) {
        this.stopping = false;
        this.#announce("The answer could not be stopped.");
        this.#paint();
        return;
      }
    }
    this.#cancelled = true;
    if (this.answer.worker === undefined) {
      this.#store.tell({ kind: "run-stopped", job: this.job }, { here: true });
    }
  }

  async #lead() {
    if (this.answer.state !== "running") return;
    const kept = await this.#store.message(this.answer.id);
    if (kept === undefined || kept.state !== "running") {
      if (kept !== undefined) this.#take(kept);
      return;
    }
    this.#leads = true;
    this.#told.content = -1; // the others are told all of it once
    if (this.answer.worker === undefined) this.answer.phase = "waiting";
    const line = setInterval(() => this.#askForPlace(), ASK_EVERY);
    try {
      if (this.#cancelled) this.#stopped(); // before this tab led
      await this.#read();
    } finally {
      clearInterval(line);
      const goesOn = this.#aborted.signal.aborted || this.#locked;
      if (!goesOn || this.answer.state !== "running") await this.#close();
      this.#leads = false;
    }
  }

  async #read() {
    const { signal } = this.#aborted;
    if (signal.aborted) return;
    const options = { after: this.answer.run.after, signal, onConnection: (on) => this.#connection(on) };
    try {
      for await (const entry of this.#api.events(this.job, options)) {
        const over = apply(this.answer, entry);
        this.#changed();
        if (over || this.answer.state !== "running") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401) this.#lock();
      else await this.#complete(error);
    }
  }

  #lock() {
    this.#locked = true;
    this.#keep();
    this.#connection("locked");
  }

  /** The stream cannot be had (any more); the result may be there still. */
  async #complete(error) {
    try {
      const shown = await this.#api.show(this.job);
      if (shown.result) completed(this.answer, shown.result);
      else failed(this.answer, { code: "gone", message: "The rest of this answer is not kept any more." });
    } catch (refused) {
      if (refused.status === 401) {
        this.#lock();
        return;
      }
      const gone = error.status === 404;
      const message = gone ? "The rest of this answer is not kept any more." : error.message;
      failed(this.answer, { code: gone ? "gone" : (error.code ?? "lost"), message });
    }
  }

  #connection(state) {
    this.connected = state === "live";
    this.locked = state === "locked";
    this.#pace.ask();
  }

  async #askForPlace() {
    if (this.answer.worker !== undefined || this.answer.phase !== "waiting" || !this.connected) return;
    if (Date.now() - this.answer.asked < KNOWN_AFTER) return;
    try {
      const { state, queue } = await this.#api.show(this.job);
      if (state !== "waiting" || queue === undefined || this.answer.phase !== "waiting") return;
      const there = (queue.incoming?.jobs ?? 0) + (queue.text?.jobs ?? 0);
      // The lists hold this job, too, and those that came behind it: the place can only become better.
      this.answer.ahead = Math.min(this.answer.ahead ?? Infinity, Math.max(0, there - 1));
      this.#changed();
    } catch {
      // what follows the stream tells of a connection that is lost
    }
  }

  #changed() {
    const now = performance.now();
    if (document.hidden) this.#tell();
    if (now - this.#keptAt > (this.answer.content.length > LONG ? 5 * KEEP_EVERY : KEEP_EVERY)) {
      this.#keptAt = now;
      this.#keep();
    }
    this.#pace.ask();
  }

  #keep() {
    this.#keeping = this.#store.updateMessage(this.answer).then(
      (there) => there || this.leave(),
      (error) => console.warn("The answer could not be kept.", error),
    );
  }

  #paint() {
    if (this.#leads) this.#tell();
    if (!this.#announced && this.answer.phase === "writing") {
      this.#announced = true;
      this.#announce("Answer begins.");
    }
    for (const listener of [...this.#listeners]) listener();
  }

  /** Tell the other tabs what has come since they were told last. */
  #tell() {
    if (!this.#leads) return;
    const { content, reasoning, ...rest } = this.answer;
    const told = this.#told;
    const version = rest.version ?? 0;
    const anew = told.content < 0 || told.version !== version;
    if (anew) this.#told.content = this.#told.reasoning = 0;
    const news = {
      kind: "run-piece",
      job: this.job,
      connected: this.connected,
      anew,
      rest,
      from: { content: told.content, reasoning: told.reasoning },
      content: content.slice(told.content),
      reasoning: reasoning.slice(told.reasoning),
    };
    this.#told = { content: content.length, reasoning: reasoning.length, version };
    this.#store.tell(news);
  }

  #hear(news) {
    if (news.kind === "conversations" && news.removed?.includes(this.answer.conversation)) this.#forgotten();
    if (news.job !== this.job) return;
    if (news.kind === "run-state?" && this.#leads) {
      this.#told.content = -1;
      this.#tell();
    }
    if (news.kind === "run-stopped") this.#stopped();
    if (news.kind === "run-piece" && !this.#leads) this.#takePiece(news);
    if (news.kind === "run-end" && !this.#leads) this.#take(news.answer);
  }

  /** The conversation is deleted: nobody will read what comes. */
  #forgotten() {
    if (this.#leads && !this.#aborted.signal.aborted) this.#api.cancel(this.job).catch(() => {});
    this.leave();
  }

  #stopped() {
    if (!this.#leads || this.answer.state !== "running" || this.answer.worker !== undefined) return;
    apply(this.answer, { event: "done", data: { finish_reason: "cancelled" } });
    this.#aborted.abort();
  }

  #takePiece({ anew, from, content, reasoning, rest, connected }) {
    const answer = this.answer;
    if (!anew && (from.content !== answer.content.length || from.reasoning !== answer.reasoning.length)) {
      this.#store.tell({ kind: "run-state?", job: this.job });
      return;
    }
    const text = anew ? content : answer.content + content;
    const thoughts = anew ? reasoning : answer.reasoning + reasoning;
    Object.assign(answer, rest, { content: text, reasoning: thoughts });
    this.connected = connected;
    this.locked = false;
    this.#pace.ask();
  }

  #take(answer) {
    Object.assign(this.answer, answer);
    if (answer.state !== "running") this.leave();
    this.#pace.ask();
  }

  async #close() {
    const answer = this.answer;
    await this.#keeping;
    await this.#store.updateMessage(answer);
    this.#store.tell({ kind: "run-end", job: this.job, answer });
    if (answer.state === "stopped") this.#announce("Stopped.");
    else if (answer.state === "failed") this.#announce("The answer failed.");
    else this.#announce(`Answer complete, ${wordsIn(answer.content)} words.`);
  }
}
