// The fields of the form: each has a label, and says beneath what is wrong with it.
import { html, useId } from "../html.js";
import { NUMBERS } from "./parameters.js";

function Mistake({ id, text }) {
  return text ? html`<p id=${id} class="field-error">${text}</p>` : null;
}

/** A label, the input beneath it, and what is wrong with it; `children` makes the input of the attributes it is given. */
function Field({ label, error, children }) {
  const id = useId();
  const mistake = `${id}-error`;
  const given = error ? { id, "aria-invalid": "true", "aria-describedby": mistake } : { id };
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${children(given)}
    <${Mistake} id=${mistake} text=${error} />
  </div>`;
}

/** A text of several lines. */
export function TextField({ label, value, error, onInput, rows = 3, ...rest }) {
  const input = (given) => html`<textarea
    rows=${rows}
    value=${value}
    onInput=${(event) => onInput(event.target.value)}
    ...${given}
    ...${rest}
  ></textarea>`;
  return html`<${Field} label=${label} error=${error}>${input}<//>`;
}

/** A number of the form; `children` stand beside it. */
export function NumberField({ field, value, error, onInput, children, type = "number", ...rest }) {
  const { name, min, max, step } = NUMBERS[field];
  const input = (given) => html`<div class="row">
    <input
      type=${type}
      inputmode="decimal"
      min=${min}
      max=${max}
      step=${step}
      value=${value}
      onInput=${(event) => onInput(event.target.value)}
      ...${given}
      ...${rest}
    />
    ${children}
  </div>`;
  return html`<${Field} label=${name} error=${error}>${input}<//>`;
}

/** A number that is set by a slider, and shown beside it. */
export function SliderField({ value, ...rest }) {
  return html`<${NumberField} type="range" value=${value} ...${rest}>
    <span class="slider-value" aria-hidden="true">${Number(value).toFixed(2)}</span>
  <//>`;
}

/** One of several texts; the first is what the worker chooses itself. */
export function ChoiceField({ label, value, options, none, error, onInput, ...rest }) {
  const listed = value && !options.includes(value) ? [value, ...options] : options;
  const input = (given) => html`<select
    onChange=${(event) => onInput(event.target.value)}
    ...${given}
    ...${rest}
  >
    <option value="" selected=${!value}>${none}</option>
    ${listed.map((name) => html`<option key=${name} value=${name} selected=${name === value}>${name}</option>`)}
  </select>`;
  return html`<${Field} label=${label} error=${error}>${input}<//>`;
}
