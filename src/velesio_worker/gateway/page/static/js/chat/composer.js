import { html, useEffect, useLayoutEffect, useRef, useState } from "../html.js";
import { IconButton } from "../ui/button.js";
import { Pictures } from "./message.js";
import { MOST_PICTURES, imagesIn, sees, shrunk } from "./pictures.js";

const DRAFT = "velesio.chat.draft.";
const TALLEST = 260;

/** On a phone there is no Shift+Enter: Enter makes a line there, and the button sends. */
const onPhone = () => matchMedia("(max-width: 480px), (pointer: coarse)").matches;

/** Whether a key sends what was typed. What an input method composes with Enter is never sent by it. */
export function sends(event, phone = onPhone()) {
  const composing = event.isComposing || event.keyCode === 229;
  return event.key === "Enter" && !event.shiftKey && !event.altKey && !composing && (!phone || event.ctrlKey);
}

/** What is dropped anywhere on the conversation goes with the next question: the browser would open it instead. */
function useDrop(field, take) {
  const latest = useRef(take);
  latest.current = take;
  useEffect(() => {
    const host = field.current.closest(".conversation");
    const over = (event) => event.preventDefault();
    const drop = (event) => {
      event.preventDefault();
      latest.current(event, event.dataTransfer);
    };
    host.addEventListener("dragover", over);
    host.addEventListener("drop", drop);
    return () => {
      host.removeEventListener("dragover", over);
      host.removeEventListener("drop", drop);
    };
  }, []);
}

/** The text of a conversation that was not sent yet; it outlives a reload. */
function useDraft(id) {
  const [text, setText] = useState(() => sessionStorage.getItem(DRAFT + id) ?? "");
  useEffect(() => setText(sessionStorage.getItem(DRAFT + id) ?? ""), [id]);
  const change = (value) => {
    setText(value);
    try {
      if (value) sessionStorage.setItem(DRAFT + id, value);
      else sessionStorage.removeItem(DRAFT + id);
    } catch {
      // there is no room for it: then it lives as long as the page
    }
  };
  return [text, change];
}

/** The pictures that go with the next question. */
function usePictures({ api, model, onTrouble }) {
  const [images, setImages] = useState([]);
  const add = async (files) => {
    if (files.length === 0) return;
    const known = await sees(api, model);
    if (known === false) {
      onTrouble(`${model} takes no images. Choose a model that does.`);
      return;
    }
    try {
      const made = await Promise.all(files.map((file) => shrunk(file)));
      setImages((before) => [...before, ...made].slice(0, MOST_PICTURES));
    } catch (error) {
      onTrouble(error.message);
    }
  };
  return {
    images,
    add,
    remove: (n) => setImages((all) => all.filter((_, at) => at !== n)),
    clear: () => setImages([]),
  };
}

/**
 * Where one writes.
 * @param {{session: object, model: string, api: object, onAsked: () => void}} props
 */
export function Composer({ session, model, api, onAsked }) {
  const { busy, run, conversation } = session;
  const field = useRef(null);
  const chooser = useRef(null);
  const [text, setText] = useDraft(conversation.draft ? "new" : conversation.id);
  const [trouble, setTrouble] = useState("");
  const pictures = usePictures({ api, model, onTrouble: setTrouble });
  const empty = text.trim() === "" && pictures.images.length === 0;

  useLayoutEffect(() => {
    const { current } = field;
    current.style.height = "auto";
    current.style.height = `${Math.min(TALLEST, current.scrollHeight + 2)}px`;
  }, [text]);
  useEffect(() => {
    if (!onPhone()) field.current.focus();
  }, [conversation.id]);

  const send = () => {
    if (empty || busy) return;
    session.send(text.trim(), pictures.images);
    setText("");
    pictures.clear();
    setTrouble("");
    onAsked();
  };
  const press = (event) => {
    if (!sends(event)) return;
    event.preventDefault();
    send();
  };
  const take = (event, transfer) => {
    const files = imagesIn(transfer);
    if (files.length === 0) return;
    event.preventDefault();
    pictures.add(files);
  };
  useDrop(field, take);
  const choose = (event) => {
    pictures.add([...event.currentTarget.files]);
    event.currentTarget.value = "";
  };
  const stop = () => {
    session.stop();
    field.current.focus();
  };

  return html`<form
    class="composer"
    onSubmit=${(event) => {
      event.preventDefault();
      send();
    }}
  >
    ${trouble && html`<p class="error-text" role="alert">${trouble}</p>`}
    <div class="composer-box">
      <${Pictures} images=${pictures.images} onRemove=${pictures.remove} />
      <textarea
        ref=${field}
        rows="1"
        placeholder="Write a message"
        aria-label="Message"
        value=${text}
        enterkeyhint=${onPhone() ? "enter" : "send"}
        onInput=${(event) => setText(event.currentTarget.value)}
        onKeyDown=${press}
        onPaste=${(event) => take(event, event.clipboardData)}
      ></textarea>
      <div class="composer-row">
        <${IconButton} icon="attach" label="Add pictures" onClick=${() => chooser.current.click()} />
        <input ref=${chooser} type="file" accept="image/*" multiple hidden onChange=${choose} />
        <span class="composer-hint muted">${onPhone() ? "" : "Enter sends, Shift+Enter makes a line"}</span>
        ${
          busy
            ? html`<${IconButton}
              icon="stop" label="Stop" class="send stop" key="stop"
              disabled=${run === undefined || run.stopping} onClick=${stop}
            />`
            : html`<${IconButton} icon="send" label="Send" class="send" key="send" type="submit" disabled=${empty} />`
        }
      </div>
    </div>
  </form>`;
}
