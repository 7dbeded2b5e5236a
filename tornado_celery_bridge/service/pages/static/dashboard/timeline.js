// The waits and attempts of a job, from its acceptance to its end, as bars on one scale.
import { between, duration, exceptionName, moment } from "./format.js";
import { html } from "./html.js";
import { useNow } from "./live.js";
import { PENDING, RETRY, SCHEDULED, standingOf } from "./states.js";

export function Timeline({ job, attempts }) {
  const now = useNow();
  const spans = spansOf(job, attempts, new Date(now).toISOString());
  const whole = Math.max(0.001, between(spans[0].from, spans.at(-1).to));
  return html`
    <ol class="timeline">
      ${spans.map(
        ({ name, kind, from, to, note }) => html`
          <li key=${name}>
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

/** The events say when each attempt began. They do not say when an attempt ended that Celery's own retry follows: its bar includes the wait. */
function spansOf(job, attempts, now) {
  const end = job.finished_at ?? now;
  const known = attempts.length || !job.started_at ? attempts : [{ number: job.attempt, startedAt: job.started_at }];
  const begun = known.filter(({ startedAt }) => startedAt).sort((one, other) => one.number - other.number);
  const due = job.eta && job.eta > job.created_at ? job.eta : null;
  const first = begun[0]?.startedAt ?? end;
  const waits = due
    ? [
        { name: SCHEDULED.label, kind: SCHEDULED.kind, from: job.created_at, to: due < first ? due : first },
        ...(due < first ? [{ name: "Waited", kind: PENDING.kind, from: due, to: first }] : []),
      ]
    : [{ name: job.done || begun.length ? "Waited" : PENDING.label, kind: PENDING.kind, from: job.created_at, to: first }];
  const runs = begun.map(({ number, startedAt, error }, place) => {
    const isLast = place === begun.length - 1;
    const { kind } = isLast ? standingOf(job) : RETRY;
    return {
      name: `Attempt ${number}`, kind, from: startedAt, to: isLast ? end : begun[place + 1].startedAt,
      note: error ? `${exceptionName(error.exception)}: ${error.detail}; includes the wait before the next attempt` : !isLast && "its worker was lost, and the job was published again",
    };
  });
  return [...waits, ...runs];
}
