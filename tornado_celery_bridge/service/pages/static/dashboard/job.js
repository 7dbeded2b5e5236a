// One job: its input, and what happens to it, live.
import { address, allJobs, ask, collect } from "./api.js";
import { bytes, exceptionName, json, moment, shortId } from "./format.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { useAnswer, useData, useEvents } from "./live.js";
import { JobForm } from "./job_form.js";
import {
  Absent, Action, Ago, cancelJob, Card, changeJob, Copy, Dialog, Facts, JobLink, Page, Progress, retryJob, Scroll, Lasted, State, Tags, TaskName, Trouble, useShell,
} from "./parts.js";
import { go, link } from "./router.js";
import { FAILURE, PENDING, PROGRESS, RETRY, SUCCESS } from "./states.js";
import { Attempts, Timeline } from "./timeline.js";

/** The number of log lines that the page keeps. */
const MAX_LINES = 2_000;
/** The number of items that the page shows. */
const MAX_ITEMS = 100;
/** The most bytes of an input or a result that the page shows. A larger one has a link instead. */
const MAX_SHOWN = 100_000;
/** Retries of this job are searched among so many of the task's newest jobs. */
const LOOKS = 200;

export function JobPage({ path: [, id] }) {
  const answer = useAnswer(["v1", "jobs", id], {});
  const [news, setNews] = useState(null);
  const [changes, setChanges] = useState(0);
  const [lines, setLines] = useState([]);
  const [items, setItems] = useState([]);
  const [ended, setEnded] = useState(false);
  useEvents(ended || !answer.data ? null : address(["v1", "jobs", id, "events"]), (kind, data) => {
    if (kind === "log") return setLines((before) => [...before, data].slice(-MAX_LINES));
    if (kind === "item") return setItems((before) => [...before, data].slice(-MAX_ITEMS));
    if (kind === "progress") return setNews((before) => ({ ...(before ?? answer.data), state: PROGRESS.name, progress: data }));
    // Many may come at first, of what the answer has already.
    if (kind === "checkpoint") return !answer.data.done && data.saved_at > (answer.data.checkpoint?.saved_at ?? "") && answer.reload();
    if (kind === "end") setEnded(true);
    if (kind === "changed") setChanges((before) => before + 1);
    return setNews(data);
  });
  const job = news && (news.done || !answer.data?.done) ? news : answer.data;
  // Between two changes of these only the last one goes on; it is drawn up to now.
  const attempts = useData(job ? `${id} ${job.state} ${job.attempt} ${job.started_at}` : null, (signal) => ask(["v1", "jobs", id, "attempts"], { signal }));
  const title = { text: job ? `${job.task} ${shortId(id)}` : "Job", shown: job ? html`<${TaskName} name=${job.task} /> <${State} of=${job} />` : "Job" };
  return html`
    <${Page} title=${title} lead=${html`<code>${id}</code> <${Copy} text=${id} label="Copy the job's id" />`} actions=${job && html`<${Actions} job=${job} />`}>
      ${answer.error && html`<${Trouble} error=${answer.error} again=${answer.reload} />`}
      ${job
        ? html`
            ${job.progress && !job.done && html`<${Progress} of=${job.progress} label="Progress" />`}
            <div class="columns">
              <${Error} job=${job} />
              <${About} job=${job} />
              <${Card} title="Timeline"><${Timeline} job=${job} attempts=${attempts.data?.attempts} /><//>
              <${Attempts} of=${attempts.data?.attempts} />
              <${Result} job=${job} />
              <${Input} id=${id} key=${changes} />
              <${Checkpoint} of=${job.done ? job.checkpoint : answer.data?.checkpoint} done=${job.done} />
              <${Items} id=${id} items=${items} count=${job.items} />
              <${Log} lines=${lines} />
              <${Lineage} job=${job} />
            </div>
          `
        : !answer.error && html`<${Absent} of=${answer} />`}
    <//>
  `;
}

