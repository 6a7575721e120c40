// Pictures as files, as base64, and as addresses within the page.
import { useEffect, useState } from "../html.js";

/**
 * A picture cut and scaled to a size, so that nothing is distorted and nothing larger than needed is sent.
 * @param {Blob} blob any picture that the browser can read. Throws where it cannot.
 * @returns {Promise<string>} a PNG as base64.
 */
export async function fitted(blob, width, height) {
  const bitmap = await createImageBitmap(blob);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [wide, high] = [bitmap.width * scale, bitmap.height * scale];
  canvas.getContext("2d").drawImage(bitmap, (width - wide) / 2, (height - high) / 2, wide, high);
  bitmap.close();
  return canvas.toDataURL("image/png").split(",")[1];
}

/** The size of a picture. Throws where the browser cannot read it. @param {Blob} blob */
export async function sizeOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const size = { width: bitmap.width, height: bitmap.height };
  bitmap.close();
  return size;
}

/** An address of a blob while a component shows it. @param {Blob | null | undefined} blob */
export function useAddress(blob) {
  const [address, setAddress] = useState(null);
  useEffect(() => {
    if (!blob) {
      setAddress(null);
      return undefined;
    }
    const made = URL.createObjectURL(blob);
    setAddress(made);
    return () => URL.revokeObjectURL(made);
  }, [blob]);
  return address;
}

/** Has the browser save a blob. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const BETWEEN = 200; // milliseconds; browsers drop some of many downloads that begin at once

/** Has the browser save several, which it may ask its user about. @param {{blob: Blob, name: string}[]} files */
export async function saveAll(files) {
  for (const { blob, name } of files) {
    save(blob, name);
    await new Promise((resolve) => setTimeout(resolve, BETWEEN));
  }
}
