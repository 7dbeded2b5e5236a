// How jobs stand. Every module takes Celery's states from here: no other one spells them.

/**
 * @typedef {{name: string, label: string, kind: string}} Standing
 *   `name` is what the API calls the state, and what a list of jobs is filtered by; `label` is what people read; `kind`
 *   is the CSS class of its colour.
 */

/** @type {Standing} */
export const PENDING = { name: "PENDING", label: "Waiting", kind: "waiting" };
export const STARTED = { name: "STARTED", label: "Running", kind: "running" };
export const RETRY = { name: "RETRY", label: "Retrying", kind: "retrying" };
export const SUCCESS = { name: "SUCCESS", label: "Succeeded", kind: "succeeded" };
/** Its code raised Celery's Ignore: it has ended, and has no result. */
export const IGNORED = { name: "IGNORED", label: "Ignored", kind: "succeeded" };
export const FAILURE = { name: "FAILURE", label: "Failed", kind: "failed" };
export const REVOKED = { name: "REVOKED", label: "Cancelled", kind: "cancelled" };

/** The states that a list of jobs can be filtered by. */
export const STATES = [PENDING, STARTED, RETRY, SUCCESS, IGNORED, FAILURE, REVOKED];

/** A running job that reports progress. The filter for running jobs finds it. */
export const PROGRESS = { ...STARTED, name: "PROGRESS" };
/** A waiting job that is not due yet. */
export const SCHEDULED = { ...PENDING, label: "Scheduled", kind: "scheduled" };
/** A waiting job that somebody holds back. */
export const HELD = { ...PENDING, label: "On hold", kind: "scheduled" };
/** A failed job that was given up, because worker after worker was lost while it ran. */
export const DEAD = { ...FAILURE, label: "Dead", kind: "dead" };

const KNOWN = Object.fromEntries([...STATES, PROGRESS].map((state) => [state.name, state]));

/** Return how a job stands. A task may set states of its own: such a job runs, and the state's name is its label. */
export function standingOf({ state, eta, error, done, held }) {
  if (done && error?.type.endsWith(":dead-lettered")) return DEAD;
  if (held) return HELD;
  if (state === PENDING.name && eta && Date.parse(eta) > Date.now()) return SCHEDULED;
  return KNOWN[state] ?? { ...STARTED, name: state, label: state };
}

/** Return the state that somebody means who writes its label or its name, in any case; undefined if there is none. */
export function stateCalled(word) {
  const wanted = word.toLowerCase();
  return STATES.find(({ name, label }) => [name, label].some((each) => each.toLowerCase() === wanted));
}
