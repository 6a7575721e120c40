import { html } from "../html.js";

/** The chat tab. @param {{api: object, models: object[] | null, announce: (text: string) => void}} props */
export function Chat() {
  return html`<h1 class="sr-only">Chat</h1>`;
}
