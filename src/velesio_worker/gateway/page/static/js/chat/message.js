import { html, useEffect, useLayoutEffect, useReducer, useRef, useState } from "../html.js";
import { Button, IconButton } from "../ui/button.js";
import { copy } from "./copying.js";
import { Ending, Failure, Figures, Notes, Reasoning, Tools, Waiting } from "./parts.js";
import { Text } from "./text.js";

const COPIED_FOR = 1500;

function CopyButton({ text, label, announce }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), COPIED_FOR);
    return () => clearTimeout(timer);
  }, [copied]);
  const go = async () => {
    const worked = await copy(text());
    setCopied(worked);
    announce(worked ? "Copied." : "The browser does not let the page copy.");
  };
  return html`<${IconButton} icon=${copied ? "check" : "copy"} label=${label} size=${17} onClick=${go} />`;
}

/** Pictures of a question. */
export function Pictures({ images, onRemove }) {
  if (!images?.length) return null;
  return html`<ul class="pictures">
    ${images.map(
      (url, n) => html`<li key=${n}>
        <img src=${url} alt=${`Picture ${n + 1}`} />
        ${
          onRemove &&
          html`<${IconButton}
            icon="close" label=${`Remove picture ${n + 1}`} size=${14} onClick=${() => onRemove(n)}
          />`
        }
      </li>`,
    )}
  </ul>`;
}

function Editor({ message, onSave, onCancel }) {
  const field = useRef(null);
  const [text, setText] = useState(message.content);
  useEffect(() => {
    field.current.focus();
    field.current.setSelectionRange(message.content.length, message.content.length);
  }, []);
  const press = (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    onCancel();
  };
  const save = (event) => {
    event.preventDefault();
    if (text.trim() || message.images?.length) onSave(text);
  };
  return html`<form class="editor" onSubmit=${save} onKeyDown=${press}>
    <textarea
      ref=${field}
      aria-label="Your message"
      value=${text}
      onInput=${(event) => setText(event.currentTarget.value)}
    ></textarea>
    <div class="row row-end">
      <${Button} onClick=${onCancel}>Cancel<//>
      <${Button} kind="primary" type="submit">Send<//>
    </div>
  </form>`;
}

/** A question: text as it was typed, whatever stands in it. */
export function Question({ message, session, onAsked, announce }) {
  const [edits, setEdits] = useState(false);
  const save = (text) => {
    setEdits(false);
    session.edit(message, text);
    onAsked();
  };
  return html`<article class="message question" aria-label="You">
    <${Pictures} images=${message.images} />
    ${
      edits
        ? html`<${Editor} message=${message} onSave=${save} onCancel=${() => setEdits(false)} />`
        : message.content && html`<div class="bubble">${message.content}</div>`
    }
    ${
      !edits &&
      html`<div class="actions">
      <${IconButton} icon="edit" label="Edit and send again" size=${17} onClick=${() => setEdits(true)} />
      <${CopyButton} text=${() => message.content} label="Copy the question" announce=${announce} />
    </div>`
    }
  </article>`;
}

/** Have a component painted whenever a run hands something over. */
function useRun(run) {
  const [, paint] = useReducer((n) => n + 1, 0);
  useLayoutEffect(() => run?.subscribe(() => paint()), [run]);
}

/** An answer, while it is written and afterwards. */
export function Answer({ message, run, last, session, onShown, onAsked, announce }) {
  useRun(run);
  const answer = run?.answer ?? message;
  const live = answer.state === "running";
  const waits = live && (answer.phase !== "writing" || !(run?.connected ?? true) || run?.stopping);
  const again = () => {
    session.regenerate(message);
    onAsked();
  };
  const goOn = () => {
    session.goOn(message);
    onAsked();
  };
  useLayoutEffect(onShown);
  return html`<article class=${`message answer ${last ? "last" : ""}`} aria-label="Answer" aria-busy=${live}>
    <${Reasoning} answer=${answer} live=${live} onShown=${onShown} />
    ${
      answer.content &&
      html`<${Text} text=${answer.content} live=${live} version=${answer.version} onShown=${onShown} />`
    }
    <${Tools} tools=${answer.tools} />
    ${waits && html`<${Waiting} answer=${answer} run=${run} />`}
    <${Notes} answer=${answer} />
    ${answer.state === "failed" && html`<${Failure} error=${answer.error} onRetry=${again} />`}
    ${!live && last && html`<${Ending} answer=${answer} onGoOn=${goOn} />`}
    <footer class="foot">
      <${Figures} answer=${answer} />
      ${
        !live &&
        html`<div class="actions">
        ${answer.content &&
        html`<${CopyButton} text=${() => answer.content} label="Copy the answer" announce=${announce} />`}
        <${IconButton} icon="retry" label="Another answer" size=${17} onClick=${again} />
      </div>`
      }
    </footer>
  </article>`;
}
