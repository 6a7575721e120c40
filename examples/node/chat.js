// A job from Node with ioredis: pushes it, and prints its tokens as they are made.
//
//     npm ci --ignore-scripts
//     node chat.js "Name three colours."
//
// REDIS_URL says where Redis is (redis://127.0.0.1:6379), QUEUE_NAME what the workers read (llama_queue).
import { randomUUID } from "node:crypto";
import process from "node:process";
import { Redis } from "ioredis";

const queue = process.env.QUEUE_NAME ?? "llama_queue";
const redis = new Redis(process.env.REDIS_URL ?? "redis://127.0.0.1:6379");

/** Pushes a job; returns its id. */
async function submit(type, data) {
  const id = randomUUID();
  await redis.lpush(queue, JSON.stringify({ id, type, data, created_at: Date.now() / 1000 }));
  return id;
}

/**
 * Yields the entries of a job's stream to its last one.
 *
 * It reads from `0-0`, never from `$`: the first tokens may be there before we look. It goes on behind the last entry
 * that it has, so a connection that is lost (ioredis makes a new one) costs nothing.
 */
async function* events(id) {
  const reader = redis.duplicate({ maxRetriesPerRequest: null }); // a read that waits holds its connection
  try {
    let after = "0-0";
    while (true) {
      const reply = await reader.xread("COUNT", 100, "BLOCK", 5000, "STREAMS", `stream:${id}`, after);
      for (const [entry, [, event, , data]] of reply?.[0][1] ?? []) { // null: nothing came in five seconds
        after = entry;
        yield { event, data: JSON.parse(data) };
        if (event === "done" || event === "error") return;
      }
    }
  } finally {
    reader.disconnect();
  }
}

const question = process.argv[2] ?? "Name three colours.";
const messages = [{ role: "user", content: question }];
const id = await submit("chat_completion", { messages, max_tokens: 64, stream: true });

for await (const { event, data } of events(id)) {
  if (event === "start" && data.mode === "restart") {
    process.stderr.write("\n[The worker was lost; the answer begins anew.]\n"); // what was printed is void
  } else if (event === "start" && data.mode === "continue") {
    process.stderr.write(`\n[The worker was lost; ${data.worker} goes on.]\n`); // what follows fits to what is there
  } else if (event === "token") {
    for (const { delta } of data.choices) process.stdout.write(delta.content ?? "");
  } else if (event === "done") {
    process.stdout.write("\n");
    process.stderr.write(`[${data.finish_reason}, ${data.usage?.completion_tokens ?? "?"} tokens]\n`);
  } else if (event === "error") {
    process.stderr.write(`\n[${data.code}: ${data.error}${data.retryable ? " It may succeed another time." : ""}]\n`);
    process.exitCode = 1;
  }
}
redis.disconnect();
