import { html } from "../html.js";
import { Dialog } from "./dialog.js";

const SHORTCUTS = [
  ["Everywhere", [["?", "This list"], ["Alt 1", "Chat"], ["Alt 2", "Images"], ["Esc", "Close what is open, or stop what is being made"]]],
  ["Chat", [["Enter", "Send"], ["Shift Enter", "A new line"]]],
  ["Images", [["Ctrl Enter", "Make the image"]]],
];

/** The keys that do something, in a dialogue. @param {{onClose: () => void}} props */
export function Shortcuts({ onClose }) {
  return html`<${Dialog} title="Keyboard" onClose=${onClose} class="dialog-small">
    ${SHORTCUTS.map(
      ([where, keys]) => html`<section key=${where} class="shortcuts">
        <h3>${where}</h3>
        <dl>
          ${keys.map(
            ([key, what]) => html`<div key=${key}>
              <dt>${key.split(" ").map((one) => html`<kbd>${one}</kbd>`)}</dt>
              <dd>${what}</dd>
            </div>`,
          )}
        </dl>
      </section>`,
    )}
  <//>`;
}

/** Whether somebody is typing, so that a letter is a letter. @param {EventTarget | null} target */
export function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}
