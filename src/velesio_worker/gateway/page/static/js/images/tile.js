import { html } from "../html.js";
import { Button, IconButton } from "../ui/button.js";
import { Icon } from "../ui/icons.js";
import { Waiting } from "../ui/waiting.js";
import { fileName, seedOf } from "./parameters.js";
import { save, useAddress } from "./picture.js";

/** How far an image is, in words. */
function progressText(progress) {
  if (!progress) {
    return "Beginning";
  }
  if (progress.stage === "loading") {
    return `Getting the model ready · ${Math.round(progress.processed)} s`;
  }
  const { step, steps, eta } = progress;
  const left = typeof eta === "number" && eta >= 0.5 ? ` · ${Math.ceil(eta)} s left` : "";
  return steps ? `Step ${step} of ${steps}${left}` : "Painting";
}

function Progress({ job, lost }) {
  const { progress } = job;
  const fraction = progress?.stage === "sampling" ? progress.fraction : null;
  const text = job.state === "stopping" ? "Stopping" : progressText(progress);
  return html`<div class="tile-progress">
    <progress max="1" value=${fraction ?? undefined} aria-label="How far the image is"></progress>
    <p>${lost ? "Connection lost. The image goes on" : text}</p>
  </div>`;
}

/** An image that is being made, from the line to its last step. */
export function RunningTile({ job, jobs, api }) {
  const preview = useAddress(jobs.previews.get(job.id));
  return html`<li class="tile tile-running">
    <div class="tile-picture">
      ${preview ? html`<img src=${preview} alt="The image so far" />` : html`<span class="tile-shimmer"></span>`}
    </div>
    <div class="tile-about">
      ${
        job.state === "waiting"
          ? html`<${Waiting} api=${api} id=${job.id} kind="image" />`
          : html`<${Progress} job=${job} lost=${jobs.lost.has(job.id)} />`
      }
      ${job.note && html`<p class="tile-note">${job.note}</p>`}
      <p class="tile-prompt">${job.data.prompt}</p>
      <${Button} icon="stop" disabled=${job.state === "stopping"} onClick=${() => jobs.stop(job.id)}>Stop<//>
    </div>
  </li>`;
}

/** What there is of a job without images. */
export function EmptyTile({ job, jobs, onReuse }) {
  const failed = job.state === "failed";
  return html`<li class=${`tile tile-empty ${failed ? "tile-failed" : ""}`}>
    <div class="tile-about">
      <p class="tile-said">
        ${failed && html`<${Icon} name="warning" size=${18} />`}<span>${failed ? job.error : "Stopped"}</span>
      </p>
      <p class="tile-prompt">${job.data.prompt}</p>
      <div class="row tile-actions">
        <${Button} icon="retry" onClick=${() => onReuse(job, 0)}>Use its settings<//>
        <${IconButton} icon="trash" kind="danger" label="Remove this entry" onClick=${() => jobs.remove(job.id)} />
      </div>
    </div>
  </li>`;
}

/** Images that lie in a store of the workers': the page shows nothing of another host, and says where they are. */
export function LinkTile({ job, jobs }) {
  return html`<li class="tile tile-empty">
    <div class="tile-about">
      <p class="tile-said">
        ${job.links.map(
          (link, number) =>
            /^https?:/.test(link)
              ? html`<a key=${link} href=${link} target="_blank" rel="noreferrer">Open image ${number + 1}</a>`
              : html`<span key=${link}>${link}</span>`,
        )}
      </p>
      <p class="tile-prompt">${job.data.prompt}</p>
      <${Warnings} job=${job} />
      <${IconButton} icon="trash" kind="danger" label="Remove this entry" onClick=${() => jobs.remove(job.id)} />
    </div>
  </li>`;
}

/** What was not done as it was asked for. */
export function Warnings({ job }) {
  const told = job.note ? [job.note, ...job.warnings] : job.warnings;
  return told.length
    ? html`<ul class="warnings">
        ${told.map((text) => html`<li key=${text}><${Icon} name="warning" size=${16} /><span>${text}</span></li>`)}
      </ul>`
    : null;
}

/** An image, and what can be done with it. */
export function ImageTile({ job, number, jobs, onOpen, onSeed, onStart }) {
  const blob = job.images[number];
  const address = useAddress(blob);
  const seed = seedOf(job, number);
  const { width, height } = { ...job.data, ...job.parameters };
  const prompt = job.data.prompt;
  return html`<li class="tile">
    <button type="button" class="tile-picture" aria-label=${`Open: ${prompt}`} onClick=${onOpen}>
      <img src=${address} alt=${prompt} />
    </button>
    <div class="tile-about">
      <p class="tile-prompt">${prompt}</p>
      <p class="tile-meta">${width} × ${height}${seed === null ? "" : ` · seed ${seed}`}</p>
      ${number === 0 && html`<${Warnings} job=${job} />`}
      <div class="row tile-actions">
        <${IconButton} icon="hash" label="Use this seed" size=${18} disabled=${seed === null} onClick=${onSeed} />
        <${IconButton} icon="image" label="Start from this image" size=${18} onClick=${onStart} />
        <${IconButton} icon="download" label="Download" size=${18} onClick=${() => save(blob, fileName(job, number))} />
        <${IconButton}
          icon="trash"
          kind="danger"
          label="Delete"
          size=${18}
          onClick=${() => jobs.removeImage(job.id, number)}
        />
      </div>
    </div>
  </li>`;
}
