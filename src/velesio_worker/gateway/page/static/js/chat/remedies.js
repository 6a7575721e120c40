// What went wrong, and what to do about it, for whoever reads and not for programs.

const REMEDIES = {
  bad_job: "Look at the settings of this conversation: one of them does not suit the model.",
  invalid_request: "Look at the settings of this conversation: one of them does not suit the model.",
  too_large: "Send less at once, or smaller images.",
  expired: "It waited for too long. Try again.",
  timeout: "It ran for too long. Ask for a shorter answer, or try again.",
  no_worker: "No worker is there that could answer. Start one, then try again.",
  worker_lost: "Several workers were lost while they wrote this. Try again.",
  engine_crashed: "The engine went away while it wrote this. Try again.",
  engine_stalled: "The engine stopped writing. Try again.",
  engine_unavailable: "The model cannot be loaded at present. Choose another one, or try again later.",
  engine_error: "The engine refused. Choose other settings or another model.",
  context_exceeded: "The conversation is longer than the model can read. Begin a new one, or edit an earlier message.",
  out_of_memory: "The engine is out of memory. Try again, with a shorter conversation or a smaller model.",
  no_capacity: "No worker has this model. Choose another one.",
  model_not_found: "No worker has this model any more. Choose another one.",
  unavailable: "No worker is there that could answer. Start one, then try again.",
  unreachable: "Look whether the gateway runs, then try again.",
  gone: "The answer was kept for a while only. Ask again for a new one.",
  unsent: "The page was closed before the question was sent. Try again.",
};

/** @param {{code?: string, message: string}} error */
export function remedyOf({ code }) {
  return REMEDIES[code] ?? "Try again.";
}
