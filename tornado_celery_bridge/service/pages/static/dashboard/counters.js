// How many jobs there are, on every page, and how old these numbers are.
import { number } from "./format.js";
import { html } from "./html.js";
import { useNow } from "./live.js";
import { link } from "./router.js";

/** Seconds after which numbers are called old. */
const OLD = 15;

const COUNTERS = [
  ["waiting", "Waiting", "waiting", link(["jobs"], { state: "PENDING" })],
  ["running", "Running", "running", link(["jobs"], { state: "STARTED" })],
  ["scheduled", "Scheduled", "scheduled", link(["jobs"], { state: "PENDING" })],
  ["done", "Done", "succeeded", link(["jobs"])],
  ["failed", "Failed", "failed", link(["failures"])],
  ["dead", "Dead", "dead", link(["dead"])],
];

export function Counters({ of: answer }) {
  const now = useNow();
  const age = answer.at && Math.max(0, Math.floor((now - answer.at) / 1000));
  return html`
    <nav class="counters" aria-label="How many jobs there are">
      ${COUNTERS.map(([name, word, kind, address]) => {
        const count = answer.data?.now[name];
        return html`<a href=${address} key=${name} class=${count ? kind : ""}><b>${count === undefined ? "–" : number(count)}</b> ${word}</a>`;
      })}
      <span class="fresh ${answer.error || age > OLD ? "late" : ""}">${age === undefined ? (answer.error?.message ?? "…") : `last data ${age} s ago`}</span>
    </nav>
  `;
}
