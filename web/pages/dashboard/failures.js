// The last failures, together by what was raised and where.
import { allJobs, collect, forEach } from "./api.js";
import { exceptionName, number } from "./format.js";
import { html, useMemo, useState } from "./html.js";
import { useData } from "./live.js";
import { Absent, Action, Ago, Card, Dialog, isDead, JobLink, Page, retryJob, TaskName, Trouble, useShell } from "./parts.js";
import { link } from "./router.js";

/** So many of the newest failures are looked at. */
const LOOKS = 600;
/** Of each group so many jobs have a link. */
const SHOWN = 5;

export function FailuresPage() {
  const failures = useData("failures", () => collect(allJobs({ state: "FAILURE" }, LOOKS)), 15);
  const groups = useMemo(() => grouped(failures.data ?? []), [failures.data]);
  const lead = `The newest ${number(LOOKS)} failed jobs, by exception and task.`;
  return html`
    <${Page} title="Failures" lead=${lead}>
      ${failures.error && html`<${Trouble} error=${failures.error} again=${failures.reload} />`}
      ${groups.length
        ? groups.map((group) => html`<${Group} key=${group.key} group=${group} reload=${failures.reload} />`)
        : !failures.error && html`<${Absent} of=${failures}>Nothing has failed.<//>`}
    <//>
  `;
}

function grouped(jobs) {
  const groups = new Map();
  for (const job of jobs) {
    const key = `${job.error.exception} ${job.task}`;
    if (!groups.has(key)) groups.set(key, { key, exception: job.error.exception, task: job.task, jobs: [] });
    groups.get(key).jobs.push(job);
  }
  return [...groups.values()].sort((one, other) => other.jobs.length - one.jobs.length);
}

function Group({ group: { exception, task, jobs }, reload }) {
  const { tell } = useShell();
  const [asking, setAsking] = useState(false);
  const [done, setDone] = useState(null);
  const retry = async () => {
    setDone(0);
    const failed = await forEach(jobs, (job) => retryJob(job.id), setDone);
    tell(failed.length ? `${failed.length} of ${jobs.length} were refused: ${failed[0].error.message}` : `${jobs.length} submitted again.`, failed.length ? "failed" : "");
    setDone(null);
    setAsking(false);
    reload();
  };
  return html`
    <${Card} wide title=${html`<span class="exception">${exceptionName(exception)}</span> in <${TaskName} name=${task} />`}
      actions=${html`<span class="count">${number(jobs.length)} times</span><${Action} scope="submit" action=${async () => setAsking(true)}>Retry all…<//>`}>
      <pre class="text brief">${jobs[0].error.detail}</pre>
      <p class="span">First <${Ago} at=${jobs.at(-1).finished_at} />, last <${Ago} at=${jobs[0].finished_at} />.
        ${jobs.some(isDead) && html` <a href="#/dead">Some were given up.</a>`}</p>
      <p class="links">
        ${jobs.slice(0, SHOWN).map((job) => html`<${JobLink} id=${job.id} key=${job.id} /> `)}
        <a href=${link(["jobs"], { task, state: "FAILURE" })}>All failures of this task</a>
      </p>
      ${asking && html`
        <${Dialog} title="Retry ${number(jobs.length)} ${jobs.length === 1 ? "job" : "jobs"}?" close=${() => setAsking(false)}>
          <p>Each has a new job with exactly its input; those that failed stay as they are.</p>
          ${done !== null && html`<progress max=${jobs.length} value=${done} aria-label="Done so far"></progress>`}
          <div class="actions">
            <form method="dialog"><button>Leave it</button></form>
            <button class="primary" disabled=${done !== null} onClick=${retry}>Retry ${number(jobs.length)}</button>
          </div>
        <//>`}
    <//>
  `;
}
