// Lists of jobs: search, filters in the address, pages by cursor, actions on many jobs at once, export.
import { allJobs, ask, collect } from "./api.js";
import { exceptionName, json } from "./format.js";
import { html, useEffect, useMemo, useState } from "./html.js";
import { useAnswer, useData, useEvents } from "./live.js";
import { Bulk, CANCEL, DELETE, REPLAY, TRY_AGAIN } from "./many.js";
import {
  Absent, Ago, Action, JobLink, Page, Progress, save, Lasted, State, Tags, TaskName, Trouble, useShell,
} from "./parts.js";
import { filters, narrowing, parse, words } from "./query.js";
import { go, link } from "./router.js";
import { PENDING, PROGRESS, STATES } from "./states.js";

/** The inputs of jobs without arguments, as the API writes them. */
const NO_ARGUMENTS = new Set(["{}", "[]"]);
/** The most jobs that one click exports. */
const MOST = 2_000;

export function JobsPage({ query }) {
  return html`<${JobList} title="Jobs" section="jobs" query=${query} />`;
}

export function DeadLetters({ query }) {
  const lead = "Jobs that were given up, because worker after worker was lost while it ran them. Replay makes a new job with the same input.";
  const dead = new URLSearchParams([...query.entries(), ["dead", "true"]]);
  return html`<${JobList} title="Dead letters" section="dead" lead=${lead} query=${dead} />`;
}

