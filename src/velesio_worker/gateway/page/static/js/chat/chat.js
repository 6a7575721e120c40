import { html, useCallback, useEffect, useLayoutEffect, useReducer, useState } from "../html.js";
import { IconButton } from "../ui/button.js";
import { Composer } from "./composer.js";
import { Drawer } from "./drawer.js";
import { Answer, Question } from "./message.js";
import { Session } from "./session.js";
import { Sidebar } from "./sidebar.js";
import { useStick } from "./stick.js";
import { Store } from "./store.js";

const IDEAS = [
  "Explain how a queue keeps its order",
  "Write a haiku about a graphics card",
  "Show a quicksort in Python, with a table of its costs",
];

/** The session of this tab, once the browser's store is open; false if it cannot be. */
function useSession(api, announce) {
  const [session, setSession] = useState(null);
  const [, changed] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    Store.open().then(
      (store) => {
        const made = new Session({ api, store, announce });
        made.subscribe(() => changed());
        setSession(made);
        return made.begin();
      },
      () => setSession(false),
    );
  }, []);
  return session;
}

/** Esc stops what is being written, unless it closes something. */
function useEscape({ session, active, list, close }) {
  useEffect(() => {
    if (!session || !active) return undefined;
    const press = (event) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
      if (document.querySelector("dialog[open]") || !(list || session.run)) return;
      event.preventDefault();
      if (list) close();
      else session.stop();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, [session, active, list]);
}

function Models({ models, value, onChange }) {
  const known = models.some(({ id }) => id === value);
  const choose = (event) => onChange(event.currentTarget.value);
  return html`<select class="model" aria-label="Model" value=${value} onChange=${choose}>
    ${models.length === 0 && !value && html`<option value="">No model yet</option>`}
    ${value && !known && html`<option value=${value}>${value}</option>`}
    ${models.map(({ id }) => html`<option key=${id} value=${id}>${id}</option>`)}
  </select>`;
}

function Welcome({ onChoose }) {
  return html`<div class="welcome">
    <h1>Ask anything</h1>
    <p class="muted">Answers are written by your own workers, token by token.</p>
    <ul>
      ${IDEAS.map(
        (idea) => html`<li key=${idea}><button type="button" onClick=${() => onChoose(idea)}>${idea}</button></li>`,
      )}
    </ul>
  </div>`;
}

function Thread({ session, stick, announce }) {
  const { messages } = session;
  const shared = { session, announce, onAsked: stick.jump };
  return html`<div class="thread">
    ${messages.map((message, n) =>
      message.role === "user"
        ? html`<${Question} key=${message.id} message=${message} ...${shared} />`
        : html`<${Answer}
            key=${message.id} message=${message} run=${session.runs.get(message.id)} last=${n === messages.length - 1}
            onShown=${stick.follow} ...${shared}
          />`,
    )}
  </div>`;
}

/** The open conversation. */
function Conversation({ api, session, models, announce, onList }) {
  const stick = useStick();
  const [settings, setSettings] = useState(false);
  const { conversation, messages } = session;
  const model = conversation.model ?? models[0]?.id ?? "";
  useLayoutEffect(stick.jump, [conversation.id, messages.length === 0]);
  const ask = (text) => {
    session.send(text);
    stick.jump();
  };
  const changed = Object.keys(conversation.sampling ?? {}).length > 0 || conversation.system?.trim();
  return html`<section class="conversation" aria-label="Conversation">
    <header class="conversation-head">
      <${IconButton} icon="menu" label="Chats" class="list-button" onClick=${onList} />
      <${Models} models=${models} value=${model} onChange=${(id) => session.set({ model: id })} />
      <h2 class="conversation-title">${conversation.title}</h2>
      <${IconButton}
        icon="settings" label="Settings of this chat" class=${changed ? "is-set" : ""}
        onClick=${() => setSettings(true)}
      />
    </header>
    <div class="scroller" ref=${stick.scroller} tabindex="0" role="region" aria-label="Messages">
      ${
        messages.length === 0
          ? html`<${Welcome} onChoose=${ask} />`
          : html`<${Thread} session=${session} stick=${stick} announce=${announce} />`
      }
    </div>
    <div class="bottom">
      ${stick.away && html`<${IconButton} icon="down" label="To the end" class="to-end" onClick=${stick.jump} />`}
      <${Composer} key=${conversation.id} session=${session} model=${model} api=${api} onAsked=${stick.jump} />
    </div>
    ${
      settings &&
      html`<${Drawer}
        conversation=${conversation} onSet=${(changes) => session.set(changes)} onClose=${() => setSettings(false)}
      />`
    }
  </section>`;
}

/**
 * The chat tab.
 * @param {{api: object, models: object[] | undefined, announce: (text: string) => void, active?: boolean}} props
 */
export function Chat({ api, models, announce, active = true }) {
  const session = useSession(api, announce);
  const [list, setList] = useState(false);
  const close = useCallback(() => setList(false), []);
  useEscape({ session, active, list, close });
  if (session === null) return null;
  if (session === false) {
    return html`<p class="notice">This browser keeps nothing for the page: chats need its storage (IndexedDB).</p>`;
  }
  const texts = (models ?? []).filter(({ kind }) => kind === undefined || kind === "text");
  return html`<div class="chat">
    <${Sidebar} session=${session} open=${list} onClose=${close} announce=${announce} />
    ${list && html`<div class="shade" onClick=${close}></div>`}
    <${Conversation} api=${api} session=${session} models=${texts} announce=${announce} onList=${() => setList(true)} />
  </div>`;
}
