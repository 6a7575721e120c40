// The fields of the form: each has a label, and says beneath what is wrong with it.
import { html, useId } from "../html.js";
import { NUMBERS } from "./parameters.js";

function Mistake({ id, text }) {
  return text ? html`<p id=${id} class="field-error">${text}</p>` : null;
}

/** A text of several lines. */
export function TextField({ label, value, error, onInput, rows = 3, ...rest }) {
  const id = useId();
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <textarea
      id=${id}
      rows=${rows}
      value=${value}
      aria-invalid=${error ? "true" : undefined}
      aria-describedby=${error ? `${id}-error` : undefined}
      onInput=${(event) => onInput(event.target.value)}
      ...${rest}
    ></textarea>
    <${Mistake} id=${`${id}-error`} text=${error} />
  </div>`;
}

/** A number of the form; `children` stand beside it. */
export function NumberField({ field, value, error, onInput, children, ...rest }) {
  const id = useId();
  const { name, min, max, step } = NUMBERS[field];
  return html`<div class="field">
    <label for=${id}>${name}</label>
    <div class="row">
      <input
        id=${id}
        type="number"
        inputmode="decimal"
        min=${min}
        max=${max}
        step=${step}
        value=${value}
        aria-invalid=${error ? "true" : undefined}
        aria-describedby=${error ? `${id}-error` : undefined}
        onInput=${(event) => onInput(event.target.value)}
        ...${rest}
      />
      ${children}
    </div>
    <${Mistake} id=${`${id}-error`} text=${error} />
  </div>`;
}

/** A number that is set by a slider, and shown beside it. */
export function SliderField({ field, value, onInput }) {
  const id = useId();
  const { name, min, max, step } = NUMBERS[field];
  return html`<div class="field">
    <label for=${id}>${name}</label>
    <div class="row">
      <input
        id=${id}
        type="range"
        min=${min}
        max=${max}
        step=${step}
        value=${value}
        onInput=${(event) => onInput(event.target.value)}
      />
      <span class="slider-value" aria-hidden="true">${Number(value).toFixed(2)}</span>
    </div>
  </div>`;
}

/** One of several texts; the first is what the worker chooses itself. */
export function ChoiceField({ label, value, options, none, error, onInput, ...rest }) {
  const id = useId();
  const listed = value && !options.includes(value) ? [value, ...options] : options;
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <select
      id=${id}
      aria-invalid=${error ? "true" : undefined}
      aria-describedby=${error ? `${id}-error` : undefined}
      onChange=${(event) => onInput(event.target.value)}
      ...${rest}
    >
      <option value="" selected=${!value}>${none}</option>
      ${listed.map((name) => html`<option key=${name} value=${name} selected=${name === value}>${name}</option>`)}
    </select>
    <${Mistake} id=${`${id}-error`} text=${error} />
  </div>`;
}
