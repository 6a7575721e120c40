// The wire: jobs as the gateway's own routes have them. They survive a reload, and a gateway that is replaced.
import { readEvents } from "./sse.js";
import { token, tokenNeeded } from "./token.js";

/** Where the gateway is: a proxy may have it under a path of its own. */
const BASE = new URL("../../", import.meta.url);

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5000;
const QUIET_LIMIT = 45_000; // the gateway says every 15 s that it lives
const MAY_PASS = new Set([0, 408, 425, 429, 500, 502, 503, 504]);

/**
 * A request that gets no answer, or a refusal.
 *
 * `status` is the HTTP status, 0 where nobody answers; `code` one word for programs; `param` the field at fault, or
 * null; `retryAfter` when to ask again, in seconds, or null.
 */
export class ApiError extends Error {
  constructor(status, code, message, { param = null, retryAfter = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may be answered later. */
  get mayPass() {
    return MAY_PASS.has(this.status);
  }
}

async function refusal(response) {
  const seconds = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const retryAfter = Number.isNaN(seconds) ? null : seconds;
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // a proxy's own page
  }
  const message = told.message ?? `The gateway answered ${response.status}.`;
  return new ApiError(response.status, told.code ?? "http_error", message, { param: told.param ?? null, retryAfter });
}

/** Sends a request, with the token; where one is wanted it waits until there is one, and goes again. */
async function ask(method, path, { body, signal } = {}) {
  for (;;) {
    const shown = token.get();
    const headers = shown ? { authorization: `Bearer ${shown}` } : {};
    if (body !== undefined) {
      headers["content-type"] = "application/json";
    }
    let response;
    try {
      const sent = body === undefined ? undefined : JSON.stringify(body);
      response = await fetch(new URL(`.${path}`, BASE), { method, headers, body: sent, signal, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) {
        throw error;
      }
      throw new ApiError(0, "unreachable", "The gateway does not answer.");
    }
    if (response.ok) {
      return response;
    }
    const error = await refusal(response);
    if (response.status !== 401) {
      throw error;
    }
    await tokenNeeded(shown, error, signal);
  }
}

/** Waits; ends early when the network is back or the page is looked at again. */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(end, milliseconds);
    const look = () => document.visibilityState === "visible" && end();
    function forget() {
      clearTimeout(timer);
      window.removeEventListener("online", end);
      document.removeEventListener("visibilitychange", look);
      signal?.removeEventListener("abort", stop);
    }
    function end() {
      forget();
      resolve();
    }
    function stop() {
      forget();
      reject(signal.reason);
    }
    window.addEventListener("online", end);
    document.addEventListener("visibilitychange", look);
    signal?.addEventListener("abort", stop);
    if (signal?.aborted) {
      stop();
    }
  });
}

/** Yields what one connection shows of a stream; ends where the connection does, also if it dies without a word. */
async function* connection(id, after, signal, onConnection) {
  const line = new AbortController();
  const hangUp = () => line.abort();
  signal?.addEventListener("abort", hangUp);
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(hangUp, QUIET_LIMIT);
  };
  try {
    alive();
    const response = await ask("GET", `/jobs/${id}/events?after=${after}`, { signal: line.signal });
    onConnection?.("live");
    for await (const { id: entry, event, data } of readEvents(response.body, alive)) {
      yield { id: entry, event, data: JSON.parse(data) };
    }
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", hangUp);
    line.abort();
  }
}

const json = async (...asked) => (await ask(...asked)).json();

export const api = {
  token,

  /**
   * The models that jobs may name: [{id, kind: "text" | "image", context_length?}], defaults first.
   */
  models: async ({ signal } = {}) => (await json("GET", "/v1/models", { signal })).data,

  /** What waits, and the workers with their engines: {waiting, slots, running, workers: […]}. */
  status: ({ signal } = {}) => json("GET", "/queue/status", { signal }),

  /**
   * Submits a job: {type, data, session?, unread_timeout?, …}. Throws ApiError; with `param` where a field is wrong.
   * @returns {Promise<{id: string, links: object}>}
   */
  submit: (job, { signal } = {}) => json("POST", "/jobs", { body: job, signal }),

  /** How a job stands: {id, state, result, last?, queue?}. */
  show: (id, { signal } = {}) => json("GET", `/jobs/${id}`, { signal }),

  /** Has a job stopped. Its stream then comes to its end, with what there is so far. */
  cancel: async (id, { signal } = {}) => {
    await ask("DELETE", `/jobs/${id}`, { signal });
  },

  /** The n-th image of a job's result, a PNG. */
  image: async (id, n, { signal } = {}) => (await ask("GET", `/jobs/${id}/images/${n}`, { signal })).blob(),

  /** The latest preview of a job's image, a JPEG. */
  preview: async (id, { signal } = {}) => (await ask("GET", `/jobs/${id}/preview`, { signal })).blob(),

  /** Any other route, as JSON, such as /sdapi/v1/samplers. */
  get: (path, { signal } = {}) => json("GET", path, { signal }),

  /**
   * Follows a job to its end over any number of connections, each behind the last entry that came.
   *
   * Yields {id, event, data} with `data` parsed; the last one is `done` or `error`. Throws ApiError where the job
   * cannot be had any more, and the signal's reason once that is aborted.
   * @param {string} id the job.
   * @param {{after?: string, signal?: AbortSignal, onConnection?: (state: "live" | "lost") => void}} [options]
   *   `after` is the id of the last entry that the caller has.
   */
  async *events(id, { after = "0-0", signal, onConnection } = {}) {
    let last = after === "0" ? "0-0" : after;
    let wait = FIRST_PAUSE;
    for (;;) {
      try {
        for await (const entry of connection(id, last, signal, onConnection)) {
          wait = FIRST_PAUSE;
          if (entry.event === "closed") {
            last = entry.data.after ?? last;
            break;
          }
          last = entry.id;
          yield entry;
          if (entry.event === "done" || entry.event === "error") {
            return;
          }
        }
      } catch (error) {
        if (signal?.aborted) {
          throw signal.reason;
        }
        if (error instanceof ApiError) {
          if (!error.mayPass) {
            throw error;
          }
          wait = Math.max(wait, 1000 * (error.retryAfter ?? 0));
        } // else the connection broke
      }
      signal?.throwIfAborted();
      onConnection?.("lost");
      await pause(wait, signal);
      wait = Math.min(2 * wait, LONGEST_PAUSE);
    }
  },
};
