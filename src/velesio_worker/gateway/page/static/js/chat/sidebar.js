import { html, useEffect, useRef, useState } from "../html.js";
import { Button, IconButton } from "../ui/button.js";
import { Dialog } from "../ui/dialog.js";
import { Icon } from "../ui/icons.js";
import { asJson, asMarkdown, download, fileName, fromJson } from "./exporting.js";

const DAY = 86_400_000;

function groupOf(updated, now = Date.now()) {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (updated >= midnight) return "Today";
  if (updated >= midnight - DAY) return "Yesterday";
  return updated >= midnight - 7 * DAY ? "This week" : "Older";
}

function grouped(conversations) {
  const groups = new Map();
  for (const one of conversations) {
    const name = groupOf(one.updated);
    groups.set(name, [...(groups.get(name) ?? []), one]);
  }
  return [...groups];
}

/** What can be done with one conversation, in a dialogue: short lists of buttons need no menu of their own. */
function Details({ conversation, session, onClose }) {
  const [title, setTitle] = useState(conversation.title);
  const save = async (event) => {
    event?.preventDefault();
    await session.rename(conversation.id, title);
    onClose();
  };
  const keep = async (kind) => {
    const [entry] = await session.entries([conversation.id]);
    if (kind === "json") download(fileName(conversation.title, "json"), asJson([entry]), "application/json");
    else download(fileName(conversation.title, "md"), asMarkdown(entry), "text/markdown");
  };
  const remove = async () => {
    await session.remove([conversation.id]);
    onClose();
  };
  return html`<${Dialog} title="Chat" onClose=${onClose} class="dialog-small">
    <form class="stack" onSubmit=${save}>
      <label class="field">
        <span>Title</span>
        <input value=${title} maxlength="200" onInput=${(event) => setTitle(event.currentTarget.value)} />
      </label>
      <div class="row wrap">
        <${Button} icon="download" onClick=${() => keep("md")}>Markdown<//>
        <${Button} icon="download" onClick=${() => keep("json")}>JSON<//>
        <${Button} icon="trash" kind="danger" onClick=${remove}>Delete<//>
      </div>
      <div class="row row-end"><${Button} kind="primary" type="submit">Save<//></div>
    </form>
  <//>`;
}

/** What concerns all conversations: into a file, out of one, and away. */
function Everything({ session, onClose, announce }) {
  const chooser = useRef(null);
  const [sure, setSure] = useState(false);
  const [trouble, setTrouble] = useState("");
  const ids = session.conversations.map(({ id }) => id);
  const keep = async () => download("velesio-chats.json", asJson(await session.entries(ids)), "application/json");
  const read = async (event) => {
    const [file] = event.currentTarget.files;
    event.currentTarget.value = "";
    try {
      const { conversations, messages } = fromJson(await file.text());
      await session.store.add(conversations, messages);
      announce(`${conversations.length} chats imported.`);
      onClose();
    } catch (error) {
      setTrouble(error.message);
    }
  };
  const remove = async () => {
    await session.remove(ids);
    onClose();
  };
  return html`<${Dialog} title="All chats" onClose=${onClose} class="dialog-small">
    <p class="muted">Chats are kept in this browser alone. The gateway keeps none of them.</p>
    <div class="row wrap">
      <${Button} icon="download" disabled=${ids.length === 0} onClick=${keep}>Export<//>
      <${Button} icon="attach" onClick=${() => chooser.current.click()}>Import<//>
      <input ref=${chooser} type="file" accept="application/json,.json" hidden onChange=${read} />
      ${
        sure
          ? html`<${Button} icon="trash" kind="danger" onClick=${remove}>Delete ${ids.length} chats for good<//>`
          : html`<${Button} icon="trash" kind="danger" disabled=${ids.length === 0} onClick=${() => setSure(true)}>
              Delete all
            <//>`
      }
    </div>
    ${trouble && html`<p class="error-text" role="alert">${trouble}</p>`}
  <//>`;
}

/** The list of conversations. */
export function Sidebar({ session, open, onClose, announce }) {
  const [shown, setShown] = useState(null);
  const first = useRef(null);
  useEffect(() => {
    if (open) first.current.querySelector("button").focus();
  }, [open]);
  const choose = (id) => {
    session.open(id);
    onClose();
  };
  const create = () => {
    session.create();
    onClose();
  };
  return html`<aside class=${`sidebar ${open ? "open" : ""}`} aria-label="Chats">
    <div class="sidebar-head" ref=${first}>
      <${Button} icon="plus" class="new-chat" onClick=${create}>New chat<//>
      <${IconButton} icon="close" label="Close the list" class="sidebar-close" onClick=${onClose} />
    </div>
    <nav class="chats" aria-label="Chats">
      ${grouped(session.conversations).map(
        ([name, conversations]) => html`<section key=${name}>
          <h2>${name}</h2>
          <ul>
            ${conversations.map((one) => {
              const here = one.id === session.conversation.id;
              return html`<li key=${one.id} class=${here ? "here" : ""}>
                <button
                  type="button" class="chat-title" aria-current=${here ? "true" : undefined}
                  onClick=${() => choose(one.id)}
                >
                  ${one.title}
                </button>
                <${IconButton} icon="more" label=${`More of ${one.title}`} size=${18} onClick=${() => setShown(one)} />
              </li>`;
            })}
          </ul>
        </section>`,
      )}
      ${session.conversations.length === 0 &&
      html`<p class="muted none">What you ask is kept here, in this browser alone.</p>`}
    </nav>
    <button type="button" class="all-chats" onClick=${() => setShown("all")}>
      <${Icon} name="download" size=${17} /><span>Export, import, delete</span>
    </button>
    ${shown === "all" &&
    html`<${Everything} session=${session} announce=${announce} onClose=${() => setShown(null)} />`}
    ${shown?.id && html`<${Details} conversation=${shown} session=${session} onClose=${() => setShown(null)} />`}
  </aside>`;
}
