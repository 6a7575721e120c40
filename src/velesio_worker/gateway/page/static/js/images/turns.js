// Who follows a stream: of several tabs one, and each tab a few at a time.

const MOST = 2; // a browser keeps six connections to a host, and all tabs have to live on them

const waiting = [];
let running = 0;

async function inTurn(act) {
  if (running >= MOST) {
    await new Promise((resolve) => waiting.push(resolve));
  }
  running += 1;
  try {
    await act();
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

/**
 * Does something once no other tab does it, and few others of this tab are at it; first come, first served. Where the
 * browser has no locks (over plain HTTP from another host) each tab does it for itself.
 * @param {string} name what is done, the same in all tabs.
 * @param {AbortSignal} signal gives up the place in the line.
 * @param {() => Promise<void>} act
 */
export async function alone(name, signal, act) {
  if (navigator.locks) {
    await navigator.locks.request(name, { signal }, () => inTurn(act));
  } else {
    await inTurn(act);
  }
}
