// The queues, and the workers that take from them.
import { ask } from "./api.js";
import { bytes, coarse, number } from "./format.js";
import { html, useId, useState } from "./html.js";
import { useAnswer } from "./live.js";
import { Absent, Action, Ago, Dialog, JobLink, Page, Trouble, useShell } from "./parts.js";
import { link } from "./router.js";

/** Seconds between two requests. */
const EVERY = 3;

const post = (kind, name, action, body = {}) => ask(["v1", kind, name, action], { method: "POST", body });

export function QueuesPage() {
  const answer = useAnswer("v1/queues", {}, EVERY);
  const [purged, setPurged] = useState(null);
  const close = () => (setPurged(null), answer.reload());
  return html`
    <${Page} title="Queues" lead="Jobs that have not begun. Tasks that are not jobs are not counted.">
      ${answer.error && html`<${Trouble} error=${answer.error} again=${answer.reload} />`}
      ${answer.data?.queues.length
        ? html`
            <table>
              <thead><tr><th scope="col">Queue</th><th scope="col">Waiting</th><th scope="col" class="roomy">Not due yet</th><th scope="col" class="roomy">Oldest</th><th scope="col" class="roomy">Workers</th><th scope="col">State</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
              <tbody>${answer.data.queues.map((queue) => html`<${Queue} key=${queue.name} queue=${queue} reload=${answer.reload} purge=${() => setPurged(queue)} />`)}</tbody>
            </table>`
        : !answer.error && html`<${Absent} of=${answer}>No queues.<//>`}
      ${purged && html`<${Purging} queue=${purged} close=${close} />`}
    <//>
  `;
}

function Queue({ queue, reload, purge }) {
  const { name, depth, scheduled, oldest, consumers, paused_since: since } = queue;
  const action = since ? "resume" : "pause";
  const act = async () => {
    await post("queues", name, action);
    await reload();
  };
  return html`
    <tr data-name=${name}>
      <td class="what long"><a href=${link([], { queue: name })}>${name}</a></td>
      <td class="number">${number(depth)}</td>
      <td class="roomy number">${number(scheduled)}</td>
      <td class="roomy number">${depth ? coarse(oldest) : "–"}</td>
      <td class="roomy number">${consumers}</td>
      <td><${Standing} of=${queue} /></td>
      <td class="acts">
        <${Action} scope="admin" action=${act} label="${since ? "Resume" : "Pause"} ${name}">${since ? "Resume" : "Pause"}<//>
        <${Action} scope="admin" kind="danger" action=${async () => purge()} label="Purge ${name}…">Purge…<//>
      </td>
    </tr>
  `;
}

function Standing({ of: { consumers, is_stuck: isStuck, paused_since: since } }) {
  if (since) return html`<span class="state cancelled">Paused</span> <span class="about"><${Ago} at=${since} />${consumers > 0 && `, ${consumers} still taking jobs`}</span>`;
  if (isStuck) return html`<span class="state failed">Stuck</span>`;
  return consumers ? html`<span class="state succeeded">Served</span>` : html`<span class="state cancelled">Unserved</span>`;
}

/** The dialog asks for the queue's name, so that nobody empties a queue by mistake. */
function Purging({ queue: { name, depth, scheduled }, close }) {
  const { tell } = useShell();
  const [typed, setTyped] = useState("");
  const id = useId();
  const purge = async () => {
    const { jobs, messages } = await post("queues", name, "purge", { confirm: typed });
    tell(`${name}: ${number(jobs)} jobs have ended, ${number(messages)} messages were removed.`);
    close();
  };
  return html`
    <${Dialog} title="Purge ${name}?" close=${close}>
      <p>All jobs of this queue that have not begun are cancelled (about ${number(depth + scheduled)} now). Tasks that are not jobs are removed, and nothing is left of them. Running jobs go on.</p>
      <div class="field typed">
        <label for=${id}>To confirm, type <code>${name}</code></label>
        <input id=${id} value=${typed} onInput=${(event) => setTyped(event.target.value)} autocomplete="off" spellcheck=${false} />
      </div>
      <div class="actions">
        <form method="dialog"><button>Go back</button></form>
        <${Action} scope="admin" kind="danger" action=${purge} disabled=${typed !== name}>Purge<//>
      </div>
    <//>
  `;
}

export function WorkersPage() {
  const answer = useAnswer("v1/workers", {}, EVERY);
  const [ended, setEnded] = useState(null);
  const close = () => (setEnded(null), answer.reload());
  return html`
    <${Page} title="Workers" lead="Workers that reported in the last hour.">
      ${answer.error && html`<${Trouble} error=${answer.error} again=${answer.reload} />`}
      ${answer.data?.workers.length
        ? html`
            <table>
              <thead><tr><th scope="col">Worker</th><th scope="col">State</th><th scope="col">Busy</th><th scope="col" class="roomy">Runs</th><th scope="col" class="roomy">Queues</th><th scope="col" class="roomy">Memory</th><th scope="col" class="roomy">Seen</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
              <tbody>${answer.data.workers.map((worker) => html`<${Worker} key=${worker.name} worker=${worker} shutDown=${() => setEnded(worker)} />`)}</tbody>
            </table>`
        : !answer.error && html`<${Absent} of=${answer}>No worker has reported.<//>`}
      ${ended && html`<${ShuttingDown} worker=${ended} close=${close} />`}
    <//>
  `;
}

function Worker({ worker: { name, alive, last_seen: seen, slots, queues, jobs, memory }, shutDown }) {
  const { tell } = useShell();
  const resize = (action) => async () => tell(`${name}: ${(await post("workers", name, action)).answer}.`);
  return html`
    <tr data-name=${name}>
      <td class="long">${name}</td>
      <td><span class="state ${alive ? "succeeded" : "failed"}">${alive ? "Alive" : "Silent"}</span></td>
      <td class="number">${jobs.length} of ${slots}</td>
      <td class="roomy">${jobs.length ? jobs.map((id) => html`<${JobLink} id=${id} key=${id} /> `) : "–"}</td>
      <td class="roomy">${queues.join(", ") || "–"}</td>
      <td class="roomy number">${memory ? bytes(memory) : "–"}</td>
      <td class="roomy"><${Ago} at=${seen} /></td>
      <td class="acts">
        <${Action} scope="admin" action=${resize("grow")} disabled=${!alive} label="+1 process for ${name}">+1<//>
        <${Action} scope="admin" action=${resize("shrink")} disabled=${!alive || slots < 2} label="−1 process for ${name}">−1<//>
        <${Action} scope="admin" kind="danger" action=${async () => shutDown()} disabled=${!alive} label="Shut ${name} down…">Shut down…<//>
      </td>
    </tr>
  `;
}

function ShuttingDown({ worker: { name, jobs }, close }) {
  const { tell } = useShell();
  const shutDown = async () => {
    tell(`${name}: ${(await post("workers", name, "shutdown")).answer}.`);
    close();
  };
  return html`
    <${Dialog} title="Shut ${name} down?" close=${close}>
      <p>It takes no more jobs, and ends when the jobs that it runs have ended (${number(jobs.length)} now). A supervisor may start another worker, as that of <code>make up</code> does.</p>
      <div class="actions">
        <form method="dialog"><button>Go back</button></form>
        <${Action} scope="admin" kind="danger" action=${shutDown}>Shut down<//>
      </div>
    <//>
  `;
}
