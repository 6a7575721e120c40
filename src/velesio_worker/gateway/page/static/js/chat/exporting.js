// Conversations as files: JSON, which can be read again, and Markdown, for people.

import { newId } from "./store.js";

const FORMAT = "velesio-chat";
const ROLES = new Set(["user", "assistant"]);
const IMAGE = /^data:image\/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+$/;

/** @returns {string} JSON with everything that is kept of these conversations */
export function asJson(entries) {
  const conversations = entries.map(({ conversation, messages }) => ({ ...conversation, messages }));
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

/** @returns {string} one conversation, to be read */
export function asMarkdown({ conversation, messages }) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system?.trim()) parts.push(`> ${conversation.system.trim().replaceAll("\n", "\n> ")}`);
  for (const message of messages) {
    parts.push(`## ${message.role === "user" ? "You" : (message.model ?? "Answer")}`);
    if (message.images?.length) parts.push(`(${message.images.length} images)`);
    if (message.content) parts.push(message.content);
    for (const tool of message.tools ?? []) parts.push(`\`\`\`json\n${tool.name}(${tool.arguments})\n\`\`\``);
  }
  return `${parts.join("\n\n")}\n`;
}

/** Tools as the drawer would hand them on; none of what is no list. */
function toolsFrom(raw) {
  try {
    return Array.isArray(JSON.parse(raw)) ? raw : undefined;
  } catch {
    return undefined;
  }
}

/** Sampling of which every value is a number, or else a list of texts to stop at. */
function samplingFrom(raw) {
  const entries = Object.entries(raw ?? {}).filter(
    ([name, value]) => typeof value === "number" || (name === "stop" && Array.isArray(value)),
  );
  return Object.fromEntries(entries);
}

const text = (value, otherwise = "") => (typeof value === "string" ? value : otherwise);

function messageFrom(raw, conversation, at) {
  if (!ROLES.has(raw?.role)) throw new Error("A message in this file has no role.");
  const message = { id: newId(), conversation, at, role: raw.role, content: text(raw.content) };
  if (raw.role === "user") {
    return { ...message, images: (Array.isArray(raw.images) ? raw.images : []).filter((one) => IMAGE.test(one)) };
  }
  const tools = (Array.isArray(raw.tools) ? raw.tools : []).map((tool) => ({
    id: text(tool?.id),
    name: text(tool?.name),
    arguments: text(tool?.arguments),
  }));
  return {
    ...message,
    tools,
    reasoning: text(raw.reasoning),
    model: text(raw.model),
    notes: [],
    tokens: 0,
    state: "done",
    finish: text(raw.finish, "stop"),
  };
}

/**
 * Read a file that `asJson` wrote. Ids are new, so nothing that is there is replaced.
 * @returns {{conversations: object[], messages: object[]}}
 */
export function fromJson(source) {
  let read;
  try {
    read = JSON.parse(source);
  } catch {
    throw new Error("This file is no JSON.");
  }
  if (read?.format !== FORMAT || !Array.isArray(read.conversations)) {
    throw new Error("This file holds no conversations of this page.");
  }
  const conversations = [];
  const messages = [];
  for (const raw of read.conversations) {
    const id = newId();
    const now = Date.now();
    conversations.push({
      id,
      title: text(raw?.title, "Imported") || "Imported",
      created: Number(raw?.created) || now,
      updated: Number(raw?.updated) || now,
      system: text(raw?.system),
      sampling: samplingFrom(raw?.sampling),
      tools: toolsFrom(raw?.tools),
      thinking: ["on", "off"].includes(raw?.thinking) ? raw.thinking : undefined,
      model: text(raw?.model) || undefined,
    });
    const said = Array.isArray(raw?.messages) ? raw.messages : [];
    said.forEach((message, at) => messages.push(messageFrom(message, id, at)));
  }
  return { conversations, messages };
}

/** Have the browser keep a text as a file. */
export function download(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A name that every file system takes. */
export function fileName(title, ending) {
  const plain = title
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 60);
  return `${plain || "conversation"}.${ending}`;
}
