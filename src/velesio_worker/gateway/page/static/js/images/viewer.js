import { html } from "../html.js";
import { Button } from "../ui/button.js";
import { Dialog } from "../ui/dialog.js";
import { described, fileName } from "./parameters.js";
import { save, useAddress } from "./picture.js";
import { Warnings } from "./tile.js";

/** One image as large as there is room, with the parameters that were really used. */
export function Viewer({ job, number, onClose, onReuse, onSeed, onStart }) {
  const blob = job.images[number];
  const address = useAddress(blob);
  const then = (act) => () => {
    act();
    onClose();
  };
  return html`<${Dialog} title="Image" class="viewer" onClose=${onClose}>
    <div class="viewer-body">
      <img src=${address} alt=${job.data.prompt} />
      <div class="stack">
        <dl class="viewer-parameters">
          ${described(job, number).map(
            ([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`,
          )}
        </dl>
        <${Warnings} job=${job} />
        <div class="viewer-actions">
          <${Button} icon="download" onClick=${() => save(blob, fileName(job, number))}>Download<//>
          <${Button} icon="hash" onClick=${then(onSeed)}>Use this seed<//>
          <${Button} icon="reuse" onClick=${then(onReuse)}>Use all settings<//>
          <${Button} icon="image" onClick=${then(onStart)}>Start from it<//>
        </div>
        ${
          job.info &&
          Object.keys(job.info).length > 0 &&
          html`<details class="viewer-info">
            <summary>What the image engine says</summary>
            <pre tabindex="0">${JSON.stringify(job.info, null, 2)}</pre>
          </details>`
        }
      </div>
    </div>
  <//>`;
}
