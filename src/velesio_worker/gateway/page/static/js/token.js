// The token that the gateway may want: kept for the session of this tab, and asked for when one is needed.

const KEY = "velesio.token";
const listeners = new Set();
let memory = ""; // where there is no storage
let waiting = null;
let next = deferred();

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? memory;
  } catch {
    return memory;
  }
}

function store(text) {
  memory = text;
  try {
    if (text) {
      sessionStorage.setItem(KEY, text);
    } else {
      sessionStorage.removeItem(KEY);
    }
  } catch {
    // it lasts as long as the page
  }
}

export const token = {
  /** The token; empty where there is none. */
  get: stored,

  /** Takes a token; requests that waited for one go again. */
  set(text) {
    store(text.trim());
    waiting?.resolve();
    waiting = null;
    next.resolve();
    next = deferred();
  },

  /** Waits until a token is given, for who had to give up without one. */
  given: () => next.promise,

  /** Forgets the token. */
  clear: () => store(""),

  /** Gives up: requests that wait for a token fail with their 401. */
  refuse() {
    waiting?.reject();
    waiting = null;
  },

  /**
   * Has somebody told whenever a token is needed; `known` says whether one was shown that is not right.
   * @param {(needed: {wrong: boolean}) => void} listener
   * @returns {() => void} ends it.
   */
  onNeeded(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
};

/** Waits until there is another token than the one that was refused. Throws `error` if nobody gives one. */
export async function tokenNeeded(refused, error, signal) {
  if (stored() !== refused) {
    return;
  }
  if (!listeners.size) {
    throw error;
  }
  if (!waiting) {
    waiting = deferred();
    waiting.promise.catch(() => {});
    for (const tell of listeners) {
      tell({ wrong: Boolean(refused) });
    }
  }
  const aborted = deferred();
  const abort = () => aborted.reject(signal.reason);
  signal?.addEventListener("abort", abort);
  try {
    await Promise.race([waiting.promise, aborted.promise]);
  } catch {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

function deferred() {
  let settle;
  const promise = new Promise((resolve, reject) => {
    settle = { resolve, reject };
  });
  return { promise, ...settle };
}
