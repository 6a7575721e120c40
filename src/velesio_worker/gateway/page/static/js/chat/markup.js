// Markdown to markup that is safe to show: marked reads it, what it writes is narrowed by DOMPurify.

import DOMPurify from "../../vendor/dompurify-3.5.0/purify.mjs";
import { Lexer, Marked } from "../../vendor/marked-18.2.1/marked.mjs";
import remend from "../../vendor/remend-1.4.0/remend.mjs";

const LINKS = /^(?:https?:\/\/|mailto:)/i;

const SHAPE = {
  ALLOWED_TAGS: [
    "a",
    "blockquote",
    "br",
    "code",
    "del",
    "div",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "span",
    "strong",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
  ],
  ALLOWED_ATTR: ["href", "title", "class", "start", "align", "rel", "target"],
  ALLOWED_URI_REGEXP: LINKS,
  ADD_URI_SAFE_ATTR: ["align", "rel", "start", "target"], // which hold no addresses
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escaped = (text) => text.replace(/[&<>"']/g, (sign) => ENTITIES[sign]);

function link(href, title, inner) {
  // What leads elsewhere than to the web or to a mailbox is no link; so is what is half written.
  if (!LINKS.test(href)) return `<span>${inner}</span>`;
  const about = title ? ` title="${escaped(title)}"` : "";
  return `<a href="${escaped(href)}"${about} rel="noopener noreferrer" target="_blank">${inner}</a>`;
}

const renderer = {
  link({ href, title, tokens }) {
    return link(href, title, this.parser.parseInline(tokens));
  },
  // Nothing is ever loaded that an answer names: whoever wrote it would learn who reads it.
  image({ href, title, text }) {
    return link(href, title, escaped(text || href));
  },
  html: ({ text }) => escaped(text),
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  code({ text, lang }) {
    const language = /^[\w+#.-]+/.exec(lang ?? "")?.[0];
    const of = language ? ` class="language-${escaped(language)}"` : "";
    return `<pre><code${of}>${escaped(text)}\n</code></pre>`;
  },
};

const math = (display) => (token) =>
  display ? `<div class="math">${escaped(token.text)}</div>` : `<span class="math">${escaped(token.text)}</span>`;

const BLOCK_MATH = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
// Between single signs: no space inside next to them and no figure behind, so that prices stay prices.
const INLINE_MATH =
  /^(?:\$\$([^\n]+?)\$\$|\$(?![\s$])((?:\\.|[^\\\n$])+?)(?<![\s\\])\$(?!\d)|\\\(([^\n]+?)\\\)|\\\[([^\n]+?)\\\])/;

function firstOf(text, signs) {
  const places = signs.map((sign) => text.indexOf(sign)).filter((place) => place >= 0);
  return places.length > 0 ? Math.min(...places) : undefined;
}

const extensions = [
  {
    name: "blockMath",
    level: "block",
    start: (text) => /(?:^|\n) {0,3}(?:\$\$|\\\[)/.exec(text)?.index,
    tokenizer(text) {
      const found = BLOCK_MATH.exec(text);
      return found ? { type: "blockMath", raw: found[0], text: (found[1] ?? found[2]).trim() } : undefined;
    },
    renderer: math(true),
  },
  {
    name: "inlineMath",
    level: "inline",
    start: (text) => firstOf(text, ["$", "\\(", "\\["]),
    tokenizer(text) {
      const found = INLINE_MATH.exec(text);
      const inner = found && (found[1] ?? found[2] ?? found[3] ?? found[4]);
      return inner ? { type: "inlineMath", raw: found[0], text: inner.trim() } : undefined;
    },
    renderer: math(false),
  },
];

const marked = new Marked({
  gfm: true,
  breaks: false,
  async: false,
  renderer,
  extensions,
  // HTML is text like any other: it is neither made markup nor left out.
  tokenizer: { html: () => undefined, tag: () => undefined },
});

/** The blocks of a text, not read any deeper. @returns {{type: string, raw: string}[]} */
export const blocksOf = (text) => new Lexer(marked.defaults).blockTokens(text);

/** Markup of a text that is complete. @returns {DocumentFragment} */
export function markupOf(text) {
  return DOMPurify.sanitize(marked.parse(text), SHAPE);
}

/** Markup of a text that is still being written: what is open at its end is closed for now. */
export function markupOfBeginning(text) {
  return markupOf(remend(text, { htmlTags: false, setextHeadings: true }));
}
