// The waits and attempts of a job, from its acceptance to its end, as bars on one scale.
import { between, duration, exceptionName, moment } from "./format.js";
import { html } from "./html.js";
import { useNow } from "./live.js";
import { Card, Facts, Lasted, Scroll } from "./parts.js";
import { FAILURE, IGNORED, PENDING, RETRY, REVOKED, SCHEDULED, STARTED, SUCCESS } from "./states.js";

/** How an attempt's outcome is called and coloured. */
const OUTCOMES = {
  running: STARTED,
  succeeded: SUCCESS,
  ignored: IGNORED,
  failed: FAILURE,
  cancelled: REVOKED,
  retried: { ...RETRY, label: "Retried" },
  "given back": { ...RETRY, label: "Given back" },
  lost: { ...FAILURE, label: "Worker lost" },
};

/** The attempts are those of `GET /v1/jobs/{id}/attempts`; until they are there, the job says what it knows of the last one. */
export function Timeline({ job, attempts }) {
  const now = useNow();
  const spans = spansOf(job, attempts ?? lastOf(job), new Date(now).toISOString());
  const whole = Math.max(0.001, between(spans[0].from, spans.at(-1).to));
  return html`
    <ol class="timeline">
      ${spans.map(
        ({ name, kind, from, to, note }, place) => html`
          <li key=${place}>
            <span>${name}</span>
            <span class="track" title=${`${moment(from)} – ${moment(to)}`}>
              <span class="bar ${kind}" style=${{ marginInlineStart: `${(97 * between(job.created_at, from)) / whole}%`, width: `${Math.max(1, (97 * between(from, to)) / whole)}%` }}></span>
            </span>
            <span class="number">${duration(Math.max(0, between(from, to)))}</span>
            ${note && html`<span class="note">${note}</span>`}
          </li>
        `,
      )}
    </ol>
  `;
}

const lastOf = (job) => (job.started_at ? [{ attempt: job.attempt, outcome: "running", started_at: job.started_at, ended_at: job.finished_at, error: null }] : []);

function spansOf(job, attempts, now) {
  const end = job.finished_at ?? now;
  const first = attempts[0]?.started_at ?? end;
  const due = !attempts.length || attempts[0].attempt === 1 ? dueOf(job) : null;
  const spans = [];
  const wait = (from, to, { label, kind } = PENDING) => from < to && spans.push({ name: label, kind, from, to });
  if (due) wait(job.created_at, due < first ? due : first, SCHEDULED);
  wait(due ?? job.created_at, first, attempts.length ? { ...PENDING, label: "Waited" } : PENDING);
  attempts.forEach(({ attempt, outcome, started_at: from, ended_at: ended, error }, place) => {
    const to = ended ?? end;
    const { label, kind } = OUTCOMES[outcome];
    const why = error ? `: ${exceptionName(error.exception)}: ${error.detail}` : "";
    spans.push({ name: `Attempt ${attempt}`, kind, from, to, note: why || ["retried", "given back", "lost"].includes(outcome) ? label + why : null });
    const next = attempts[place + 1]?.started_at ?? (job.done ? to : now);
    if (ended) wait(to, next, { ...PENDING, label: "Waited" });
  });
  return spans.length ? spans : [{ name: PENDING.label, kind: PENDING.kind, from: job.created_at, to: end }];
}

/** When the job was due first; of a job that waits for its retry, `eta` is of that. */
const dueOf = ({ eta, created_at: created, attempt }) => (eta && eta > created && attempt <= 1 ? eta : null);

/** What each attempt did, if there were several. */
export function Attempts({ of: attempts }) {
  if (!attempts || attempts.length < 2) return null;
  return html`
    <${Card} title="Attempts" wide>
      ${attempts.map((each) => html`<${Attempt} key=${each.attempt} of=${each} isLast=${each === attempts.at(-1)} />`)}
    <//>
  `;
}

function Attempt({ of: { attempt, outcome, started_at: from, ended_at: to, worker, error, checkpoint, log }, isLast }) {
  const { label, kind } = OUTCOMES[outcome];
  return html`
    <details open=${isLast}>
      <summary>Attempt ${attempt} <span class="state ${kind}">${label}</span> <${Lasted} from=${from} to=${to} /></summary>
      <${Facts} of=${[
        ["Began", html`<time datetime=${from}>${moment(from)}</time>`],
        ["Worker", worker],
        ["Error", error && `${exceptionName(error.exception)}: ${error.detail}`],
        ["Checkpoint", checkpoint && html`<code>${JSON.stringify(checkpoint.value).slice(0, 500)}</code>`],
      ]} />
      ${error?.traceback && html`<${Scroll} label="Traceback of attempt ${attempt}"><pre>${error.traceback}</pre><//>`}
      ${log.length > 0 && html`
        <div class="scroll log" aria-label="Log of attempt ${attempt}" role="group" tabindex="0">
          ${log.map(({ level, message, at }, place) => html`<div key=${place} class="line"><time datetime=${at} title=${moment(at)}>${at.slice(11, 23)}</time> <b class=${level}>${level}</b> ${message}</div>`)}
        </div>`}
    </details>
  `;
}
