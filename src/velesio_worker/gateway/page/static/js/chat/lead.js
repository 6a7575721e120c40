// Of all tabs exactly one leads a run: it alone follows the job's stream, and keeps what it reads.

/**
 * Call `lead` as soon as this tab may lead under `name`; others wait until its promise is settled.
 * Without Web Locks (a page served without TLS) every tab leads for itself, which costs connections and nothing else.
 * @param {string} name
 * @param {AbortSignal} signal ends the waiting
 * @param {() => Promise<void>} lead
 */
export async function leading(name, signal, lead) {
  if (navigator.locks === undefined) {
    await lead();
    return;
  }
  try {
    await navigator.locks.request(name, { signal }, lead);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
