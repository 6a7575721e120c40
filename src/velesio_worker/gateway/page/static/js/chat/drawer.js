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

function Tools({ text, onChange }) {
  const [trouble, setTrouble] = useState("");
  const change = (event) => {
    const value = event.currentTarget.value.trim();
    try {
      if (value && !Array.isArray(JSON.parse(value))) throw new Error("no list");
      setTrouble("");
      onChange(value || undefined);
    } catch {
      setTrouble("Tools are a list in JSON, as OpenAI's API takes them.");
    }
  };
  return html`<label class="field">
    <span>Tools, as JSON; what is called is shown and not run</span>
    <textarea
      class="code-field" rows="3" spellcheck="false" value=${text ?? ""} onChange=${change}
      aria-invalid=${trouble ? "true" : undefined}
    ></textarea>
    ${trouble && html`<span class="error-text" role="alert">${trouble}</span>`}
  </label>`;
}

/** The settings of a conversation; what is left empty is not sent. */
export function Drawer({ conversation, onSet, onClose }) {
  const { sampling = {}, system, stop } = conversation;
  const setOne = (name, value) => {
    const { [name]: _, ...others } = sampling;
    onSet({ sampling: value === undefined ? others : { ...others, [name]: value } });
  };
  const reset = () => onSet({ sampling: {}, system: "", thinking: undefined, tools: undefined });
  const stops = sampling.stop?.join("\n") ?? "";
  const setStops = (event) => {
    const lines = event.currentTarget.value.split("\n").filter(Boolean);
    setOne("stop", lines.length > 0 ? lines : undefined);
  };
  return html`<${Dialog} title="Settings of this chat" onClose=${onClose} class="chat-drawer">
    <label class="field">
      <span>System prompt</span>
      <textarea
        rows="5" value=${system ?? ""} placeholder="How the model should answer"
        onChange=${(event) => onSet({ system: event.currentTarget.value })}
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
    <label class="field">
      <span>Stop at these texts, one a line</span>
      <textarea rows="2" value=${stops} onChange=${setStops}></textarea>
    </label>
    <${Tools} text=${conversation.tools} onChange=${(tools) => onSet({ tools })} />
    <div class="row row-end">
      <${Button} onClick=${reset}>Reset<//>
      <${Button} kind="primary" onClick=${onClose}>Done<//>
    </div>
  <//>`;
}
