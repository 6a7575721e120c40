import { html } from "../html.js";

/** The image tab. @param {{api: object, models: object[] | null, announce: (text: string) => void}} props */
export function Images() {
  return html`<h1 class="sr-only">Images</h1>`;
}
