// Icons as inline SVG, drawn with strokes on a grid of 24, in the colour of the text around them.
import { html } from "../html.js";

const PATHS = {
  attach: "M20 11.5 12.3 19a5 5 0 0 1-7-7l8-8a3.4 3.4 0 0 1 4.8 4.8l-8 8a1.7 1.7 0 0 1-2.4-2.4L15 7",
  chat: "M4 5.5h16v11H10L5.5 20v-3.5H4z",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  dice: "M4.5 4.5h15v15h-15zM9 9m-.9 0a.9.9 0 1 0 1.8 0a.9.9 0 1 0-1.8 0M15 15m-.9 0a.9.9 0 1 0 1.8 0a.9.9 0 1 0-1.8 0M12 12m-.9 0a.9.9 0 1 0 1.8 0a.9.9 0 1 0-1.8 0",
  down: "M12 5v13M6 12.5l6 6 6-6",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  edit: "M4 20l1-4.5L16 4.5l3.5 3.5-11 11zM14 6.5l3.5 3.5",
  fold: "M6 9.5l6 6 6-6",
  hash: "M10 4 8 20M16 4l-2 16M4.5 9h16M3.5 15h16",
  help: "M9 9a3 3 0 1 1 4.4 2.7c-.9.5-1.4 1.1-1.4 2.3M12 17.5h.01",
  image: "M4 5h16v14H4zM4 16l4.5-4.5 4 4 3-3L20 17M15.5 9h.01",
  menu: "M4 7h16M4 12h16M4 17h16",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  moon: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  plus: "M12 5v14M5 12h14",
  retry: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  reuse: "M5 9h11l-3-3M19 15H8l3 3",
  send: "M12 19V6M6 11.5 12 5.5l6 6",
  settings: "M4 8h9M19 8h1M4 16h1M11 16h9M13 8a3 3 0 1 0 6 0 3 3 0 1 0-6 0M5 16a3 3 0 1 0 6 0 3 3 0 1 0-6 0",
  stop: "M6.5 6.5h11v11h-11z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 1 0 0-8M12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M18.4 5.6l-1.1 1.1M6.7 17.3l-1.1 1.1",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  warning: "M12 4.5 21 19.5H3zM12 10v4M12 17h.01",
};

/**
 * An icon beside a text that says what it means, or in a button that has a name.
 * @param {{name: keyof typeof PATHS, size?: number}} props
 */
export function Icon({ name, size = 20 }) {
  return html`<svg class="icon" width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true">
    <path d=${PATHS[name]} />
  </svg>`;
}
