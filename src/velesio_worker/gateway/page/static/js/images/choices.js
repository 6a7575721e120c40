// What image workers have to choose from, asked once it is wanted: asking starts an image engine that nobody used yet.
import { useCallback, useEffect, useRef, useState } from "../html.js";

const names = (list) => list.map(({ name }) => name);

/** Whether an image engine is up, so that asking it costs nothing. */
function isReady(status) {
  return Boolean(status?.workers.some(({ engines }) => engines.image?.state === "ready"));
}

/**
 * Models, samplers and schedulers; `ask` has the latter two fetched.
 * @returns {{models: string[], samplers: string[], schedulers: string[], ask: () => void}}
 */
export function useChoices({ api, models, status, active }) {
  const [lists, setLists] = useState({ samplers: [], schedulers: [] });
  const asked = useRef(false);
  const ask = useCallback(async () => {
    if (asked.current) {
      return;
    }
    asked.current = true;
    try {
      const [samplers, schedulers] = await Promise.all(["samplers", "schedulers"].map((list) => api.get(`/sdapi/v1/${list}`)));
      setLists({ samplers: names(samplers), schedulers: names(schedulers) });
    } catch {
      asked.current = false; // no worker for images, or it does not answer: asked again when it is wanted
    }
  }, [api]);
  const ready = isReady(status);
  useEffect(() => {
    if (active && ready) {
      ask();
    }
  }, [active, ready, ask]);
  const images = (models ?? []).filter(({ kind }) => kind === "image");
  return { ...lists, models: images.map(({ id }) => id), ask };
}
