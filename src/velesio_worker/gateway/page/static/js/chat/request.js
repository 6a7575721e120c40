// What is asked of a model: the job of the next answer, made of a conversation and what was said in it.

/** The parameters that the drawer offers: name as the protocol has it, what it is called, and its bounds. */
export const SAMPLING = [
  {
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 5,
    step: 0.1,
    hint: "Higher is bolder; 0 takes the likeliest token",
  },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.05, hint: "Share of likeliest tokens to draw from" },
  { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1, hint: "How many tokens to draw from; 0 is all" },
  {
    name: "min_p",
    label: "Min p",
    min: 0,
    max: 1,
    step: 0.01,
    hint: "Leave out what is so much less likely than the best",
  },
  { name: "repeat_penalty", label: "Repeat penalty", min: 0.1, max: 5, step: 0.05, hint: "Above 1 repeats less" },
  {
    name: "presence_penalty",
    label: "Presence penalty",
    min: -2,
    max: 2,
    step: 0.1,
    hint: "Above 0 prefers new words",
  },
  {
    name: "frequency_penalty",
    label: "Frequency penalty",
    min: -2,
    max: 2,
    step: 0.1,
    hint: "Above 0 avoids frequent words",
  },
  { name: "max_tokens", label: "Longest answer", min: 1, max: 1_000_000, step: 1, hint: "In tokens" },
  { name: "seed", label: "Seed", min: 0, max: 4_294_967_295, step: 1, hint: "The same seed gives the same answer" },
];

function asSent(message) {
  if (message.role === "assistant") return { role: "assistant", content: message.content };
  if (!message.images?.length) return { role: "user", content: message.content };
  const images = message.images.map((url) => ({ type: "image_url", image_url: { url } }));
  const text = message.content ? [{ type: "text", text: message.content }] : [];
  return { role: "user", content: [...text, ...images] };
}

/**
 * The job of an answer. Only what was set is sent: everything else is the engine's own default.
 * @param {import("./store.js").Conversation} conversation
 * @param {import("./store.js").Message[]} messages what was said; with an answer at its end, that is gone on with
 */
export function jobOf(conversation, messages) {
  const { system, sampling = {}, thinking, tools, model } = conversation;
  const said = messages.filter((message) => message.role === "user" || message.content !== "");
  const data = {
    messages: [...(system?.trim() ? [{ role: "system", content: system }] : []), ...said.map(asSent)],
    stream: true,
    defaults: "engine",
    ...sampling,
  };
  if (model) data.model = model;
  if (thinking) data.chat_template_kwargs = { enable_thinking: thinking === "on" };
  if (tools) data.tools = JSON.parse(tools); // the drawer hands on nothing that is no JSON
  return { type: "chat_completion", data, session: conversation.id };
}

/** What a conversation is called after what was said first. */
export function titleOf(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  if (line === "") return "Picture";
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}
