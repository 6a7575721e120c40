import { html, useEffect, useState } from "../html.js";

const FIRST = 1500; // the gateway's figures are up to a second old: older ones would not have the job itself
const NEXT = 2000;
const LONGEST = 10_000; // many may wait at the same time

/**
 * How long the line before a job is. Lines are first in, first out, and only their lengths are known: of all that
 * wait some came later, so the least that was seen since the job was submitted is the most that can be before it.
 * @param {typeof import("../api.js").api} api
 * @param {string} id the job.
 * @param {"text" | "image"} kind
 * @returns {number | null} the most jobs that may be before it; null while that is not known, -1 once it runs.
 */
export function usePlaceInLine(api, id, kind) {
  const [before, setBefore] = useState(null);
  useEffect(() => {
    const ends = new AbortController();
    let wait = NEXT;
    let timer = setTimeout(look, FIRST);
    async function look() {
      try {
        const { state, queue } = await api.show(id, { signal: ends.signal });
        if (state !== "waiting") {
          setBefore(-1);
          return;
        }
        const waiting = (queue?.incoming?.jobs ?? 0) + (queue?.[kind]?.jobs ?? 0);
        setBefore((least) => Math.min(least ?? Infinity, Math.max(0, waiting - 1)));
      } catch {
        // whoever follows the job is told
      }
      if (!ends.signal.aborted) {
        timer = setTimeout(look, wait);
        wait = Math.min(1.3 * wait, LONGEST);
      }
    }
    return () => {
      ends.abort();
      clearTimeout(timer);
    };
  }, [api, id, kind]);
  return before;
}

/**
 * "Waiting: 3 jobs are before it", while a job has no entry in its stream.
 * @param {{api: object, id: string, kind: "text" | "image"}} props
 */
export function Waiting({ api, id, kind }) {
  const before = usePlaceInLine(api, id, kind);
  if (before === -1) {
    return html`<p class="waiting"><span class="spinner"></span><span>In the making</span></p>`;
  }
  const place = before === 1 ? ": 1 job is before it" : before ? `: ${before} jobs are before it` : "";
  return html`<p class="waiting"><span class="spinner"></span><span>Waiting for a worker${place}</span></p>`;
}
