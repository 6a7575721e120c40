// An answer's text as it is shown: finished blocks are made once and never touched again, the last one is morphed.

import { Idiomorph } from "../../vendor/idiomorph-0.8.0/idiomorph.mjs";
import { colour, frame, setFormulas } from "./decorate.js";
import { blocksOf, markupOf, markupOfBeginning } from "./markup.js";
import { Splitter, openFence } from "./splitter.js";

/** So many blocks lie in one chunk, which the browser lays out only near the window. */
const CHUNK = 24;
const TAIL = 24;
/** Code that grows has its colours while these are made in so many milliseconds. */
const QUICK = 4;

/** A formula is replaced as a whole: to morph its styles would mean to write them as text, which the policy refuses. */
function asWhole(old, made) {
  if (!(made instanceof Element) || !made.classList.contains("math")) return true;
  if (!old.isEqualNode(made)) {
    old.className = made.className;
    old.replaceChildren(...made.childNodes);
  }
  return false;
}

const MORPH = { morphStyle: "innerHTML", callbacks: { beforeNodeMorphed: asWhole } };

/** So many milliseconds of a frame all views have for reading text, which is read in slices of so many characters. */
const BUDGET = 12;
const SLICE = 2000;

let left = BUDGET;
let counts = false;

/** Have the time that `work` takes count against this frame. */
function spend(work) {
  if (!counts) {
    counts = true;
    requestAnimationFrame(() => {
      left = BUDGET;
      counts = false;
    });
  }
  const from = performance.now();
  work();
  left -= performance.now() - from;
}

const div = (name) => Object.assign(document.createElement("div"), { className: name });

/** Shows a text that grows in an element. */
export class TextView {
  #element;
  #splitter;
  #chunk;
  #live;
  #length = 0;
  #end = "";
  #version;
  #code = null;
  #wanted = "";
  #grows = false;
  #planned = false;
  #shown;

  /**
   * @param {HTMLElement} element empty, and the view's alone
   * @param {() => void} shown called whenever something was painted
   */
  constructor(element, shown) {
    this.#element = element;
    this.#shown = shown;
    this.#reset();
  }

  #reset() {
    this.#splitter = new Splitter(blocksOf);
    this.#length = 0;
    this.#end = "";
    this.#code = null;
    this.#live = div("block now");
    this.#chunk = div("chunk");
    this.#chunk.append(this.#live);
    this.#element.replaceChildren(this.#chunk);
  }

  /**
   * Show `text`; what it began with the last time is not read again. What is much is shown bit by bit.
   * @param {string} text
   * @param {{live: boolean, version?: number}} how `live`: more will come; `version` changes where the text began anew
   */
  show(text, { live, version = 0 }) {
    const goesOn = version === this.#version && text.length >= this.#length && this.#endsAlike(text);
    if (!goesOn) this.#reset();
    this.#version = version;
    // What ends a line on some systems is two signs: without the second one the first is left for later.
    this.#wanted = live && text.endsWith("\r") ? text.slice(0, -1) : text;
    this.#grows = live;
    this.#read();
  }

  /** Read on for as long as a frame bears it; the rest has its turn with the next frame. */
  #read() {
    const text = this.#wanted;
    // What grows is read a bit even in a frame whose time is up, and so is all of it in a tab that gets no frames.
    let due = this.#grows;
    while (this.#length < text.length && (due || left > 0 || document.hidden)) {
      due = false;
      spend(() => this.#readSlice(text));
    }
    if (this.#length < text.length) this.#later();
    else if (this.#grows) this.#showLast();
    else this.#finish();
    this.#shown();
  }

  #readSlice(text) {
    let end = Math.min(text.length, this.#length + SLICE);
    if (text[end - 1] === "\r" && end < text.length) end += 1;
    this.#add(text.slice(this.#length, end));
    this.#length = end;
    this.#end = text.slice(Math.max(0, end - TAIL), end);
  }

  #later() {
    if (this.#planned) return;
    this.#planned = true;
    requestAnimationFrame(() => {
      this.#planned = false;
      if (this.#length < this.#wanted.length) this.#read();
    });
  }

  #endsAlike(text) {
    return text.slice(Math.max(0, this.#length - TAIL), this.#length) === this.#end;
  }

  #add(piece) {
    for (const block of this.#splitter.push(piece.replaceAll("\r\n", "\n"))) {
      this.#place(this.#live, block);
      this.#next();
    }
  }

  /** Begin another block, and a chunk if this one is full. */
  #next() {
    this.#code = null;
    this.#live.classList.remove("now");
    this.#live = div("block now");
    if (this.#chunk.childElementCount >= CHUNK) {
      this.#chunk = div("chunk");
      this.#element.append(this.#chunk);
    }
    this.#chunk.append(this.#live);
  }

  #place(host, text) {
    const markup = markupOf(text);
    complete(markup);
    Idiomorph.morph(host, [...markup.childNodes], MORPH);
  }

  #showLast() {
    const { last } = this.#splitter;
    const start = openFence(last);
    if (start !== undefined) {
      this.#growCode(last, start);
      return;
    }
    this.#code = null;
    this.#live.classList.add("now");
    if (last.trim() === "") return;
    const markup = markupOfBeginning(last);
    frame(markup);
    setFormulas(markup, repaint);
    Idiomorph.morph(this.#live, [...markup.childNodes], MORPH);
  }

  /** Code that is being written needs no parser: what is new is put behind what is there. */
  #growCode(last, start) {
    if (this.#code === null || this.#code.start !== start) {
      const markup = markupOf(last.slice(0, start) || "```\n");
      frame(markup);
      this.#live.replaceChildren(...markup.childNodes);
      const code = this.#live.querySelector("code");
      code.textContent = "";
      this.#code = { start, code, shown: start, slow: false };
    }
    const grown = this.#code;
    if (last.length === grown.shown) return;
    if (grown.slow) grown.code.append(last.slice(grown.shown));
    else this.#colourAnew(grown, last.slice(start));
    grown.shown = last.length;
  }

  #colourAnew(grown, text) {
    const from = performance.now();
    grown.code.textContent = text;
    colour(grown.code, repaint);
    grown.slow = performance.now() - from > QUICK;
  }

  #finish() {
    this.#live.classList.remove("now");
    const { last } = this.#splitter;
    if (last.trim() === "") this.#live.replaceChildren();
    else this.#place(this.#live, last);
  }
}

function complete(markup) {
  frame(markup);
  setFormulas(markup, repaint);
  for (const code of markup.querySelectorAll("pre > code")) colour(code, repaint);
}

let waiting = false;

/** A library has come: what was shown without it is completed, a bit at a time. */
function repaint() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const root of document.querySelectorAll(".text-view")) {
      setFormulas(root, () => {});
      for (const code of root.querySelectorAll("pre > code[class*='language-']:not(.hljs)")) colour(code, () => {});
    }
  });
}
