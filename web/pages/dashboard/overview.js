// How it goes.
import { html } from "./html.js";
import { useAnswer } from "./live.js";
import { Absent, Ago, Card, JobLink, Page, State, TaskName } from "./parts.js";

export function OverviewPage() {
  return html`
    <${Page} title="Overview">
      <div class="columns">
        <${Newest} title="Newest jobs" query=${{}} />
        <${Newest} title="Newest failures" query=${{ state: "FAILURE" }} />
      </div>
    <//>
  `;
}

function Newest({ title, query }) {
  const answer = useAnswer("v1/jobs", { ...query, limit: 8 }, 5);
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
