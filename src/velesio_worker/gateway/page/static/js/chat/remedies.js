// What went wrong, and what to do about it, for whoever reads and not for programs.

const REMEDIES = {
  bad_job: "Look at the settings of this conversation: one of them does not suit the model.",
  invalid_request: "Look at the settings of this conversation: one of them does not suit the model.",
  too_large: "Send less at once, or smaller images.",
  expired: "Fewer jobs may wait in a while: try again then.",
  timeout: "Ask for a shorter answer, or try again.",
  no_worker: "Start a worker, then try again.",
  worker_lost: "Try again; should it happen again, look at the logs of the workers.",
  engine_crashed: "Try again; should it happen again, look at the log of the worker.",
  engine_stalled: "Try again; should it happen again, look at the log of the worker.",
  engine_unavailable: "Choose another model, or try again later.",
  engine_error: "Choose other settings or another model.",
  context_exceeded: "Begin a new chat, or edit an earlier message.",
  out_of_memory: "Try again, with a shorter conversation or a smaller model.",
  no_capacity: "Choose another model.",
  model_not_found: "Choose another model.",
  unavailable: "Start a worker, then try again.",
  unreachable: "Look whether the gateway runs, then try again.",
  gone: "The answer was kept for a while only. Ask again for a new one.",
  unsent: "The page was closed too early. Try again.",
};

/** @param {{code?: string, message: string}} error */
export function remedyOf({ code }) {
  return REMEDIES[code] ?? "Try again.";
}
