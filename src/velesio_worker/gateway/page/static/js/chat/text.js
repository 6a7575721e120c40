import { html, useEffect, useLayoutEffect, useRef } from "../html.js";
import { copy } from "./copying.js";
import { TextView } from "./view.js";

const COPIED_FOR = 1500;

async function copyCode(event) {
  const button = event.target.closest("button.copy-code");
  if (button === null) return;
  const code = button.closest(".code").querySelector("code").textContent;
  button.textContent = (await copy(code)) ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = "Copy"), COPIED_FOR);
}

/**
 * Markdown as it grows. What is inside belongs to the view: Preact never looks into it.
 * @param {{text: string, live: boolean, version?: number, onShown?: () => void}} props
 */
export function Text({ text, live, version, onShown }) {
  const element = useRef(null);
  const view = useRef(null);
  useLayoutEffect(() => {
    view.current ??= new TextView(element.current, () => onShown?.());
    view.current.show(text, { live, version });
  }, [text, live, version]);
  useEffect(() => {
    const { current } = element;
    current.addEventListener("click", copyCode);
    return () => current.removeEventListener("click", copyCode);
  }, []);
  return html`<div class="text-view" ref=${element}></div>`;
}
