import { html, useId } from "../html.js";
import { Button, IconButton } from "../ui/button.js";
import { Icon } from "../ui/icons.js";
import { ChoiceField, NumberField, SliderField, TextField } from "./fields.js";
import { StartImage } from "./start_image.js";

const SIZES = [
  ["Square", "512", "512"],
  ["Portrait", "512", "768"],
  ["Wide", "768", "512"],
  ["Large", "1024", "1024"],
];

const DETAILS = ["steps", "cfg_scale", "model", "sampler_name", "scheduler"];

const MOST_SEED = 4294967296;

function Sizes({ form, set }) {
  return html`<div class="sizes" role="group" aria-label="Size">
    ${SIZES.map(([name, width, height]) => {
      const chosen = form.width === width && form.height === height;
      return html`<button key=${name} type="button" aria-pressed=${chosen} onClick=${() => set({ width, height })}>
        <span class="sizes-shape" style=${{ width: `${width / 48}px`, height: `${height / 48}px` }}></span>
        <span>${name}</span>
      </button>`;
    })}
  </div>`;
}

function Size({ form, errors, set }) {
  const swap = () => set({ width: form.height, height: form.width });
  return html`<div class="pair pair-size">
    <${NumberField} field="width" value=${form.width} error=${errors.width} onInput=${(width) => set({ width })} />
    <${IconButton} icon="reuse" label="Swap the sides" onClick=${swap} />
    <${NumberField} field="height" value=${form.height} error=${errors.height} onInput=${(height) => set({ height })} />
  </div>`;
}

function Seed({ form, errors, set }) {
  const draw = () => set({ seed: String(Math.floor(Math.random() * MOST_SEED)) });
  return html`<${NumberField}
    field="seed"
    value=${form.seed}
    error=${errors.seed}
    placeholder="Any"
    onInput=${(seed) => set({ seed })}
  >
    ${
      form.seed
        ? html`<${IconButton} icon="close" label="Any seed" onClick=${() => set({ seed: "" })} />`
        : html`<${IconButton} icon="dice" label="Draw a seed" onClick=${draw} />`
    }
  <//>`;
}

function Engine({ form, errors, set, choices }) {
  const { samplers, schedulers, models, ask } = choices;
  const asks = { onFocus: ask, onPointerDown: ask };
  return html`${
      models.length > 1 &&
      html`<${ChoiceField}
        label="Model"
        value=${form.model}
        error=${errors.model}
        options=${models}
        none="The worker's own"
        onInput=${(model) => set({ model })}
      />`
    }
    <div class="pair">
      <${ChoiceField}
        label="Sampler"
        value=${form.sampler_name}
        error=${errors.sampler_name}
        options=${samplers}
        none="Euler a"
        onInput=${(name) => set({ sampler_name: name })}
        ...${asks}
      />
      <${ChoiceField}
        label="Scheduler"
        value=${form.scheduler}
        error=${errors.scheduler}
        options=${schedulers}
        none="Automatic"
        onInput=${(scheduler) => set({ scheduler })}
        ...${asks}
      />
    </div>`;
}

function NoWorker({ id }) {
  return html`<p id=${id} class="image-notice">
    No worker makes images at the moment. Give one an image engine:${" "}
    <code>SD_STARTUP_COMMAND</code> or <code>SD_SERVER_URL</code>, and <code>RUN_SD=true</code>.
  </p>`;
}

/**
 * What is to be made.
 * @param {object} props
 * @param {typeof import("./parameters.js").DEFAULTS} props.form
 * @param {(change: object) => void} props.set
 * @param {Record<string, string>} props.errors by field; "" is of the whole
 */
export function Form({ form, set, errors, start, onStart, choices, active, busy, blocked, onSubmit }) {
  const notice = useId();
  const submit = (event) => {
    event.preventDefault();
    onSubmit();
  };
  const press = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      submit(event);
    }
  };
  const number = (field) => html`<${NumberField}
    field=${field}
    value=${form[field]}
    error=${errors[field]}
    onInput=${(value) => set({ [field]: value })}
  />`;
  return html`<form class="image-form" noValidate onSubmit=${submit} onKeyDown=${press}>
    <div class="image-form-fields">
      <${TextField}
        label="Prompt"
        rows=${3}
        value=${form.prompt}
        error=${errors.prompt}
        placeholder="A lighthouse in the evening fog, oil painting"
        onInput=${(prompt) => set({ prompt })}
      />
      <${TextField}
        label="Negative prompt"
        rows=${1}
        value=${form.negative_prompt}
        error=${errors.negative_prompt}
        placeholder="blurry, text"
        onInput=${(text) => set({ negative_prompt: text })}
      />
      <${Sizes} form=${form} set=${set} />
      <${Size} form=${form} errors=${errors} set=${set} />
      <${StartImage} start=${start} active=${active} onStart=${onStart} />
      ${
        start &&
        html`<${SliderField}
          field="denoising_strength"
          value=${form.denoising_strength}
          onInput=${(value) => set({ denoising_strength: value })}
        />`
      }
      <div class="pair"><${Seed} form=${form} errors=${errors} set=${set} /> ${number("batch_size")}</div>
      <details class="more" open=${DETAILS.some((field) => errors[field]) || undefined}>
        <summary><${Icon} name="fold" size=${18} />Steps, guidance, sampler</summary>
        <div class="stack">
          <div class="pair">${number("steps")} ${number("cfg_scale")}</div>
          <${Engine} form=${form} errors=${errors} set=${set} choices=${choices} />
        </div>
      </details>
    </div>
    <div class="image-form-end">
      ${errors[""] && html`<p class="error-text" role="alert">${errors[""]}</p>`}
      ${blocked && html`<${NoWorker} id=${notice} />`}
      <${Button}
        type="submit"
        kind="primary"
        icon="image"
        disabled=${busy || blocked}
        aria-describedby=${blocked ? notice : undefined}
      >
        ${Number(form.batch_size) > 1 ? "Make images" : "Make image"}
      <//>
    </div>
  </form>`;
}
