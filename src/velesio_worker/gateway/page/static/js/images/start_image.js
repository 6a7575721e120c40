import { html, useEffect, useId, useRef, useState } from "../html.js";
import { IconButton } from "../ui/button.js";
import { Icon } from "../ui/icons.js";
import { sizeOf, useAddress } from "./picture.js";

/** The first picture among files that were dropped, pasted or chosen. */
function pictureIn(files) {
  return [...(files ?? [])].find((file) => file.type.startsWith("image/"));
}

/**
 * The picture to begin with: dropped here, pasted anywhere on the page, or chosen.
 * @param {{start: Blob | null, active: boolean, onStart: (blob: Blob | null, size?: {width: number, height: number}) => void}} props
 */
export function StartImage({ start, active, onStart }) {
  const id = useId();
  const input = useRef(null);
  const [over, setOver] = useState(false);
  const [error, setError] = useState("");
  const address = useAddress(start);

  async function take(blob) {
    setOver(false);
    if (!blob) {
      return;
    }
    try {
      onStart(blob, await sizeOf(blob));
      setError("");
    } catch {
      setError("The browser cannot read this picture.");
    }
  }

  useEffect(() => {
    if (!active) {
      return undefined;
    }
    const paste = (event) => {
      const found = pictureIn(event.clipboardData?.files);
      if (found) {
        event.preventDefault();
        take(found);
      }
    };
    document.addEventListener("paste", paste);
    return () => document.removeEventListener("paste", paste);
  }, [active, onStart]);

  const drop = (event) => {
    event.preventDefault();
    take(pictureIn(event.dataTransfer?.files));
  };
  const hover = (event) => {
    event.preventDefault();
    setOver(true);
  };
  const chosen = (event) => {
    take(pictureIn(event.target.files));
    event.target.value = ""; // the same file may be chosen again
  };
  return html`<div class="field">
    <label for=${id}>Start image</label>
    <div
      class=${`start-image ${over ? "start-image-over" : ""}`}
      onDragOver=${hover}
      onDragLeave=${() => setOver(false)}
      onDrop=${drop}
    >
      <input ref=${input} id=${id} class="sr-only" type="file" accept="image/*" onChange=${chosen} />
      ${
        start
          ? html`<img src=${address} alt="The start image" />
              <button type="button" class="link" onClick=${() => input.current.click()}>Another one</button>
              <${IconButton} icon="trash" label="Remove the start image" onClick=${() => onStart(null)} />`
          : html`<label for=${id} class="start-image-empty">
              <${Icon} name="image" /><span>Drop, paste or <u>choose a picture</u></span>
            </label>`
      }
    </div>
    ${error && html`<p class="field-error" role="alert">${error}</p>`}
  </div>`;
}
