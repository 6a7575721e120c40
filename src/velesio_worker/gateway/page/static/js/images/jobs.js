// Image jobs from their submission to their pictures. What is kept is enough to go on after a reload.
import { ApiError } from "../api.js";
import { hasEnded, newJob, ofResult } from "./record.js";
import { Shelf } from "./store.js";
import { alone } from "./turns.js";

/** All image jobs of this browser, newest first. */
export class ImageJobs {
  /** @type {ImageJob[]} */
  list = [];
  /** Previews of images that are being made, by job: they are not kept. @type {Map<string, Blob>} */
  previews = new Map();
  /** Whether the connection to a job's stream is lost just now, by job. @type {Set<string>} */
  lost = new Set();

  #api;
  #changed;
  #announce;
  #shelf;
  #ends = new AbortController();
  #followed = new Set(); // those that this tab sees to, or will
  #watched = new Map(); // those whose stream it reads, with what ends that
  #removed = new Set();
  #looking = new Set();

  /**
   * @param {typeof import("../api.js").api} api
   * @param {{onChange: () => void, announce: (text: string) => void}} told
   */
  constructor(api, { onChange, announce }) {
    this.#api = api;
    this.#changed = onChange;
    this.#announce = announce;
    this.#shelf = new Shelf((id) => this.#reread(id));
  }

  /** Reads what is kept, and goes on with what had not ended. */
  async open() {
    const kept = await this.#shelf.all();
    this.list = kept.sort((one, other) => other.created - one.created);
    this.#changed();
    this.resume();
  }

  /** Goes on with what nobody follows, such as what was left for want of a token. */
  resume() {
    for (const job of this.list.toReversed()) {
      if (!hasEnded(job)) {
        this.#follow(job.id);
      }
    }
  }

  /** Lets go of all streams; the jobs go on. */
  close() {
    this.#ends.abort();
    this.#shelf.close();
  }

  /**
   * Submits a job. Throws ApiError.
   * @param {"txt2img" | "img2img"} type
   * @param {object} data
   * @returns {Promise<string>} its id.
   */
  async submit(type, data) {
    const { id } = await this.#api.submit({ type, data });
    const job = newJob(id, type, data);
    this.list = [job, ...this.list];
    this.#changed();
    this.#follow(id); // before others hear of it, so that whoever asked for it follows it
    await this.#keep(job);
    return id;
  }

  /** Has a job stopped. One that waits in line has nobody yet who would end it, and counts as stopped at once. */
  async stop(id) {
    const before = this.#job(id)?.state;
    this.#update(id, { state: "stopping" });
    try {
      await this.#api.cancel(id);
    } catch (error) {
      if (error.status !== 404) {
        this.#update(id, { state: before, note: error.message });
        return;
      }
    }
    if (before === "waiting" && this.#job(id)?.state === "stopping") {
      this.#update(id, { state: "stopped" });
      this.#announce("Stopped");
      this.#watched.get(id)?.abort();
    }
  }

  /** Forgets jobs, with their images. */
  async remove(...ids) {
    ids.forEach((id) => this.#removed.add(id));
    this.list = this.list.filter(({ id }) => !this.#removed.has(id));
    this.#changed();
    await Promise.all(ids.map((id) => this.#shelf.remove(id)));
  }

  /** Forgets one image of a job, and the job with its last one. */
  async removeImage(id, number) {
    const job = this.#job(id);
    if (!job || job.images.length < 2) {
      await this.remove(id);
      return;
    }
    const others = (list) => list.filter((_, index) => index !== number);
    this.#update(id, { images: others(job.images), seeds: others(job.seeds) });
  }

  #job(id) {
    return this.list.find((job) => job.id === id);
  }

  #update(id, change) {
    const job = this.#job(id);
    if (!job) {
      return;
    }
    const changed = { ...job, ...change };
    this.list = this.list.map((one) => (one.id === id ? changed : one));
    this.#changed();
    this.#keep(changed);
  }

  async #keep(job) {
    try {
      await this.#shelf.put(job);
    } catch {
      if (hasEnded(job) && !job.note) {
        this.list = this.list.map((one) => (one.id === job.id ? { ...one, note: "Not kept: the browser has no room." } : one));
        this.#changed();
      }
    }
  }

  /** Another tab changed a record. */
  async #reread(id) {
    const job = await this.#shelf.get(id);
    const others = this.list.filter((one) => one.id !== id);
    if (job && !this.#removed.has(id)) {
      if (this.#watched.has(id) && !hasEnded(job)) {
        if (job.state === "stopping") {
          this.list = this.list.map((one) => (one.id === id ? { ...one, state: job.state } : one)); // kept by whoever stops
          this.#changed();
        }
        return; // all else this tab sees for itself
      }
      if (job.progress?.preview) {
        this.#look(id);
      }
      this.#watched.get(id)?.abort(); // it has ended
      this.list = [...others, job].sort((one, other) => other.created - one.created);
      if (!hasEnded(job)) {
        this.#follow(id);
      }
    } else {
      this.list = others;
    }
    this.#changed();
  }

