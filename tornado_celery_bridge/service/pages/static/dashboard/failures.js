// Failed jobs in groups, by the exception and the place where it was raised.
import { ask } from "./api.js";
import { exceptionName, number } from "./format.js";
import { html, useState } from "./html.js";
import { useAnswer } from "./live.js";
import { Absent, Action, Ago, Card, Dialog, Page, TaskName, Trouble, useShell } from "./parts.js";
import { link } from "./router.js";
import { FAILURE } from "./states.js";

/** Seconds between two requests. */
const EVERY = 10;

export function FailuresPage() {
  const answer = useAnswer("v1/failures", {}, EVERY);
  const lead = "Failed jobs, grouped by the exception and the place where it was raised. A resolved group comes back when a job fails in the same way again.";
  return html`
    <${Page} title="Failures" lead=${lead}>
      ${answer.error && html`<${Trouble} error=${answer.error} again=${answer.reload} />`}
      ${answer.data?.failures.length
        ? answer.data.failures.map((group) => html`<${Group} key=${group.id} group=${group} reload=${answer.reload} />`)
        : !answer.error && html`<${Absent} of=${answer}>No failures, or all of them are resolved.<//>`}
    <//>
  `;
}

const post = (id, action, body) => ask(["v1", "failures", id, action], { method: "POST", body });

function Group({ group: { id, owner, exception, task, place, detail, count, jobs, first_seen: first, last_seen: last }, reload }) {
  const { may, tell } = useShell();
  const [asking, setAsking] = useState(null);
  const askFirst = async () => setAsking((await post(id, "retry", { dry_run: true })).jobs);
  const retry = async () => {
    const { job_ids: ids, refused } = await post(id, "retry", { dry_run: false });
    tell(refused.length ? `${number(refused.length)} of ${number(ids.length + refused.length)} were refused: ${refused[0].problem.detail}` : `${number(ids.length)} submitted again.`, refused.length ? "failed" : "");
    setAsking(null);
    reload();
  };
  const resolve = async () => {
    await post(id, "resolve", {});
    tell("Resolved. The group comes back when a job fails in the same way again.");
    reload();
  };
  const actions = html`
    <span class="count">${number(count)} ${count === 1 ? "time" : "times"}</span>
    <${Action} scope="submit" action=${askFirst} disabled=${jobs === 0}>Retry all…<//>
    <${Action} scope="cancel" action=${resolve}>Resolve<//>`;
  return html`
    <${Card} wide title=${html`<span class="exception">${exceptionName(exception)}</span> in <${TaskName} name=${task} />`} actions=${actions}>
      <pre class="text brief">${detail}</pre>
      <p class="span">
        First <${Ago} at=${first} />, last <${Ago} at=${last} />${place && html`, at <code>${place}</code>`}${may("admin") && owner && `, of ${owner}`}.
      </p>
      <p class="links">
        ${jobs > 0
          ? html`<a href=${link(["jobs"], { failure: id })}>${number(jobs)} ${jobs === 1 ? "job" : "jobs"} not retried</a>`
          : html`<span>All jobs that are kept have been retried.</span>`}
        <a href=${link(["jobs"], { task, state: FAILURE.name })}>All failures of this task</a>
      </p>
      ${asking !== null && html`
        <${Dialog} title="Retry ${number(asking)} ${asking === 1 ? "job" : "jobs"}?" close=${() => setAsking(null)}>
          <p>Each of them gets a new job with the same input. The failed jobs do not change.${asking < jobs && ` These are the newest of ${number(jobs)}.`}</p>
          <div class="actions">
            <form method="dialog"><button>Go back</button></form>
            <${Action} scope="submit" kind="primary" action=${retry}>Retry ${number(asking)}<//>
          </div>
        <//>`}
    <//>
  `;
}
