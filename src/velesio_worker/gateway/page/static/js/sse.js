// Server-sent events over a fetch body: EventSource can send no token, and says nothing of why it fails.

/**
 * Yields the events of a stream as they come, to its end.
 *
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 * @param {ReadableStream<Uint8Array>} body the body of an answer.
 * @param {() => void} [onChunk] called whenever something comes, be it a comment that says that the line lives.
 * @returns {AsyncGenerator<{id: string, event: string, data: string}>}
 */
export async function* readEvents(body, onChunk) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new Parser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      onChunk?.();
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever leaves early hangs up
  }
}

/** Events of text that comes in pieces, which may end anywhere. */
export class Parser {
  #rest = "";
  #id = "";
  #event = "";
  #data = [];

  /**
   * @param {string} text the next piece.
   * @returns {{id: string, event: string, data: string}[]} the events that are whole by now.
   */
  feed(text) {
    const found = [];
    const all = this.#rest + text;
    let at = 0;
    for (let end = all.indexOf("\n", at); end >= 0; end = all.indexOf("\n", at)) {
      const line = all.slice(at, all[end - 1] === "\r" && end > at ? end - 1 : end);
      at = end + 1;
      if (line) {
        this.#take(line);
      } else {
        if (this.#data.length) {
          found.push({ id: this.#id, event: this.#event || "message", data: this.#data.join("\n") });
        }
        this.#event = "";
        this.#data = [];
      }
    }
    this.#rest = all.slice(at);
    return found;
  }

  #take(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "id") {
      this.#id = value;
    } else if (name === "event") {
      this.#event = value;
    } else if (name === "data") {
      this.#data.push(value);
    }
  }
}
