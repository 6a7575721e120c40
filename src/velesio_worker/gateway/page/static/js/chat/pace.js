// When to paint: what comes in is gathered, and handed over once per 50 ms, right before the browser paints.

const PACE = 50;
/** A paint that took t ms is followed by the next one after so many times t at the earliest: the rest is for input. */
const REST = 4;

/** Calls `paint` soon after `ask`, but at most once per 50 ms. */
export class Pace {
  #paint;
  #last = -Infinity;
  #cost = 0;
  #planned = false;

  constructor(paint) {
    this.#paint = paint;
  }

  ask() {
    if (this.#planned) return;
    this.#planned = true;
    const wait = this.#last + Math.max(PACE, REST * this.#cost) - performance.now();
    if (wait > 4) setTimeout(() => this.#align(), wait - 4);
    else this.#align();
  }

  #align() {
    // A hidden tab gets no frames, but what it shows has to be kept and told to other tabs all the same.
    if (document.hidden) this.#go();
    else requestAnimationFrame(() => this.#go());
  }

  #go() {
    this.#planned = false;
    this.#last = performance.now();
    this.#paint();
    this.#cost = performance.now() - this.#last;
  }
}
