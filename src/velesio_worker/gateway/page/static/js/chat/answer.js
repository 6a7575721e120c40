// How the events of a job's stream become an answer. No network, no page: a stream's entries in, a message changed.

/** A new answer to be filled, in place `at`. */
export function newAnswer(id, conversation, at, model) {
  return {
    id,
    conversation,
    at,
    model,
    role: "assistant",
    content: "",
    reasoning: "",
    tools: [],
    notes: [],
    state: "running",
    phase: "sending",
    asked: Date.now(),
    tokens: 0,
  };
}

/** Have an answer that ended go on where its text ends. */
export function begunAgain(answer, model) {
  const { finish, error, warnings, usage, rate, ...kept } = answer;
  return {
    ...kept,
    model,
    base: answer.content.length,
    baseTokens: answer.tokens,
    state: "running",
    phase: "sending",
    asked: Date.now(),
    firstAt: undefined,
    run: undefined,
    worker: undefined,
    ahead: undefined,
  };
}

function forget(answer) {
  answer.content = answer.content.slice(0, answer.base ?? 0);
  answer.reasoning = answer.base === undefined ? "" : answer.reasoning;
  answer.tools = [];
  answer.tokens = answer.baseTokens ?? 0;
  answer.firstAt = undefined;
  answer.version = (answer.version ?? 0) + 1;
}

function started(answer, data) {
  answer.phase = "begun";
  answer.progress = undefined;
  answer.worker = data.worker;
  if (data.model) answer.model = data.model;
  if (data.mode === "continue") answer.notes.push({ kind: "continued", worker: data.worker });
  if (data.mode !== "restart") return;
  const lost = answer.content.length > (answer.base ?? 0) || answer.reasoning || answer.tools.length > 0;
  forget(answer);
  answer.notes.push({ kind: "restarted", worker: data.worker, lost: Boolean(lost) });
}

function addCall(answer, call) {
  const index = call.index ?? answer.tools.length;
  const known = answer.tools[index] ?? { id: "", name: "", arguments: "" };
  answer.tools[index] = {
    id: call.id ?? known.id,
    name: known.name + (call.function?.name ?? ""),
    arguments: known.arguments + (call.function?.arguments ?? ""),
  };
}

function said(answer, delta, now) {
  const calls = Array.isArray(delta.tool_calls) ? delta.tool_calls : [];
  if (!delta.content && !delta.reasoning_content && calls.length === 0) return;
  if (answer.firstAt === undefined) {
    answer.firstAt = now;
    answer.firstTokens = answer.tokens;
    answer.ttft ??= now - answer.asked;
    answer.progress = undefined;
  }
  answer.phase = "writing";
  answer.tokens += 1;
  answer.lastAt = now;
  if (delta.reasoning_content) {
    answer.reasoning += delta.reasoning_content;
    answer.thoughtAt ??= now;
  }
  if (delta.content) {
    answer.content += delta.content;
    if (answer.thoughtAt !== undefined) answer.thoughtFor ??= now - answer.thoughtAt;
  }
  for (const call of calls) addCall(answer, call);
}

function ended(answer, data) {
  answer.phase = undefined;
  answer.progress = undefined;
  answer.finish = data.finish_reason;
  answer.state = data.finish_reason === "cancelled" ? "stopped" : "done";
  if (data.warnings?.length > 0) answer.warnings = data.warnings;
  if (data.usage?.completion_tokens > 0) {
    answer.tokens = (answer.baseTokens ?? 0) + data.usage.completion_tokens;
    answer.usage = data.usage;
  }
  answer.cached = data.cached === true;
  const measured = data.timings?.predicted_per_second;
  // Of an answer that several workers wrote the last one's figure says little.
  if (measured > 0 && !answer.notes.some((note) => note.kind === "continued")) answer.rate = measured;
}

/**
 * Change an answer by an entry of its job's stream.
 * @param {object} answer
 * @param {{id: string, event: string, data: any}} entry
 * @param {number} [now] in milliseconds since 1970
 * @returns {boolean} whether the stream has ended
 */
export function apply(answer, entry, now = Date.now()) {
  const { event, data } = entry;
  if (answer.run && entry.id) answer.run.after = entry.id;
  if (event === "token") said(answer, data.choices?.[0]?.delta ?? {}, now);
  else if (event === "start") started(answer, data);
  else if (event === "progress") answer.progress = data;
  else if (event === "done") ended(answer, data);
  else if (event === "error") failed(answer, { code: data.code, message: data.error });
  return event === "done" || event === "error";
}

/** Have an answer end with an error. */
export function failed(answer, error) {
  answer.phase = undefined;
  answer.progress = undefined;
  answer.state = "failed";
  answer.error = error;
}

/** Complete an answer by its job's stored result, where the stream is gone. */
export function completed(answer, result) {
  if (result.error) {
    failed(answer, { code: result.code, message: result.error });
    return;
  }
  const whole = result.message ?? {};
  const begun = answer.content.slice(0, answer.base ?? 0);
  answer.content = begun + (whole.content ?? result.text ?? "");
  answer.reasoning = whole.reasoning_content ?? answer.reasoning;
  answer.tools = (whole.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function }));
  answer.version = (answer.version ?? 0) + 1;
  ended(answer, result);
}

/** Tokens per second so far; undefined while there is nothing to tell. */
export function rateOf(answer) {
  if (answer.rate) return answer.rate;
  const seconds = (answer.lastAt - answer.firstAt) / 1000;
  const tokens = answer.tokens - (answer.firstTokens ?? 0) - 1;
  return tokens > 0 && seconds > 0.2 ? tokens / seconds : undefined;
}

/** How many words a text has, for what is announced. */
export const wordsIn = (text) => text.match(/\S+/g)?.length ?? 0;
