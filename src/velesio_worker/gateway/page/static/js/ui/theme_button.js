import { html, useState } from "../html.js";
import { IconButton } from "./button.js";

const KEY = "velesio.theme";
const THEMES = ["auto", "light", "dark"];
const ICONS = { auto: "system", light: "sun", dark: "moon" };
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

function stored() {
  try {
    const found = localStorage.getItem(KEY);
    return THEMES.includes(found) ? found : "auto";
  } catch {
    return "auto";
  }
}

/** Goes round: as the system, light, dark. theme.js applies it at the next start. */
export function ThemeButton() {
  const [theme, setTheme] = useState(stored);
  const next = () => {
    const wanted = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    setTheme(wanted);
    if (wanted === "auto") {
      delete document.documentElement.dataset.theme;
    } else {
      document.documentElement.dataset.theme = wanted;
    }
    try {
      localStorage.setItem(KEY, wanted);
    } catch {
      // it lasts as long as the page
    }
  };
  return html`<${IconButton} icon=${ICONS[theme]} label=${`Theme: ${NAMES[theme]}`} onClick=${next} />`;
}