function JobList({ title, lead, section, query }) {
  const isDead = section === "dead";
  const key = query.toString();
  const asked = useMemo(() => ({ ...filters(query), cursor: query.get("cursor") ?? undefined }), [key]);
  const { may, pulse } = useShell();
  const page = useData(key, (signal) => ask("v1/jobs", { query: asked, signal }), may("monitor") ? 0 : 10);
  useEffect(() => {
    if (page.data) page.reload();
  }, [pulse]);
  const jobs = useLive(page.data?.jobs);
  const [selected, setSelected] = useState(new Set());
  useEffect(() => setSelected(new Set()), [key]);
  const all = { ...asked, cursor: undefined };
  const chosen = jobs?.filter((job) => selected.has(job.id)) ?? [];
  return html`
    <${Page} title=${title} lead=${lead} actions=${html`<${Export} query=${all} name=${section} />`}>
      ${!isDead && html`<${Search} query=${query} /><${StateFilter} query=${query} />`}
      <div class="bulk" role="group" aria-label="Many at once">
        ${!isDead && html`<${Bulk} what=${CANCEL} query=${all} chosen=${chosen} done=${page.reload} />`}
        <${Bulk} what=${isDead ? REPLAY : TRY_AGAIN} query=${all} chosen=${chosen} done=${page.reload} />
        <${Bulk} what=${DELETE} query=${all} chosen=${chosen} done=${page.reload} />
      </div>
      ${page.error && html`<${Trouble} error=${page.error} again=${page.reload} />`}
      ${jobs?.length
        ? html`<${Table} jobs=${jobs} selected=${selected} select=${setSelected} />`
        : !page.error && html`<${Absent} of=${page}>${page.data?.next_cursor ? "No jobs on this page; there may be more on older pages." : "No jobs."}<//>`}
      <${Pager} section=${section} query=${query} next=${page.data?.next_cursor} />
    <//>
  `;
}

/** Return the jobs as they are now. Jobs that have not ended are followed. */
function useLive(jobs) {
  const [news, setNews] = useState({});
  const open = jobs?.filter((job) => !job.done).slice(0, 100).map((job) => `job=${encodeURIComponent(job.id)}`) ?? [];
  useEffect(() => setNews({}), [jobs]);
  useEvents(open.length ? `v1/events?${open.join("&")}` : null, (kind, { job: id, data }) => {
    if (["item", "log", "checkpoint"].includes(kind)) return;
    const change = kind === "progress" ? { state: PROGRESS.name, progress: data } : data;
    const known = jobs.find((job) => job.id === id);
    // The stream begins with old events.
    if (change.attempt < known?.attempt || (change.state === PENDING.name && known?.attempt)) return;
    setNews((before) => ({ ...before, [id]: { ...before[id], ...change } }));
  });
  return jobs?.map((job) => ({ ...job, ...news[job.id] }));
}

function Search({ query }) {
  const known = words(query);
  const [text, setText] = useState(known);
  const [error, setError] = useState("");
  useEffect(() => setText(known), [known]);
  const tasks = useAnswer("v1/tasks", {});
  const submit = (event) => {
    event.preventDefault();
    const found = parse(text);
    setError(found.error ?? "");
    if (found.id) go(link(["jobs", found.id]));
    else if (found.query) go(link(["jobs"], found.query));
  };
  return html`
    <form class="search" role="search" onSubmit=${submit}>
      <label>
        <span class="hidden">Search jobs</span>
        <input type="search" value=${text} onInput=${(event) => setText(event.target.value)} list="tasks" autocomplete="off"
          placeholder="words in jobs  task:  state:  queue:  since:1h  ran:60  or an id" aria-describedby=${error && "search-error"} aria-invalid=${Boolean(error)} />
      </label>
      <datalist id="tasks">${tasks.data?.tasks.map(({ name }) => html`<option value="task:${name}" key=${name}></option>`)}</datalist>
      <button>Search</button>
      ${error && html`<p class="fault" id="search-error" role="alert">${error}</p>`}
    </form>
  `;
}

function StateFilter({ query }) {
  const others = narrowing(query);
  const current = query.get("state") ?? undefined;
  return html`
    <nav class="filter" aria-label="States">
      ${[{ name: undefined, label: "All" }, ...STATES].map(({ name, label }) => {
        const address = link(["jobs"], { ...others, state: name });
        return html`<a href=${address} key=${label} aria-current=${name === current ? "true" : undefined}>${label}</a>`;
      })}
    </nav>
  `;
}

function Table({ jobs, selected, select }) {
  const every = jobs.every((job) => selected.has(job.id));
  const toggle = (id) => select(new Set(selected.has(id) ? [...selected].filter((each) => each !== id) : [...selected, id]));
  return html`
    <table class="jobs">
      <thead>
        <tr>
          <th><input type="checkbox" aria-label="Select all on this page" checked=${every}
            onChange=${() => select(new Set(every ? [] : jobs.map((job) => job.id)))} /></th>
          <th scope="col">State</th><th scope="col">Job</th><th scope="col" class="roomy">Tags</th>
          <th scope="col">Created</th><th scope="col" class="roomy">Waited</th><th scope="col" class="roomy">Ran</th>
        </tr>
      </thead>
      <tbody>
        ${jobs.map(
          (job) => html`
            <tr key=${job.id} data-id=${job.id}>
              <td><input type="checkbox" aria-label="Select job ${job.id}" checked=${selected.has(job.id)} onChange=${() => toggle(job.id)} /></td>
              <td><${State} of=${job} /></td>
              <td class="what">
                <${JobLink} id=${job.id}><${TaskName} name=${job.task} /> <code>${job.id.slice(0, 8)}</code><//>
                ${job.progress && !job.done && html`<${Progress} of=${job.progress} label="Progress of job ${job.id}" />`}
                ${job.arguments && !NO_ARGUMENTS.has(job.arguments) && html`<span class="reason"><code>${job.arguments}</code></span>`}
                ${job.error && html`<span class="reason">${exceptionName(job.error.exception)}: ${job.error.detail}</span>`}
              </td>
              <td class="roomy"><${Tags} of=${job.tags} /></td>
              <td><${Ago} at=${job.created_at} /></td>
              <td class="roomy">${job.attempt === 1 ? html`<${Lasted} from=${job.created_at} to=${job.started_at} />` : "–"}</td>
              <td class="roomy"><${Lasted} from=${job.started_at} to=${job.finished_at} /></td>
            </tr>
          `,
        )}
      </tbody>
    </table>
  `;
}

function Pager({ section, query, next }) {
  const own = section === "dead" ? {} : narrowing(query);
  if (!next && !query.get("cursor")) return null;
  return html`
    <nav class="pager" aria-label="Pages of the list">
      ${query.get("cursor") && html`<a class="button" href=${link([section], own)}>Newest</a>`}
      ${next && html`<a class="button" href=${link([section], { ...own, cursor: next })}>Older</a>`}
    </nav>
  `;
}

// Export.

const COLUMNS = ["id", "task", "state", "queue", "priority", "attempt", "tags", "created_at", "started_at", "finished_at", "eta", "result", "error"];

function Export({ query, name }) {
  const as = (format) => async () => {
    const jobs = await collect(allJobs({ ...query, results: true }, MOST));
    if (format === "json") save(`${name}.json`, json(jobs), "application/json");
    else save(`${name}.csv`, [COLUMNS.join(","), ...jobs.map(row)].join("\r\n"), "text/csv");
  };
  return html`
    <${Action} action=${as("csv")} label="Export as CSV">CSV<//>
    <${Action} action=${as("json")} label="Export as JSON">JSON<//>
  `;
}

function row(job) {
  return COLUMNS.map((name) => cell(job[name])).join(",");
}

/** Write a cell. A spreadsheet would run a text that looks like a formula, so such a text gets a quote in front. */
function cell(value) {
  const text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
  const safe = typeof value !== "number" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
