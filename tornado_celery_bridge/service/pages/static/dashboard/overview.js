// The overview: numbers of a period, as charts, and the newest jobs.
import { ask } from "./api.js";
import { Chart } from "./chart.js";
import { duration, number, percent } from "./format.js";
import { html, useMemo } from "./html.js";
import { useAnswer, useData } from "./live.js";
import { Absent, Ago, Card, JobLink, Page, State, TaskName, Trouble, useShell } from "./parts.js";
import { go, link } from "./router.js";
import { FAILURE, SCHEDULED, STARTED, SUCCESS } from "./states.js";

/** Seconds between two requests. */
const EVERY = 10;

/** The periods by name: their hours, and the step that gives a readable number of points. */
const RANGES = { "1h": [1, "minute"], "6h": [6, "minute"], "24h": [24, "hour"], "7d": [7 * 24, "hour"], "30d": [30 * 24, "day"] };

export function OverviewPage({ query }) {
  const { may } = useShell();
  const range = RANGES[query.get("range")] ? query.get("range") : "1h";
  const task = query.get("task") ?? undefined, queue = query.get("queue") ?? undefined;
  const [hours, step] = RANGES[range];
  const answer = useData(may("monitor") ? `${range} ${task} ${queue}` : null, (signal) => {
    const since = new Date(Date.now() - hours * 3_600_000).toISOString();
    return ask("v1/statistics", { query: { since, step, task, queue }, signal });
  }, EVERY);
  const choose = (change) => go(link([], { range, task, queue, ...change }));
  return html`
    <${Page} title="Overview" actions=${may("monitor") && html`<${Choices} task=${task} queue=${queue} choose=${choose} />`}>
      ${may("monitor") && html`
        <nav class="filter" aria-label="Time">
          ${Object.keys(RANGES).map((name) => html`<a key=${name} href=${link([], { range: name, task, queue })} aria-current=${name === range ? "true" : undefined}>${name}</a>`)}
        </nav>
        ${answer.error && html`<${Trouble} error=${answer.error} again=${answer.reload} />`}
        ${answer.data ? html`<${Numbers} of=${answer.data.summary} /><${Charts} of=${answer.data} />` : !answer.error && html`<${Absent} of=${answer} />`}`}
      <div class="columns">
        <${Newest} title="Newest jobs" query=${{ task }} />
        <${Newest} title="Newest failures" query=${{ task, state: FAILURE.name }} />
      </div>
    <//>
  `;
}

function Choices({ task, queue, choose }) {
  const tasks = useAnswer("v1/tasks", {});
  const queues = useAnswer("v1/queues", {});
  return html`
    <${Choice} name="task" label="Task" value=${task} names=${tasks.data?.tasks.map(({ name }) => name) ?? []} choose=${choose} />
    <${Choice} name="queue" label="Queue" value=${queue} names=${queues.data?.queues.map(({ name }) => name) ?? []} choose=${choose} />
  `;
}

function Choice({ name, label, value, names, choose }) {
  return html`
    <label>
      <span class="hidden">${label}</span>
      <select onChange=${(event) => choose({ [name]: event.target.value })}>
        <option value="">All ${name}s</option>
        ${names.map((each) => html`<option key=${each} value=${each} selected=${each === value}>${each}</option>`)}
      </select>
    </label>
  `;
}

const seconds = (value) => (value === null ? "–" : duration(value));
const both = ({ p50, p95 }) => (p50 === null ? "none" : `half within ${seconds(p50)}, 95 of 100 within ${seconds(p95)}`);
const share = ({ succeeded, failed }) => (succeeded + failed ? failed / (succeeded + failed) : null);

function Numbers({ of: summary }) {
  const failing = share(summary);
  const numbers = [
    ["Accepted", number(summary.accepted)],
    ["Succeeded", number(summary.succeeded)],
    ["Failed", number(summary.failed), failing !== null && percent(failing)],
    ["Cancelled", number(summary.revoked)],
    ["Retried", number(summary.retried), summary.lost > 0 && `${number(summary.lost)} lost`],
    ["Waited, p50", seconds(summary.wait.p50), summary.wait.p95 !== null && `p95 ${seconds(summary.wait.p95)}`],
    ["Ran, p50", seconds(summary.run.p50), summary.run.p95 !== null && `p95 ${seconds(summary.run.p95)}`],
  ];
  return html`
    <dl class="numbers">
      ${numbers.map(([name, value, more]) => html`<div class="card" key=${name}><dt>${name}</dt><dd><b>${value}</b> <span>${more}</span></dd></div>`)}
    </dl>
  `;
}

function Charts({ of: { series, summary } }) {
  const { times, ended, failing, waits, runs } = useMemo(() => {
    const values = (pick) => series.map(pick);
    return {
      times: values(({ at }) => Date.parse(at) / 1000),
      ended: [
        { label: "accepted", colour: STARTED.kind, values: values((each) => each.accepted) },
        { label: "succeeded", colour: SUCCESS.kind, values: values((each) => each.succeeded) },
        { label: "failed", colour: FAILURE.kind, values: values((each) => each.failed) },
      ],
      failing: [{ label: "failed", colour: FAILURE.kind, values: values(share) }],
      waits: quantiles(series, "wait"),
      runs: quantiles(series, "run"),
    };
  }, [series]);
  const failed = share(summary);
  return html`
    <div class="columns charts">
      <${Chart} title="Throughput" summary="${number(summary.succeeded)} succeeded, ${number(summary.failed)} failed, ${number(summary.accepted)} accepted" times=${times} series=${ended} format=${number} />
      <${Chart} title="Failure share" summary=${failed === null ? "nothing has ended" : `${percent(failed)} of the jobs that ended failed`} times=${times} series=${failing} format=${percent} />
      <${Chart} title="Wait in the queue" summary=${both(summary.wait)} times=${times} series=${waits} format=${duration} />
      <${Chart} title="Run time" summary=${both(summary.run)} times=${times} series=${runs} format=${duration} />
    </div>
  `;
}

function quantiles(series, name) {
  return [["p50", STARTED.kind], ["p95", SCHEDULED.kind]].map(([label, colour]) => ({ label, colour, values: series.map((each) => each[name][label]) }));
}

function Newest({ title, query }) {
  const answer = useAnswer("v1/jobs", { ...query, limit: 8 }, EVERY);
  return html`
    <${Card} title=${title}>
      ${answer.data?.jobs.length
        ? html`<ul class="newest">
            ${answer.data.jobs.map((job) => html`<li key=${job.id}><${State} of=${job} /> <${JobLink} id=${job.id}><${TaskName} name=${job.task} /><//> <${Ago} at=${job.created_at} /></li>`)}
          </ul>`
        : html`<${Absent} of=${answer}>None.<//>`}
    <//>
  `;
}
