// A new job: choose a task, and fill in its form.
import { ask } from "./api.js";
import { html } from "./html.js";
import { JobForm } from "./job_form.js";
import { useAnswer } from "./live.js";
import { Absent, Card, Page } from "./parts.js";
import { go, link } from "./router.js";

export function NewJobPage({ path: [, task] }) {
  const tasks = useAnswer("v1/tasks", {});
  const submit = async (body) => go(link(["jobs", (await ask(["v1", "tasks", task, "jobs"], { method: "POST", body })).id]));
  const summary = tasks.data?.tasks.find(({ name }) => name === task)?.summary;
  return html`
    <${Page} title="New job">
      <${Card}>
        ${tasks.data
          ? html`
              <div class="field">
                <label for="task">Task</label>
                <select id="task" value=${task ?? ""} onChange=${(event) => go(link(["new", event.target.value]))}>
                  ${!task && html`<option value="">Choose…</option>`}
                  ${tasks.data.tasks.map(({ name }) => html`<option key=${name} value=${name} selected=${name === task}>${name}</option>`)}
                </select>
                ${summary && html`<p class="about">${summary}</p>`}
              </div>
            `
          : html`<${Absent} of=${tasks} />`}
        ${task && html`<${JobForm} key=${task} task=${task} word="Submit" submit=${submit} withOptions />`}
      <//>
    <//>
  `;
}