function Actions({ job }) {
  const { may } = useShell();
  const [editing, setEditing] = useState(false);
  const waits = [PENDING.name, RETRY.name].includes(job.state) && !job.links.workflow;
  const retry = async (body) => go(link(["jobs", (await retryJob(job.id, body)).id]));
  const change = async ({ input, options }) => {
    const { queue, priority, eta } = options ?? {};
    const asked = { ...(job.attempt === 0 ? { input } : {}), queue, priority, eta };
    await changeJob(job.id, Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== undefined)));
    setEditing(false);
  };
  return html`
    ${waits && html`
      <${Action} scope="submit" action=${() => changeJob(job.id, { held: !job.held })}>${job.held ? "Release" : "Hold"}<//>
      ${job.eta && html`<${Action} scope="submit" action=${() => changeJob(job.id, { eta: null })}>Run now<//>`}
      <${Action} scope="submit" action=${async () => setEditing(true)}>Change…<//>`}
    ${!job.done && html`
      <${Action} scope="cancel" action=${() => cancelJob(job.id, false)}>Cancel<//>
      <${Action} scope="cancel" kind="danger" action=${() => cancelJob(job.id, true)}>Cancel and end its process<//>`}
    ${job.done && html`
      <${Action} scope="submit" kind="primary" action=${() => retry()}>Retry<//>
      ${job.checkpoint && html`<${Action} scope="submit" action=${() => retry({ from_checkpoint: true })}>Retry from checkpoint<//>`}
      <${Action} scope="submit" action=${async () => setEditing(true)}>Edit and retry…<//>`}
    ${may("admin") && html`<a class="button" href="flower/task/${encodeURIComponent(job.id)}">Flower</a>`}
    ${editing && (job.done
      ? html`<${Edit} job=${job} title="Edit and retry" word="Retry" submit=${({ input }) => retry({ input })} close=${() => setEditing(false)} />`
      : html`<${Edit} job=${job} title="Change" word="Change" withOptions submit=${change} close=${() => setEditing(false)} />`)}
  `;
}

function Edit({ job, title, word, submit, close, withOptions = false }) {
  const given = useAnswer(["v1", "jobs", job.id, "input"], {});
  return html`
    <${Dialog} title=${title} close=${close}>
      ${given.data === undefined
        ? html`<${Absent} of=${given} />`
        : html`<${JobForm} task=${job.task} input=${given.data} word=${word} submit=${submit} cancel=${close} withOptions=${withOptions} />`}
    <//>
  `;
}

function About({ job }) {
  return html`
    <${Card} title="About">
      <${Facts} of=${[
        ["Task", html`<a href=${link(["jobs"], { task: job.task })}>${job.task}</a>`],
        ["Queue", job.queue],
        ["Priority", job.priority],
        ...Object.entries(job.metadata ?? {}),
        ["Tags", job.tags.length > 0 && html`<${Tags} of=${job.tags} />`],
        ["Attempt", job.attempt || null],
        ["Created", html`<${Ago} at=${job.created_at} />`],
        ["Due", job.eta && html`<${Ago} at=${job.eta} />`],
        ["Waited", job.attempt <= 1 && html`<${Lasted} from=${job.created_at} to=${job.started_at ?? job.finished_at} />`],
        [job.attempt > 1 ? "Last ran" : "Ran", job.started_at && html`<${Lasted} from=${job.started_at} to=${job.finished_at} />`],
        ["In its queue", job.queue_depth],
        ["Told", job.meta != null && html`<code>${JSON.stringify(job.meta).slice(0, 500)}</code>`],
      ]} />
    <//>
  `;
}

function Error({ job: { error, state } }) {
  if (!error) return null;
  const isFailed = state === FAILURE.name;
  return html`
    <${Card} title=${isFailed ? "Error" : "Reason"} wide>
      <p class="error-title ${isFailed ? FAILURE.kind : ""}">${error.title}</p>
      <p class="exception"><code>${exceptionName(error.exception)}</code>${error.retryable && html` <span class="tag">retryable</span>`}</p>
      <pre class="text">${error.detail}</pre>
      ${error.traceback && html`<${Scroll} label="Traceback"><pre>${error.traceback}</pre><//>`}
    <//>
  `;
}

// Input and result.

function Input({ id }) {
  const given = useShown(address(["v1", "jobs", id, "input"]));
  return html`<${Card} title="Input"><${Shown} of=${given} label="Input" /><//>`;
}

function Result({ job }) {
  if (job.state !== SUCCESS.name) return null;
  const path = address(["v1", "jobs", job.id, "result"]);
  return html`
    <${Card} title="Result" wide=${Boolean(imageOf(job.result))}>
      ${job.links.result
        ? html`<p>Too large to show here (${bytes(job.result_size)}): <a href=${path}>open it</a>.</p>`
        : html`<${Shown} of=${{ data: { value: job.result, size: JSON.stringify(job.result ?? null).length }, path }} label="Result" />`}
    <//>
  `;
}

/** Where the job's next attempt goes on. */
function Checkpoint({ of: checkpoint, done }) {
  if (!checkpoint) return null;
  const { value, saved_at: savedAt, attempt } = checkpoint;
  return html`
    <${Card} title="Checkpoint">
      <p>Saved <${Ago} at=${savedAt} /> by attempt ${attempt}. ${done ? "A retry can go on" : "The next attempt goes on"} from it.</p>
      <${Scroll} label="Checkpoint"><pre>${json(shortened(value))}</pre><//>
    <//>
  `;
}