  async #follow(id) {
    if (this.#followed.has(id)) {
      return;
    }
    this.#followed.add(id);
    try {
      await alone(`velesio-image-${id}`, this.#ends.signal, () => this.#watch(id));
    } catch (error) {
      const isOver = this.#ends.signal.aborted || this.#watched.get(id)?.signal.aborted;
      if (!isOver && error.status !== 401) {
        const gone = error instanceof ApiError && error.status === 404;
        this.#fail(id, gone ? "The gateway knows nothing of this image any more." : error.message);
      }
    } finally {
      this.#followed.delete(id);
      this.#watched.delete(id);
      this.previews.delete(id);
      this.lost.delete(id);
    }
  }

  async #watch(id) {
    const job = this.#job(id);
    if (!job || hasEnded(job)) {
      return; // another tab saw to it
    }
    const line = new AbortController();
    const signal = AbortSignal.any([this.#ends.signal, line.signal]);
    this.#watched.set(id, line);
    const onConnection = (state) => {
      this.lost[state === "lost" ? "add" : "delete"](id);
      this.#changed();
    };
    if (job.progress?.preview) {
      this.#look(id);
    }
    const after = job.last;
    for await (const { id: last, event, data } of this.#api.events(id, { after, signal, onConnection })) {
      if (event === "start") {
        this.#begin(id, last, data);
      } else if (event === "progress") {
        this.#update(id, { last, progress: data });
        if (data.preview) {
          this.#look(id);
        }
      } else if (event === "done") {
        await this.#end(id, last, data);
      } else if (event === "error") {
        this.#fail(id, data.error, last);
      }
    }
  }

  #begin(id, last, { attempt, mode }) {
    const lost = attempt > 1 && mode !== "fresh";
    const state = this.#job(id)?.state === "stopping" ? "stopping" : "running";
    this.#update(id, { last, state, progress: null, note: lost ? "Its worker was lost: begun anew." : "" });
    this.previews.delete(id);
    this.#announce(lost ? "The image begins anew" : "The image begins");
  }

  async #end(id, last, { finish_reason: reason }) {
    if (reason === "cancelled") {
      this.#update(id, { last, state: "stopped", progress: null });
      this.#announce("Stopped");
      return;
    }
    const { result } = await this.#result(id);
    if (!result) {
      this.#fail(id, "The images are not kept any more.", last);
      return;
    }
    const job = ofResult(result);
    this.#update(id, { last, state: "done", progress: null, ...job });
    const count = job.images.length + job.links.length;
    this.#announce(count === 1 ? "The image is complete" : `${count} images are complete`);
  }

  /** Asks for a result until the gateway answers: it may be replaced at this very moment. */
  async #result(id) {
    for (;;) {
      try {
        return await this.#api.show(id, { signal: this.#ends.signal });
      } catch (error) {
        if (!(error instanceof ApiError && error.mayPass)) {
          throw error;
        }
        await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 1)));
      }
    }
  }

  #fail(id, error, last = this.#job(id)?.last) {
    this.#update(id, { last, state: "failed", progress: null, error });
    this.#announce(`The image failed: ${error}`);
  }

  /** Fetches the latest preview; one at a time, as they come faster than they can be seen. */
  async #look(id) {
    if (this.#looking.has(id)) {
      return;
    }
    this.#looking.add(id);
    try {
      const preview = await this.#api.preview(id, { signal: this.#ends.signal });
      if (this.#followed.has(id)) {
        this.previews.set(id, preview);
        this.#changed();
      }
    } catch {
      // there is none yet, or not any more
    } finally {
      this.#looking.delete(id);
    }
  }
}
