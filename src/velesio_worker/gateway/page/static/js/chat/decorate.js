// What makes an answer's markup complete: colours of code, formulas, buttons. Both libraries come when first needed.

const LONGEST_CODE = 60_000;
const LONGEST_FORMULA = 10_000;
const KEPT_FORMULAS = 500;

const LIBRARIES = {
  highlight: { load: () => import("../../vendor/highlight-11.12.0/highlight.mjs") },
  katex: {
    load: async () => {
      const sheet = document.createElement("link");
      sheet.rel = "stylesheet";
      sheet.href = new URL("../../vendor/katex-0.19.1/katex.css", import.meta.url).href;
      document.head.append(sheet);
      return import("../../vendor/katex-0.19.1/katex.mjs");
    },
  },
};

/** The library if it is there; otherwise it is fetched, and `then` called once it is. */
function library(name, then) {
  const known = LIBRARIES[name];
  if (known.found) return known.found;
  known.coming ??= known.load().then((module) => {
    known.found = module.default;
  });
  // Without the library code has no colours and a formula stays as it was written.
  known.coming.then(then, () => (known.coming = undefined));
  return undefined;
}

// highlight.js writes markup as text, which the page's policy rightly refuses: its tree is made nodes here instead.
function classOf(scope) {
  if (scope.startsWith("language:")) return scope.replace("language:", "language-");
  const [first, ...more] = scope.split(".");
  return [`hljs-${first}`, ...more.map((part, depth) => part + "_".repeat(depth + 1))].join(" ");
}

function nodesOf(tree) {
  return tree.children.map((child) => {
    if (typeof child === "string") return document.createTextNode(child);
    const span = document.createElement("span");
    if (child.scope) span.className = classOf(child.scope);
    span.append(...nodesOf(child));
    return span;
  });
}

/** Give a block of code its colours. */
export function colour(code, again) {
  const language = /(?:^| )language-(\S+)/.exec(code.className)?.[1]?.toLowerCase();
  const text = code.textContent;
  if (language === undefined || text.length > LONGEST_CODE) return;
  const hljs = library("highlight", again);
  if (!hljs?.getLanguage(language)) return;
  const { _emitter: emitter } = hljs.highlight(text, { language, ignoreIllegals: true });
  code.replaceChildren(...nodesOf(emitter.rootNode));
  code.classList.add("hljs");
}

const formulas = new Map();

function formula(katex, source, display) {
  const key = `${display ? "D" : "I"}${source}`;
  if (!formulas.has(key)) {
    if (formulas.size >= KEPT_FORMULAS) formulas.delete(formulas.keys().next().value);
    const host = document.createElement("span");
    const bounds = { trust: false, strict: "ignore", maxSize: 20, maxExpand: 300 };
    // Its own way to show a mistake writes a style as text, which the page's policy refuses.
    katex.render(source, host, { displayMode: display, throwOnError: true, ...bounds });
    formulas.set(key, host);
  }
  return formulas.get(key).cloneNode(true);
}

/** Set the formulas of some markup, each by itself: a mistake in one stays with it. */
export function setFormulas(root, again) {
  const places = root.querySelectorAll(".math:not(.set)");
  if (places.length === 0) return;
  const katex = library("katex", again);
  if (katex === undefined) return;
  for (const place of places) {
    if (place.textContent.length > LONGEST_FORMULA) continue;
    try {
      place.replaceChildren(formula(katex, place.textContent, place.tagName === "DIV"));
      place.classList.add("set");
    } catch {
      place.classList.add("set", "as-written");
    }
  }
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Put blocks of code into a frame with their language and a button that copies, and tables where they can scroll. */
export function frame(root) {
  for (const pre of root.querySelectorAll("pre")) {
    const language = /language-(\S+)/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "text";
    const copy = element("button", { type: "button", class: "quiet copy-code" }, "Copy");
    const head = element("div", { class: "code-head" }, element("span", {}, language), copy);
    const box = element("div", { class: "code" }, head);
    pre.replaceWith(box);
    pre.setAttribute("tabindex", "0"); // what scrolls has to be reached by keyboard
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", `Code, ${language}`);
    box.append(pre);
  }
  for (const table of root.querySelectorAll("table")) {
    const box = element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(box);
    box.append(table);
  }
}
