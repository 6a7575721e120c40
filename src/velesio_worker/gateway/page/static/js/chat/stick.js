import { useCallback, useEffect, useRef, useState } from "../html.js";

/** Whoever is so near to the end (in pixels) wants to see what comes next. */
const NEAR = 60;

/**
 * Keeps a scroller at its end while the reader is there, and lets go as soon as they scroll up.
 * @returns {{scroller: object, away: boolean, follow: () => void, jump: () => void}}
 *   `follow` is called after each paint; `away`: the reader is not at the end
 */
export function useStick() {
  const scroller = useRef(null);
  const stuck = useRef(true);
  const last = useRef(0);
  const [away, setAway] = useState(false);

  const follow = useCallback(() => {
    const element = scroller.current;
    if (element === null || !stuck.current) return;
    element.classList.add("at-end");
    element.scrollTop = element.scrollHeight;
    last.current = element.scrollTop;
  }, []);

  const jump = useCallback(() => {
    stuck.current = true;
    setAway(false);
    follow();
    // What was never shown has a guessed height: once it is shown, the end is somewhere else.
    requestAnimationFrame(() => requestAnimationFrame(follow));
  }, []);

  useEffect(() => {
    const element = scroller.current;
    const look = () => {
      const rest = element.scrollHeight - element.scrollTop - element.clientHeight;
      if (rest <= NEAR) stuck.current = true;
      else if (element.scrollTop < last.current - 2) stuck.current = false;
      last.current = element.scrollTop;
      element.classList.toggle("at-end", stuck.current);
      setAway(!stuck.current);
    };
    element.addEventListener("scroll", look, { passive: true });
    const resized = new ResizeObserver(follow);
    resized.observe(element);
    return () => {
      element.removeEventListener("scroll", look);
      resized.disconnect();
    };
  }, []);

  return { scroller, away, follow, jump };
}
