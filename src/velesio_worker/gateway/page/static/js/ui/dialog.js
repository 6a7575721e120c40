import { html, useEffect, useId, useRef } from "../html.js";
import { IconButton } from "./button.js";

/**
 * A modal dialogue while it is there: Esc, its cross and a click beside it call `onClose`. The focus stays
 * within it, and goes back to where it was.
 * @param {{title: string, onClose: () => void, class?: string, children: unknown}} props
 */
export function Dialog({ title, onClose, class: more = "", children }) {
  const element = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    const dialog = element.current;
    dialog.showModal();
    return () => {
      dialog.close();
      before?.focus?.(); // what is taken out of the document gives nothing back by itself
    };
  }, []);
  const cancel = (event) => {
    event.preventDefault(); // whoever owns the dialogue takes it away
    onClose();
  };
  const beside = (event) => event.target === element.current && onClose();
  return html`<dialog
    ref=${element}
    class=${`dialog ${more}`}
    aria-labelledby=${id}
    onCancel=${cancel}
    onMouseDown=${beside}
  >
    <div class="dialog-body">
      <header class="dialog-head">
        <h2 id=${id}>${title}</h2>
        <${IconButton} icon="close" label="Close" onClick=${onClose} />
      </header>
      ${children}
    </div>
  </dialog>`;
}
