// Images for models that see: read, made small enough in the browser, and kept as data URIs.

const LONGEST_SIDE = 1280;
const QUALITY = 0.85;
const LIMIT = 8;

/** How many images a message may have. */
export const MOST_PICTURES = LIMIT;

async function decoded(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name || "This file"} is no image that the browser can read.`);
  }
}

/**
 * Scale an image down and encode it anew, which also leaves out where it was taken.
 * @param {Blob} file
 * @returns {Promise<string>} a data URI, JPEG or, with transparency, PNG
 */
export async function shrunk(file) {
  const bitmap = await decoded(file);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return file.type === "image/png" ? canvas.toDataURL("image/png") : canvas.toDataURL("image/jpeg", QUALITY);
}

/** The images among what was pasted, dropped or chosen. */
export function imagesIn(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

const known = new Map();

/**
 * Whether a model sees: true, false, or undefined where nobody says.
 *
 * Workers tell that of the loaded model alone, and only when they are asked.
 */
export async function sees(api, model, patience = 4000) {
  if (known.has(model)) return known.get(model);
  const given = AbortSignal.timeout(patience);
  try {
    const { id } = await api.submit({ type: "model_info", data: {}, timeout: patience / 1000 }, { signal: given });
    for await (const { event } of api.events(id, { signal: given })) {
      if (event !== "done") continue;
      const { result } = await api.show(id);
      if (result?.name !== model || !Array.isArray(result.modalities)) return undefined;
      known.set(model, result.modalities.includes("vision"));
      return known.get(model);
    }
  } catch {
    // nobody says
  }
  return undefined;
}
