import { html, useEffect, useState } from "../html.js";
import { token } from "../token.js";
import { Button } from "./button.js";
import { Dialog } from "./dialog.js";

/** Asks for a token whenever the gateway wants one; it is kept for this tab, until that is closed. */
export function TokenDialog() {
  const [needed, setNeeded] = useState(null);
  const [text, setText] = useState("");
  useEffect(() => token.onNeeded(setNeeded), []);
  if (!needed) {
    return null;
  }
  const close = (act) => {
    setNeeded(null);
    setText("");
    act();
  };
  const submit = (event) => {
    event.preventDefault();
    if (text.trim()) {
      close(() => token.set(text));
    }
  };
  return html`<${Dialog} title="A token is needed" onClose=${() => close(token.refuse)} class="dialog-small">
    <form class="stack" onSubmit=${submit}>
      <p class="muted">This gateway answers who shows a token. It is kept in this tab, until you close it.</p>
      <label class="field">
        <span>Token</span>
        <input
          type="password"
          autocomplete="off"
          autofocus
          value=${text}
          aria-invalid=${needed.wrong ? "true" : undefined}
          aria-describedby=${needed.wrong ? "token-wrong" : undefined}
          onInput=${(event) => setText(event.target.value)}
        />
      </label>
      ${needed.wrong && html`<p id="token-wrong" class="error-text">The token that was shown is not one of the gateway's.</p>`}
      <div class="row row-end">
        <${Button} type="submit" kind="primary">Use this token<//>
      </div>
    </form>
  <//>`;
}
