// The newest workflows, and one workflow as a graph.
import { address, allJobs, ask, collect } from "./api.js";
import { lastPart, number, shortId } from "./format.js";
import { Graph } from "./graph.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { useAnswer, useData, useEvents } from "./live.js";
import { Absent, Action, Ago, Card, Facts, JobLink, Page, Progress, State, Tags, Trouble } from "./parts.js";
import { go, link } from "./router.js";

/** Workflows are found through their jobs: so many of the newest jobs are read. */
const LOOKS = 400;
/** Milliseconds from an event of a workflow until the workflow is read again. */
const PAUSE = 300;

export function WorkflowsPage() {
  const found = useData("workflows", async () => grouped(await collect(allJobs({}, LOOKS))), 10);
  const open = (event) => {
    event.preventDefault();
    go(link(["workflows", String(new FormData(event.target).get("id")).trim()]));
  };
  return html`
    <${Page} title="Workflows" lead="The workflows of the newest ${number(LOOKS)} jobs.">
      <form class="search" onSubmit=${open}>
        <label><span class="hidden">A workflow's id</span><input type="search" name="id" placeholder="A workflow's id" required /></label>
        <button>Open</button>
      </form>
      ${found.error && html`<${Trouble} error=${found.error} again=${found.reload} />`}
      ${found.data?.length
        ? html`
            <table>
              <thead><tr><th scope="col">Workflow</th><th scope="col">Jobs seen</th><th scope="col" class="roomy">Tasks</th><th scope="col">Newest</th></tr></thead>
              <tbody>
                ${found.data.map(({ id, jobs }) => html`
                  <tr key=${id}>
                    <td><a href=${link(["workflows", id])}><code>${shortId(id)}</code></a></td>
                    <td class="number">${jobs.filter((job) => job.done).length} of ${jobs.length} ended</td>
                    <td class="roomy">${[...new Set(jobs.map((job) => lastPart(job.task)))].join(", ")}</td>
                    <td><${Ago} at=${jobs[0].created_at} /></td>
                  </tr>`)}
              </tbody>
            </table>
          `
        : !found.error && html`<${Absent} of=${found}>No workflows.<//>`}
    <//>
  `;
}

function grouped(jobs) {
  const workflows = new Map();
  for (const job of jobs) {
    if (!job.links.workflow) continue;
    const id = decodeURIComponent(job.links.workflow.split("/").pop());
    workflows.set(id, [...(workflows.get(id) ?? []), job]);
  }
  return [...workflows].map(([id, found]) => ({ id, jobs: found }));
}

export function WorkflowPage({ path: [, id] }) {
  const answer = useAnswer(["v1", "workflows", id], {});
  const workflow = answer.data;
  const [following, setFollowing] = useState(null);
  const timer = useRef(null);
  const open = workflow ? jobsOf(workflow.tree).filter((job) => !job.done).map((job) => job.id) : [];
  useEffect(() => {
    if (!workflow) return;
    // A stream follows some jobs until the last of them has ended; then another follows others.
    const goesOn = (ids) => ids?.some((each) => open.includes(each));
    setFollowing((before) => (workflow.finished || !open.length ? null : goesOn(before) ? before : open.slice(0, 100)));
  }, [workflow]);
  useEffect(() => () => clearTimeout(timer.current), []);
  useEvents(following && address("v1/events", { job: following }), (kind) => {
    if (["log", "progress", "item", "checkpoint"].includes(kind)) return;
    timer.current ??= setTimeout(() => {
      timer.current = null;
      answer.reload();
    }, PAUSE);
  });
  const cancel = (terminate) => async () => {
    await ask(["v1", "workflows", id, "cancel"], { method: "POST", body: { terminate } });
    answer.reload();
  };
  const actions = workflow && !workflow.finished && html`
    <${Action} scope="cancel" action=${cancel(false)}>Cancel<//>
    <${Action} scope="cancel" kind="danger" action=${cancel(true)}>Cancel and end its processes<//>`;
  const shown = html`Workflow ${workflow && html`<${State} of=${{ ...workflow, done: workflow.finished }} />`}`;
  return html`
    <${Page} title=${{ text: `Workflow ${shortId(id)}`, shown }} lead=${html`<code>${id}</code>`} actions=${actions}>
      ${answer.error && html`<${Trouble} error=${answer.error} again=${answer.reload} />`}
      ${workflow
        ? html`
            <${Progress} of=${{ current: workflow.done, total: workflow.total, message: `${workflow.done} of ${workflow.total} jobs have ended` }} label="Jobs that have ended" />
            <${Card} title="Graph" wide><${Graph} tree=${workflow.tree} /><//>
            <${Card} title="About">
              <${Facts} of=${[
                ["Created", html`<${Ago} at=${workflow.created_at} />`],
                ["Tags", workflow.tags.length > 0 && html`<${Tags} of=${workflow.tags} />`],
                ["On an error", workflow.on_error && html`<${JobLink} id=${workflow.on_error.id}>${workflow.on_error.task}<//> <${State} of=${workflow.on_error} />`],
              ]} />
            <//>
          `
        : !answer.error && html`<${Absent} of=${answer} />`}
    <//>
  `;
}

function jobsOf(node) {
  if (node.id) return [node];
  const children = node.chain ?? node.group ?? [...node.chord.header, node.chord.body];
  return children.flatMap(jobsOf);
}
