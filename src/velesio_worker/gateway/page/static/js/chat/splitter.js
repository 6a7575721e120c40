// Where the blocks of a text that grows begin: all but the last are finished, and never read again.

const FENCE = /^ {0,3}(`{3,}|~{3,})[^\n]*(?:\n|$)/;
/** A block of more characters is cut where a line, or else a word, begins: parsing it anew would take too long. */
const LONGEST = 6000;
const ITEM = /\n(?=(?:[-*+]|\d{1,9}[.)]) )/g;

/** The first `count` characters of an open block of code, or undefined: the block is closed, or none. */
export function openFence(text) {
  const found = FENCE.exec(text);
  if (found === null) return undefined;
  const sign = found[1][0];
  const close = new RegExp(`^ {0,3}\\${sign}{${found[1].length},}[ \\t]*$`, "m");
  return close.test(text.slice(found[0].length)) ? undefined : found[0].length;
}

/** Splits a text that comes in pieces. `read` returns the blocks of a text: `[{type, raw}, …]`. */
export class Splitter {
  #read;
  #fence = null;

  constructor(read) {
    this.#read = read;
    /** The block that is not finished. */
    this.last = "";
  }

  /** Add a piece. @returns {string[]} the blocks that are finished by it */
  push(piece) {
    const before = this.last.length;
    this.last += piece;
    if (this.#fence !== null) {
      if (!this.#closes(before)) return this.#cutCode();
      this.#fence = null;
    }
    const finished = this.#split();
    this.#open();
    return finished;
  }

  /** Whether what came behind `before` may hold the line that ends the open block of code. */
  #closes(before) {
    const line = this.last.lastIndexOf("\n", Math.max(0, before - 1)) + 1;
    return this.#fence.close.test(this.last.slice(line));
  }

  #open() {
    const start = openFence(this.last);
    if (start === undefined) return;
    const [, signs] = FENCE.exec(this.last);
    this.#fence = {
      head: this.last.slice(0, start),
      close: new RegExp(`^ {0,3}\\${signs[0]}{${signs.length},}[ \\t]*$`, "m"),
    };
  }

  /** Code without end is cut as well, at a line: the text behind goes on under the same head. */
  #cutCode() {
    if (this.last.length < 5 * LONGEST) return [];
    const at = this.last.lastIndexOf("\n");
    if (at <= this.#fence.head.length) return [];
    const signs = /[`~]+/.exec(this.#fence.head)[0];
    const finished = `${this.last.slice(0, at)}\n${signs}\n`;
    this.last = this.#fence.head + this.last.slice(at + 1);
    return [finished];
  }

  /** Whole lines alone tell where a block ends: `-` may become a list's item, a rule, or what makes a heading. */
  #split() {
    const lines = this.last.slice(0, this.last.lastIndexOf("\n") + 1);
    const blocks = this.#read(lines).filter(({ type }) => type !== "space");
    const starts = this.#startsOf(blocks);
    const finished = [];
    // Blocks that are not found as they stand would be a fault of ours: then nothing is finished yet.
    if (starts.length === blocks.length && starts.length > 1) {
      for (let n = 1; n < starts.length; n += 1) finished.push(this.last.slice(starts[n - 1], starts[n]));
      this.last = this.last.slice(starts.at(-1));
    }
    const more = this.#cutLong(blocks.at(-1)?.type);
    return more === undefined ? finished : [...finished, more];
  }

  /** Where blocks begin. What marked calls raw is not quite: a list's lines lose the spaces at their ends. */
  #startsOf(blocks) {
    const starts = [];
    let at = 0;
    for (const { raw } of blocks) {
      const start = this.last.indexOf(raw.split("\n", 1)[0].trimEnd(), at);
      if (start < 0) break;
      starts.push(start);
      at = start + raw.trimEnd().length;
    }
    return starts;
  }

  #cutLong(type) {
    if (this.last.length < LONGEST || type === "table" || type === "code") return undefined;
    const at = type === "list" ? this.#lastItem() : this.last.lastIndexOf(" ", this.last.length - 100);
    if (at <= 0) return undefined;
    const finished = this.last.slice(0, at);
    this.last = this.last.slice(at + 1);
    return finished;
  }

  #lastItem() {
    return [...this.last.matchAll(ITEM)].at(-1)?.index ?? -1;
  }
}