/** Read JSON; its value is left out if it is too large to show. */
function useShown(path) {
  const answer = useData(path, async (signal) => {
    const response = await fetch(path, { signal });
    const text = await response.text();
    if (!response.ok) throw new globalThis.Error(JSON.parse(text).detail);
    return { size: text.length, value: text.length > MAX_SHOWN ? undefined : JSON.parse(text) };
  });
  return { ...answer, path };
}

function Shown({ of: answer, label }) {
  if (!answer.data) return html`<${Absent} of=${answer} />`;
  const { value, size } = answer.data;
  const image = imageOf(value);
  if (size > MAX_SHOWN && !image) return html`<p>Too large to show here (${bytes(size)}): <a href=${answer.path}>open it</a>.</p>`;
  return html`
    ${image && html`<p class="picture"><img src=${image} alt="${label} as an image" /></p>`}
    <${Scroll} label=${label}><pre>${json(shortened(value))}</pre><//>
    ${size > MAX_SHOWN && html`<p><a href=${answer.path}>Open all of it</a></p>`}
  `;
}

const MEDIA = { PNG: "image/png", JPEG: "image/jpeg", JPG: "image/jpeg", WEBP: "image/webp", GIF: "image/gif" };
const DATA_URL = /^data:image\/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+$/;
const BASE64 = /^[A-Za-z0-9+/]{16,}={0,2}$/;

/** Return the picture in a value as a data URL. The value is such a URL, or has base64 text beside the name of an image format, as a thumbnail has. */
function imageOf(value) {
  if (typeof value === "string") return DATA_URL.test(value) ? value : null;
  if (value === null || typeof value !== "object" || Array.isArray(value)) return null;
  const media = [value.format, value.media_type, value.content_type].map((name) => MEDIA[String(name).toUpperCase().replace("IMAGE/", "")]).find(Boolean);
  const content = media && Object.values(value).find((each) => typeof each === "string" && BASE64.test(each));
  return content ? `data:${media};base64,${content}` : (Object.values(value).find((each) => typeof each === "string" && DATA_URL.test(each)) ?? null);
}

/** Return the value with only the beginning of each long text that is not for people, such as base64. */
function shortened(value) {
  if (typeof value === "string") {
    const isEncoded = value.length > 400 && !/\s/.test(value);
    return isEncoded ? `${value.slice(0, 60)}… (${value.length} characters)` : value;
  }
  if (Array.isArray(value)) return value.map(shortened);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, shortened(each)]));
}

// Items, log and lineage.

/** What the task, a generator, has yielded last. The events of a job that ended long ago are not kept, its items are. */
function Items({ id, items, count }) {
  if (!items.length && !count) return null;
  return html`
    <${Card} title="Items" wide>
      ${items.length > 0 && html`
        <div class="scroll log" role="log" aria-label="Items" tabindex="0">
          ${items.map(({ attempt, number, value }) => html`<div key=${`${attempt} ${number}`} class="line"><b>${number}</b> ${JSON.stringify(shortened(value))}</div>`)}
        </div>`}
      <p><a href=${address(["v1", "jobs", id, "items"])}>All items that are kept</a></p>
    <//>
  `;
}

function Log({ lines }) {
  const box = useRef();
  useEffect(() => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines.length]);
  if (!lines.length) return null;
  return html`
    <${Card} title="Log" wide>
      <div class="scroll log" role="log" aria-label="Log" tabindex="0" ref=${box}>
        ${lines.map(({ level, message, at }, place) => html`<div key=${place} class="line"><time datetime=${at} title=${moment(at)}>${at.slice(11, 23)}</time> <b class=${level}>${level}</b> ${message}</div>`)}
      </div>
    <//>
  `;
}

function Lineage({ job }) {
  const last = (path) => path && decodeURIComponent(path.slice(path.lastIndexOf("/") + 1));
  const before = last(job.links.retry_of);
  const workflow = last(job.links.workflow);
  const later = useData(`${job.id} ${job.done}`, async () => {
    const jobs = job.done ? await collect(allJobs({ task: job.task, since: job.finished_at }, LOOKS)) : [];
    return jobs.filter((each) => last(each.links.retry_of) === job.id);
  });
  if (!before && !workflow && !later.data?.length) return null;
  return html`
    <${Card} title="Lineage">
      <${Facts} of=${[
        ["Retry of", before && html`<${JobLink} id=${before} />`],
        ["Retried as", later.data?.length > 0 && later.data.map((each) => html`<${JobLink} id=${each.id} key=${each.id} /> <${State} of=${each} /> `)],
        ["Part of workflow", workflow && html`<a href=${link(["workflows", workflow])}><code>${shortId(workflow)}</code></a>`],
      ]} />
    <//>
  `;
}
