// What stands around an answer's text: what it waits for, its reasoning, tools, notes and figures.

import { html, useState } from "../html.js";
import { Button } from "../ui/button.js";
import { Icon } from "../ui/icons.js";
import { rateOf } from "./answer.js";
import { remedyOf } from "./remedies.js";
import { Text } from "./text.js";

const number = new Intl.NumberFormat("en");
const one = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** A time in words, from milliseconds. */
function lasted(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return milliseconds < 60_000 ? `${one.format(milliseconds / 1000)} s` : `${Math.round(milliseconds / 60_000)} min`;
}

function waitsFor({ phase, progress, ahead }, { connected, locked, stopping }) {
  if (stopping) return "Stopping";
  if (locked) return "The rest can be read with a token";
  if (!connected) return "Connection lost, trying again";
  if (progress?.stage === "loading")
    return `The model is being loaded, ${Math.round(progress.processed ?? 0)} s so far`;
  if (progress?.stage === "prompt") {
    return `Reading the prompt: ${number.format(progress.processed)} of ${number.format(progress.total)} tokens`;
  }
  if (phase === "sending") return "Sending";
  if (phase === "waiting") {
    if (!(ahead > 0)) return "Waiting for a worker";
    return ahead === 1
      ? "Waiting in line: 1 job before this one"
      : `Waiting in line: ${number.format(ahead)} jobs before this one`;
  }
  return "Reading the prompt";
}

/** What happens while no text comes. */
export function Waiting({ answer, run }) {
  const { progress } = answer;
  const { connected = true, locked = false, stopping = false } = run ?? {};
  const measured = progress?.stage === "prompt" && progress.total > 0;
  return html`<div class="answer-waits">
    <p><span class="dots" aria-hidden="true"><i></i><i></i><i></i></span><span>${waitsFor(answer, { connected, locked, stopping })}</span></p>
    ${measured &&
    html`<progress max=${progress.total} value=${progress.processed} aria-label="Prompt read"></progress>`}
  </div>`;
}

/** What the model thought before it answered: folded, and shown to whoever unfolds it. */
export function Reasoning({ answer, live, onShown }) {
  const [open, setOpen] = useState(false);
  if (!answer.reasoning) return null;
  const thinks = live && !answer.content && answer.tools.length === 0;
  const thought = answer.thoughtFor > 0 ? `Thought for ${lasted(answer.thoughtFor)}` : "Reasoning";
  const title = thinks ? "Thinking…" : thought;
  return html`<details class="reasoning" open=${open} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary><${Icon} name="fold" size=${16} /><span class=${thinks ? "shimmer" : ""}>${title}</span></summary>
    ${open && html`<${Text} text=${answer.reasoning} live=${thinks} version=${answer.version} onShown=${onShown} />`}
  </details>`;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // half written, or no JSON
  }
}

/** Calls of tools, as text: nothing is run. */
export function Tools({ tools }) {
  const calls = tools.filter(Boolean);
  if (calls.length === 0) return null;
  return html`<ul class="tools" aria-label="Tool calls">
    ${calls.map(
      (call, n) => html`<li key=${n} class="tool">
        <p class="tool-name"><${Icon} name="settings" size=${16} /><code>${call.name || "…"}</code></p>
        <pre tabindex="0" role="region" aria-label=${`Arguments of ${call.name}`}>${pretty(call.arguments)}</pre>
      </li>`,
    )}
  </ul>`;
}

const NOTES = {
  continued: "Worker lost, going on where the text ended",
  restarted: "Worker lost, began anew",
};

/** What happened to an answer on its way. */
export function Notes({ answer }) {
  const notes = answer.notes.map(({ kind, worker }) => ({ kind, text: NOTES[kind], worker }));
  const warnings = (answer.warnings ?? []).map((text) => ({ kind: "warning", text }));
  return [...notes, ...warnings].map(
    (
      { kind, text, worker },
      n,
    ) => html`<p key=${n} class=${`note note-${kind}`} title=${worker && `On worker ${worker}`}>
      <${Icon} name=${kind === "warning" ? "warning" : "retry"} size=${15} /><span>${text}</span>
    </p>`,
  );
}

/** What went wrong, what to do about it, and the button that does it. */
export function Failure({ error, onRetry }) {
  return html`<div class="failure">
    <${Icon} name="warning" size=${18} />
    <div>
      <p>${error.message}</p>
      <p class="muted">${remedyOf(error)}</p>
    </div>
    <${Button} icon="retry" onClick=${onRetry}>Try again<//>
  </div>`;
}

/** Why an answer ends where it does, and how to have more of it. */
export function Ending({ answer, onGoOn }) {
  const cut = answer.finish === "length";
  if (answer.state !== "stopped" && !cut) return null;
  if (answer.state === "stopped" && !answer.content) return html`<p class="ending muted">Stopped before it began.</p>`;
  return html`<div class="ending">
    <p class="muted">${cut ? "Cut off: the longest answer allowed, or the end of the context." : "Stopped."}</p>
    <${Button} onClick=${onGoOn}>Continue<//>
  </div>`;
}

/** Tokens, how fast they came, and how long the first one took. */
export function Figures({ answer }) {
  const rate = rateOf(answer);
  const parts = [
    answer.tokens > 0 && `${number.format(answer.tokens)} ${answer.tokens === 1 ? "token" : "tokens"}`,
    rate && !answer.cached && `${one.format(rate)} tokens/s`,
    answer.ttft >= 0 && !answer.cached && `first after ${lasted(answer.ttft)}`,
    answer.cached && "from the cache",
  ].filter(Boolean);
  return html`<p class="figures">
    ${answer.model && html`<span class="figure-model">${answer.model}</span>`}
    ${parts.map((text, n) => html`<span key=${n}>${text}</span>`)}
  </p>`;
}
