// What is known of the workers, asked now and then while somebody looks.
import { useEffect, useRef, useState } from "./html.js";

const EVERY = 10_000;
const WHEN_AWAY = 2_000;

const EMPTY = { models: null, status: null, trouble: null };

/** What changes when models may have: who lives, and what their engines are. */
function fingerprint(status) {
  return JSON.stringify(status.workers.map(({ id, engines }) => [id, engines]));
}

/**
 * The models, the queue's status and why neither is known.
 *
 * Models are asked for when the workers have changed; one request in ten seconds is all that a quiet page takes.
 * @param {typeof import("./api.js").api} api
 * @returns {{models: object[] | null, status: object | null, trouble: Error | null, retry: () => void}}
 */
export function useFleet(api) {
  const [known, setKnown] = useState(EMPTY);
  const retry = useRef(() => {});
  const seen = useRef("");
  useEffect(() => {
    const ends = new AbortController();
    let timer;
    let asking = false;
    async function look() {
      clearTimeout(timer);
      if (asking || document.visibilityState === "hidden") {
        return;
      }
      asking = true;
      let wait = EVERY;
      try {
        const status = await api.status({ signal: ends.signal });
        const print = fingerprint(status);
        const models = print === seen.current ? null : await api.models({ signal: ends.signal });
        seen.current = print;
        setKnown((before) => ({ models: models ?? before.models, status, trouble: null }));
      } catch (trouble) {
        seen.current = "";
        wait = trouble.status === 401 ? Infinity : Math.max(WHEN_AWAY, 1000 * (trouble.retryAfter ?? 0));
        setKnown((before) => ({ ...before, trouble }));
      }
      asking = false;
      if (!ends.signal.aborted && Number.isFinite(wait)) {
        timer = setTimeout(look, wait);
      }
    }
    retry.current = look;
    look();
    document.addEventListener("visibilitychange", look);
    window.addEventListener("online", look);
    return () => {
      ends.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", look);
      window.removeEventListener("online", look);
    };
  }, [api]);
  return { ...known, retry: () => retry.current() };
}
