// What the form holds, what a job takes, and how an image is described: no markup and no state.

export const SMALLEST = 64;
export const LARGEST = 2048;
const UNIT = 8;
const LARGEST_SEED = 4294967295;

/** What the form holds at first. Numbers are texts, as the fields have them; empty means the worker's choice. */
export const DEFAULTS = {
  prompt: "",
  negative_prompt: "",
  width: "512",
  height: "512",
  steps: "20",
  cfg_scale: "7",
  sampler_name: "",
  scheduler: "",
  seed: "",
  batch_size: "1",
  denoising_strength: "0.6",
  model: "",
};

/** The numbers of the form: what they are called, and how they are bounded. */
export const NUMBERS = {
  width: { name: "Width", min: SMALLEST, max: 16384, step: UNIT, whole: true },
  height: { name: "Height", min: SMALLEST, max: 16384, step: UNIT, whole: true },
  steps: { name: "Steps", min: 1, max: 150, step: 1, whole: true },
  cfg_scale: { name: "Guidance (CFG)", min: 0, max: 100, step: 0.5 },
  seed: { name: "Seed", min: 0, max: LARGEST_SEED, step: 1, whole: true, optional: true },
  batch_size: { name: "How many", min: 1, max: 16, step: 1, whole: true },
  denoising_strength: { name: "Change of the start image", min: 0, max: 1, step: 0.05 },
};

/** What is wrong with a form, by field; empty where nothing is. @param {typeof DEFAULTS} form */
export function mistakes(form) {
  const found = {};
  if (!form.prompt.trim()) {
    found.prompt = "Say what there is to see.";
  }
  for (const [field, { min, max, step, whole, optional }] of Object.entries(NUMBERS)) {
    const text = form[field].trim();
    const value = Number(text);
    if (!text) {
      if (!optional) {
        found[field] = "A number is needed.";
      }
    } else if (Number.isNaN(value) || value < min || value > max) {
      found[field] = `From ${min} to ${max}.`;
    } else if (whole && (!Number.isInteger(value) || (step > 1 && value % step))) {
      found[field] = step > 1 ? `A multiple of ${step}.` : "A whole number.";
    }
  }
  return found;
}

/**
 * The parameters of a job.
 * @param {typeof DEFAULTS} form without mistakes.
 * @param {string | null} start a start image as base64.
 */
export function jobOf(form, start) {
  const data = {
    prompt: form.prompt.trim(),
    width: Number(form.width),
    height: Number(form.height),
    steps: Number(form.steps),
    cfg_scale: Number(form.cfg_scale),
    batch_size: Number(form.batch_size),
  };
  const texts = ["negative_prompt", "sampler_name", "scheduler", "model"];
  for (const field of texts.filter((name) => form[name].trim())) {
    data[field] = form[field].trim();
  }
  if (form.seed.trim()) {
    data.seed = Number(form.seed);
  }
  if (start === null) {
    return { type: "txt2img", data };
  }
  const strength = Number(form.denoising_strength);
  return { type: "img2img", data: { ...data, init_images: [start], denoising_strength: strength } };
}

/**
 * A form that asks for an image as it was made, its seed included.
 * @param {import("./record.js").ImageJob} job
 * @param {number} number which of its images
 */
export function formOf(job, number) {
  const used = { ...job.data, ...job.parameters, seed: seedOf(job, number) ?? job.data.seed };
  const found = { ...DEFAULTS };
  for (const field of Object.keys(DEFAULTS).filter((name) => name in job.data || name === "seed")) {
    found[field] = String(used[field] ?? DEFAULTS[field]);
  }
  return { ...found, batch_size: "1" };
}

const ROWS = [
  ["prompt", "Prompt"],
  ["negative_prompt", "Negative prompt"],
  ["model", "Model"],
  ["size", "Size"],
  ["steps", "Steps"],
  ["sampler_name", "Sampler"],
  ["scheduler", "Scheduler"],
  ["cfg_scale", "Guidance (CFG)"],
  ["denoising_strength", "Change of the start image"],
];

/** The parameters that an image was made with, as rows of a table. */
export function described(job, number) {
  const used = { ...job.data, ...job.parameters };
  used.size = `${used.width} × ${used.height}`;
  const rows = ROWS.filter(([field]) => used[field] !== undefined && used[field] !== null && used[field] !== "");
  const seed = seedOf(job, number);
  const found = rows.map(([field, name]) => [name, String(used[field])]);
  return seed === null ? found : [...found, ["Seed", String(seed)]];
}

/** The seed of one image of a job; null where it is not known. */
export function seedOf(job, number) {
  return job.seeds[number] ?? (number === 0 ? (job.parameters?.seed ?? null) : null);
}

/** The name of the file that an image is saved as. */
export function fileName(job, number) {
  const words = job.data.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["image"];
  const seed = seedOf(job, number);
  const name = words.slice(0, 6).join("-").slice(0, 60);
  return `${name}${seed === null ? "" : `-${seed}`}.png`;
}

/** A size of the same proportions as a picture, of about as many pixels as `area`, in steps of 64. */
export function sizeLike(width, height, area) {
  const scale = Math.sqrt(area / (width * height));
  const side = (pixels) => Math.min(LARGEST, Math.max(SMALLEST, Math.round((pixels * scale) / 64) * 64));
  return { width: String(side(width)), height: String(side(height)) };
}
