import { html } from "../html.js";
import { Icon } from "./icons.js";

/**
 * A button with a text, and an icon before it if it has one.
 * @param {{icon?: string, kind?: "primary" | "plain" | "danger", type?: string, children: unknown}} props
 */
export function Button({ icon, kind = "plain", type = "button", class: more = "", children, ...rest }) {
  return html`<button type=${type} class=${`button button-${kind} ${more}`} ...${rest}>
    ${icon && html`<${Icon} name=${icon} size=${18} />`}<span>${children}</span>
  </button>`;
}

/**
 * A button that is an icon; `label` is its name, and shown when it is pointed at.
 * @param {{icon: string, label: string, kind?: "plain" | "danger"}} props
 */
export function IconButton({ icon, label, kind = "plain", class: more = "", size = 20, ...rest }) {
  const shown = `icon-button icon-button-${kind} ${more}`;
  return html`<button type="button" class=${shown} aria-label=${label} title=${label} ...${rest}>
    <${Icon} name=${icon} size=${size} />
  </button>`;
}
