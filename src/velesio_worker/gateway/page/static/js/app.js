import { api } from "./api.js";
import { useFleet } from "./fleet.js";
import { html, useCallback, useEffect, useRef, useState } from "./html.js";
import { IconButton } from "./ui/button.js";
import { Icon } from "./ui/icons.js";
import { isTyping, Shortcuts } from "./ui/shortcuts.js";
import { ThemeButton } from "./ui/theme_button.js";
import { TokenDialog } from "./ui/token_dialog.js";

const TABS = [
  { id: "chat", name: "Chat", icon: "chat", load: () => import("./chat/chat.js").then((module) => module.Chat) },
  { id: "images", name: "Images", icon: "image", load: () => import("./images/images.js").then((module) => module.Images) },
];

/** The tab that the address names; it may carry more behind a slash, which is the tab's own. */
function tabOfAddress() {
  const named = location.hash.slice(1).split("/")[0];
  return TABS.some((tab) => tab.id === named) ? named : TABS[0].id;
}

function useTab() {
  const [tab, setTab] = useState(tabOfAddress);
  useEffect(() => {
    const follow = () => setTab(tabOfAddress());
    window.addEventListener("hashchange", follow);
    return () => window.removeEventListener("hashchange", follow);
  }, []);
  return tab;
}

/** Keys that do the same everywhere. */
function useShortcuts(showHelp) {
  useEffect(() => {
    const press = (event) => {
      if (event.key === "?" && !isTyping(event.target) && !document.querySelector("dialog[open]")) {
        event.preventDefault();
        showHelp();
      }
      const tab = event.altKey && !event.ctrlKey && !event.metaKey && TABS[["Digit1", "Digit2"].indexOf(event.code)];
      if (tab) {
        event.preventDefault();
        location.hash = tab.id;
      }
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, [showHelp]);
}

/** The one element that screen readers are told by: a sentence, and the next one in its place. */
function useAnnouncer() {
  const element = useRef(null);
  const announce = useCallback((text) => {
    element.current.textContent = "";
    // What is the same as before would be no change, and would not be read.
    requestAnimationFrame(() => element.current && (element.current.textContent = text));
  }, []);
  return [element, announce];
}

function fleetText({ status, trouble }) {
  if (trouble) {
    return ["away", trouble.status === 401 ? "A token is needed" : "Gateway away"];
  }
  if (!status) {
    return ["unknown", "Looking for workers"];
  }
  const count = status.workers.length;
  return count ? ["ok", count === 1 ? "1 worker" : `${count} workers`] : ["none", "No worker"];
}

function Header({ tab, fleet, showHelp }) {
  const [state, text] = fleetText(fleet);
  return html`<header class="header">
    <a class="brand" href="#chat" aria-label="Velesio"><img src="static/icon.svg" alt="" width="26" height="26" /><span>Velesio</span></a>
    <nav class="tabs" aria-label="What to make">
      ${TABS.map(
        ({ id, name, icon }) => html`<a key=${id} href=${`#${id}`} aria-current=${id === tab ? "page" : undefined}>
          <${Icon} name=${icon} size=${18} /><span>${name}</span>
        </a>`,
      )}
    </nav>
    <p class=${`fleet fleet-${state}`} title=${text}><span class="fleet-text">${text}</span></p>
    <${ThemeButton} />
    <${IconButton} icon="help" label="Keyboard shortcuts" class="wide-only" onClick=${showHelp} />
  </header>`;
}

/** What the page says while the gateway cannot be reached; whatever runs goes on without it. */
function Notice({ trouble, retry }) {
  if (!trouble) {
    return null;
  }
  if (trouble.status === 401) {
    return html`<aside class="notice" aria-label="Connection">
      Without a token the gateway answers nothing. <button type="button" class="link" onClick=${retry}>Enter one</button>
    </aside>`;
  }
  return html`<aside class="notice" aria-label="Connection">
    <span class="spinner"></span>${trouble.message} Trying again…
  </aside>`;
}

function Panel({ tab, active, ...rest }) {
  const [Content, setContent] = useState(null);
  const [visited, setVisited] = useState(active);
  const [failed, setFailed] = useState(false);
  useEffect(() => active && setVisited(true), [active]);
  useEffect(() => {
    if (visited) {
      tab.load().then(
        (found) => setContent(() => found),
        () => setFailed(true), // the gateway went away between two of its files
      );
    }
  }, [visited]);
  return html`<main class="panel" hidden=${!active}>
    ${failed && html`<p class="notice">This part of the page could not be loaded. <a href=".">Load it again</a></p>`}
    ${Content && html`<${Content} active=${active} ...${rest} />`}
  </main>`;
}

/** The page: its head, its two tabs, and what is asked or told across both. */
export function App() {
  const tab = useTab();
  const fleet = useFleet(api);
  const [helps, setHelps] = useState(false);
  const showHelp = useCallback(() => setHelps(true), []);
  const [status, announce] = useAnnouncer();
  useShortcuts(showHelp);
  useEffect(() => {
    document.title = `${TABS.find(({ id }) => id === tab).name} · Velesio`;
  }, [tab]);
  const shared = { api, models: fleet.models, status: fleet.status, announce };
  return html`<div class="shell">
    <${Header} tab=${tab} fleet=${fleet} showHelp=${showHelp} />
    <${Notice} trouble=${fleet.trouble} retry=${fleet.retry} />
    ${TABS.map((one) => html`<${Panel} key=${one.id} tab=${one} active=${one.id === tab} ...${shared} />`)}
    <p ref=${status} role="status" class="sr-only"></p>
    <${TokenDialog} />
    ${helps && html`<${Shortcuts} onClose=${() => setHelps(false)} />`}
  </div>`;
}
