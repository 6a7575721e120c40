import { html, useState } from "../html.js";
import { Dialog } from "../ui/dialog.js";
import { Button } from "../ui/button.js";
import { SAMPLING } from "./request.js";

function Setting({ setting, value, onChange }) {
  const { name, label, min, max, step, hint } = setting;
  const change = (event) => {
    const field = event.currentTarget;
    if (field.value === "" && field.validity.valid) onChange(undefined);
    else if (field.validity.valid) onChange(field.valueAsNumber);
  };
  return html`<label class="field">
    <span>${label}</span>
    <input
      type="number" inputmode="decimal" name=${name} min=${min} max=${max} step=${step >= 1 ? step : "any"}
      value=${value ?? ""} placeholder="Engine's own" title=${hint} onChange=${change}
    />
  </label>`;
}

/** A text that means something else than it says: what is typed stays as it is, what is meant is handed on. */
function Meant({ label, text, read, trouble: wrong, onChange, ...rest }) {
  const [typed, setTyped] = useState(text);
  const [trouble, setTrouble] = useState("");
  const type = (event) => {
    const { value } = event.currentTarget;
    setTyped(value);
    try {
      onChange(read(value));
      setTrouble("");
    } catch {
      setTrouble(wrong);
    }
  };
  return html`<label class="field">
    <span>${label}</span>
    <textarea value=${typed} onInput=${type} aria-invalid=${trouble ? "true" : undefined} ...${rest}></textarea>
    ${trouble && html`<span class="error-text" role="alert">${trouble}</span>`}
  </label>`;
}

function stopsOf(text) {
  const lines = text.split("\n").filter(Boolean);
  return lines.length > 0 ? lines : undefined;
}

function toolsOf(text) {
  if (text.trim() === "") return undefined;
  if (!Array.isArray(JSON.parse(text))) throw new TypeError("no list");
  return text;
}

/** The settings of a conversation; what is left empty is not sent. */
export function Drawer({ conversation, onSet, onClose }) {
  const { sampling = {}, system } = conversation;
  const setOne = (name, value) => {
    const { [name]: _, ...others } = sampling;
    onSet({ sampling: value === undefined ? others : { ...others, [name]: value } });
  };
  const [round, setRound] = useState(0);
  const reset = () => {
    onSet({ sampling: {}, system: "", thinking: undefined, tools: undefined });
    setRound(round + 1); // what was typed goes, too
  };
  return html`<${Dialog} title="Settings of this chat" onClose=${onClose} class="chat-drawer">
    <label class="field">
      <span>System prompt</span>
      <textarea
        rows="5" value=${system ?? ""} placeholder="How the model should answer"
        onInput=${(event) => onSet({ system: event.currentTarget.value })}
      ></textarea>
    </label>
    <div class="settings">
      ${SAMPLING.map(
        (setting) => html`<${Setting}
          key=${setting.name} setting=${setting} value=${sampling[setting.name]}
          onChange=${(value) => setOne(setting.name, value)}
        />`,
      )}
      <label class="field">
        <span>Thinking</span>
        <select
          value=${conversation.thinking ?? ""}
          onChange=${(event) => onSet({ thinking: event.currentTarget.value || undefined })}
        >
          <option value="">As the model does</option>
          <option value="on">On</option>
          <option value="off">Off</option>
        </select>
      </label>
    </div>
    <${Meant}
      key=${`stop-${round}`} label="Stop at these texts, one a line" rows="2" text=${sampling.stop?.join("\n") ?? ""}
      read=${stopsOf} onChange=${(stop) => setOne("stop", stop)}
    />
    <${Meant}
      key=${`tools-${round}`} label="Tools, as JSON; what is called is shown and not run" rows="3" class="code-field"
      spellcheck="false" text=${conversation.tools ?? ""} read=${toolsOf} onChange=${(tools) => onSet({ tools })}
      trouble="Tools are a list in JSON, as OpenAI's API takes them."
    />
    <div class="row row-end">
      <${Button} onClick=${reset}>Reset<//>
      <${Button} kind="primary" onClick=${onClose}>Done<//>
    </div>
  <//>`;
}
