// The number of jobs by state, on every page, and the age of these numbers.
import { number } from "./format.js";
import { html } from "./html.js";
import { useNow } from "./live.js";
import { link } from "./router.js";
import { DEAD, FAILURE, PENDING, SCHEDULED, STARTED, SUCCESS } from "./states.js";

/** Seconds after which the numbers count as old. */
const OLD = 15;

/**
 * Each counter by its name in the API, with how its jobs stand and where they are listed.
 * @type {[string, import("./states.js").Standing, string][]}
 */
const COUNTERS = [
  ["waiting", PENDING, link(["jobs"], { state: PENDING.name })],
  ["running", STARTED, link(["jobs"], { state: STARTED.name })],
  ["scheduled", SCHEDULED, link(["jobs"], { state: SCHEDULED.name })],
  ["done", { ...SUCCESS, label: "Done" }, link(["jobs"])],
  ["failed", FAILURE, link(["failures"])],
  ["dead", DEAD, link(["dead"])],
];

export function Counters({ of: answer }) {
  const now = useNow();
  const age = answer.at && Math.max(0, Math.floor((now - answer.at) / 1000));
  return html`
    <nav class="counters" aria-label="How many jobs there are">
      ${COUNTERS.map(([name, { label, kind }, address]) => {
        const count = answer.data?.now[name];
        return html`<a href=${address} key=${name} class=${count ? kind : ""}><b>${count === undefined ? "–" : number(count)}</b> ${label}</a>`;
      })}
      <span class="fresh ${answer.error || age > OLD ? "late" : ""}">${age === undefined ? (answer.error?.message ?? "…") : `last data ${age} s ago`}</span>
    </nav>
  `;
}
