// An image job as the browser keeps it.

const PNG = "image/png";

/**
 * One job as it is kept and shown.
 * @typedef {object} ImageJob
 * @property {string} id
 * @property {number} created Unix time in milliseconds
 * @property {"txt2img" | "img2img"} type
 * @property {object} data what was asked for, without the start image
 * @property {"waiting" | "running" | "stopping" | "done" | "stopped" | "failed"} state
 * @property {string} last the last entry of its stream that was seen
 * @property {object | null} progress the data of the last entry that told how far it is
 * @property {string} note what happened on the way, such as a worker that was lost
 * @property {Blob[]} images
 * @property {string[]} links images that lie elsewhere
 * @property {object | null} parameters those that were really used
 * @property {number[]} seeds of each image
 * @property {object | null} info what the image engine says itself
 * @property {string[]} warnings
 * @property {string} error
 */

/** Whether a job has come to its end. @param {ImageJob} job */
export function hasEnded({ state }) {
  return state === "done" || state === "stopped" || state === "failed";
}

function picture(text) {
  const bytes = atob(text);
  return new Blob([Uint8Array.from(bytes, (byte) => byte.charCodeAt(0))], { type: PNG });
}

/** What a result says, as a job keeps it. @param {object} result */
export function ofResult(result) {
  const stored = result.images_stored === true;
  const images = result.images ?? [];
  return {
    images: stored ? [] : images.map(picture),
    links: stored ? images : [],
    parameters: result.parameters ?? null,
    seeds: result.seeds ?? [],
    info: result.info ?? null,
    warnings: result.warnings ?? [],
  };
}

/** A job that was submitted just now. @returns {ImageJob} */
export function newJob(id, type, data) {
  const { init_images: _, ...kept } = data; // it may be large, and is not shown again
  return {
    id,
    created: Date.now(),
    type,
    data: kept,
    state: "waiting",
    last: "0-0",
    progress: null,
    note: "",
    ...ofResult({}),
    error: "",
  };
}
