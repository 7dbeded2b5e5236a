// The queues, and the workers that take from them.
import { coarse, number } from "./format.js";
import { html } from "./html.js";
import { useAnswer } from "./live.js";
import { Absent, Ago, JobLink, Page, Trouble } from "./parts.js";
import { link } from "./router.js";

/** Seconds between two looks. */
const EVERY = 3;

export function QueuesPage() {
  const answer = useAnswer("v1/queues", {}, EVERY);
  return html`
    <${Page} title="Queues" lead="Jobs that have not begun. Tasks that are no jobs are not counted.">
      ${answer.error && html`<${Trouble} error=${answer.error} again=${answer.reload} />`}
      ${answer.data?.queues.length
        ? html`
            <table>
              <thead><tr><th scope="col">Queue</th><th scope="col">Waiting</th><th scope="col" class="roomy">Not due yet</th><th scope="col">Oldest</th><th scope="col" class="roomy">Workers</th><th scope="col">State</th></tr></thead>
              <tbody>
                ${answer.data.queues.map(({ name, depth, scheduled, oldest, consumers, is_stuck: isStuck }) => html`
                  <tr key=${name}>
                    <td class="what"><a href=${link([], { queue: name })}>${name}</a></td>
                    <td class="number">${number(depth)}</td>
                    <td class="roomy number">${number(scheduled)}</td>
                    <td class="number">${depth ? coarse(oldest) : "–"}</td>
                    <td class="roomy number">${consumers}</td>
                    <td>${isStuck ? html`<span class="state failed">Stuck</span>` : consumers ? html`<span class="state succeeded">Served</span>` : html`<span class="state cancelled">Unserved</span>`}</td>
                  </tr>`)}
              </tbody>
            </table>`
        : !answer.error && html`<${Absent} of=${answer}>No queues.<//>`}
    <//>
  `;
}

export function WorkersPage() {
  const answer = useAnswer("v1/workers", {}, EVERY);
  return html`
    <${Page} title="Workers" lead="Those that were heard of in the last hour.">
      ${answer.error && html`<${Trouble} error=${answer.error} again=${answer.reload} />`}
      ${answer.data?.workers.length
        ? html`
            <table>
              <thead><tr><th scope="col">Worker</th><th scope="col">State</th><th scope="col">Busy</th><th scope="col" class="roomy">Runs</th><th scope="col" class="roomy">Queues</th><th scope="col">Seen</th></tr></thead>
              <tbody>
                ${answer.data.workers.map(({ name, alive, last_seen: seen, slots, queues, jobs }) => html`
                  <tr key=${name}>
                    <td>${name}</td>
                    <td><span class="state ${alive ? "succeeded" : "failed"}">${alive ? "Alive" : "Silent"}</span></td>
                    <td class="number">${jobs.length} of ${slots}</td>
                    <td class="roomy">${jobs.map((id) => html`<${JobLink} id=${id} key=${id} /> `)}</td>
                    <td class="roomy">${queues.join(", ")}</td>
                    <td><${Ago} at=${seen} /></td>
                  </tr>`)}
              </tbody>
            </table>`
        : !answer.error && html`<${Absent} of=${answer}>No worker was heard of.<//>`}
    <//>
  `;
}
