// Schedules: which task runs when.
import { ask } from "./api.js";
import { duration, moment, number, shortMoment } from "./format.js";
import { html, useMemo, useState } from "./html.js";
import { useAnswer, useData } from "./live.js";
import { Absent, Action, Ago, Card, Dialog, Facts, JobLink, Page, State, Tags, TaskName, Trouble, useShell } from "./parts.js";
import { go, link } from "./router.js";
import { fieldsOf, SchemaForm } from "./schema_form.js";
import { standingOf } from "./states.js";

/** Seconds between two requests. */
const EVERY = 5;
const RUNS = 5;

const path = (name, ...more) => ["v1", "schedules", name, ...more];
const post = (name, action, body = {}) => ask(path(name, action), { method: "POST", body });

export function SchedulesPage({ query }) {
  const [making, setMaking] = useState(false);
  const page = useAnswer("v1/schedules", { cursor: query.get("cursor") ?? undefined, limit: 100 }, EVERY);
  const actions = html`<${Action} scope="schedule" kind="primary" action=${async () => setMaking(true)}>New schedule…<//>`;
  return html`
    <${Page} title="Schedules" actions=${actions}>
      ${page.error && html`<${Trouble} error=${page.error} again=${page.reload} />`}
      ${page.data?.quarantined.map(({ name, detail }) => html`<${Trouble} key=${name} error=${`${name} was set aside: ${detail}`} />`)}
      ${page.data?.beat.hint && html`<${Trouble} error=${page.data.beat.hint} />`}
      ${page.data?.beat_schedule.length > 0 && html`<${Others} of=${page.data.beat_schedule} />`}
      ${page.data?.schedules.length
        ? html`
            <table>
              <thead><tr><th scope="col">Schedule</th><th scope="col">State</th><th scope="col" class="roomy">When</th><th scope="col" class="roomy">Last run</th><th scope="col">Next run</th><th scope="col" class="roomy"><span class="hidden">Actions</span></th></tr></thead>
              <tbody>${page.data.schedules.map((schedule) => html`<${Row} key=${schedule.name} schedule=${schedule} reload=${page.reload} />`)}</tbody>
            </table>`
        : !page.error && html`<${Absent} of=${page}>No schedules.<//>`}
      ${page.data?.next_cursor && html`<nav class="pager" aria-label="Pages of the list"><a class="button" href=${link(["schedules"], { cursor: page.data.next_cursor })}>More</a></nav>`}
      ${making && html`<${Editor} close=${() => (setMaking(false), page.reload())} />`}
    <//>
  `;
}

/** What another scheduler runs of the app's configuration. */
function Others({ of: schedules }) {
  return html`
    <${Card} title="beat_schedule, which another scheduler runs">
      <table>
        <thead><tr><th scope="col">Entry</th><th scope="col">When</th></tr></thead>
        <tbody>${schedules.map((each) => html`<tr key=${each.name}><td class="what">${each.name}<span class="reason">${each.task && html`<${TaskName} name=${each.task} />`}</span></td><td>${each.detail ?? when(each)}</td></tr>`)}</tbody>
      </table>
    <//>
  `;
}

function Row({ schedule, reload }) {
  const { name, task, last_run: last, next_run: next, tags } = schedule;
  return html`
    <tr data-name=${name}>
      <td class="what"><a href=${link(["schedules", name])}>${name}</a><span class="reason"><${TaskName} name=${task} /> <${Tags} of=${tags} /></span></td>
      <td><${Standing} of=${schedule} /></td>
      <td class="roomy">${when(schedule)}</td>
      <td class="roomy"><${Ago} at=${last} /></td>
      <td><${Ago} at=${next} /></td>
      <td class="roomy"><${Toggle} of=${schedule} done=${reload} /></td>
    </tr>
  `;
}

const isPaused = ({ enabled, paused_until: until, halted }) => !enabled || Boolean(halted) || Boolean(until && Date.parse(until) > Date.now());

function Standing({ of: schedule }) {
  const { halted } = schedule;
  const [word, kind] = halted ? ["Halted", "failed"] : isPaused(schedule) ? ["Paused", "cancelled"] : schedule.next_run ? ["Active", "succeeded"] : ["Over", "cancelled"];
  return html`<span class="state ${kind}" title=${halted ?? undefined}>${word}</span>`;
}

function Toggle({ of: schedule, done }) {
  const action = isPaused(schedule) ? "resume" : "pause";
  const act = async () => {
    await post(schedule.name, action);
    await done();
  };
  return html`<${Action} scope="schedule" action=${act} label="${action === "pause" ? "Pause" : "Resume"} ${schedule.name}">${action === "pause" ? "Pause" : "Resume"}<//>`;
}

/** Return when a schedule is due, as its owner wrote it. For a single schedule, the API says it in words. */
function when({ crontab, interval, once, solar, timezone }) {
  if (crontab) return html`<code>${crontab}</code> ${timezone !== "UTC" && timezone}`;
  if (interval) return `every ${duration(interval)}`;
  return once ? `once, ${shortMoment(once)}` : `${solar.event} at ${solar.lat}, ${solar.lon}`;
}

export function SchedulePage({ path: [, name] }) {
  const schedule = useAnswer(path(name), {}, EVERY);
  const next = useAnswer(path(name, "next"), { count: RUNS }, EVERY);
  const runs = useAnswer(path(name, "runs"), {}, EVERY);
  const [dialog, setDialog] = useState(null);
  const reload = () => Promise.all([schedule, next, runs].map((each) => each.reload()));
  const run = async () => go(link(["jobs", (await post(name, "run")).id]));
  const close = () => (setDialog(null), reload());
  const data = schedule.data;
  const actions = data && html`
    <${Action} scope="schedule" kind="primary" action=${run}>Run now<//>
    <${Toggle} of=${data} done=${reload} />
    <${Action} scope="schedule" action=${async () => setDialog("backfill")}>Backfill…<//>
    <${Action} scope="schedule" action=${async () => setDialog("edit")} disabled=${data.static}>Edit…<//>
    <${Action} scope="schedule" kind="danger" action=${async () => setDialog("delete")} disabled=${data.static}>Delete…<//>`;
  const title = { text: name, shown: html`${name} ${data && html`<${Standing} of=${data} />`}` };
  return html`
    <${Page} title=${title} lead=${next.data?.description} actions=${actions}>
      ${schedule.error && html`<${Trouble} error=${schedule.error} again=${schedule.reload} />`}
      ${data
        ? html`
            ${data.halted && html`<${Trouble} error=${data.halted} />`}
            <div class="columns">
              <${About} schedule=${data} />
              <${Card} title="Next runs">
                ${next.data?.next.length
                  ? html`<ol class="slots">${next.data.next.map(({ utc, local }) => html`<li key=${utc}><time datetime=${utc} title=${moment(utc)}>${local.slice(0, 19).replace("T", " ")}</time> <span class="about">${next.data.timezone}, <${Ago} at=${utc} /></span></li>`)}</ol>`
                  : html`<${Absent} of=${next}>None.<//>`}
              <//>
              <${History} runs=${runs} />
            </div>`
        : !schedule.error && html`<${Absent} of=${schedule} />`}
      ${dialog === "edit" && html`<${Editor} schedule=${data} close=${close} />`}
      ${dialog === "backfill" && html`<${Backfill} name=${name} close=${close} />`}
      ${dialog === "delete" && html`<${Deletion} schedule=${data} close=${close} />`}
    <//>
  `;
}

function About({ schedule }) {
  return html`
    <${Card} title="About">
      <${Facts} of=${[
        ["Task", html`<a href=${link(["jobs"], { task: schedule.task })}>${schedule.task}</a>`],
        ["When", when(schedule)],
        ["Input", html`<code>${JSON.stringify(schedule.input)}</code>`],
        ["Overlap", schedule.overlap],
        ["Misfire", schedule.misfire],
        ["Runs", schedule.runs],
        ["Failures in a row", schedule.failures || null],
        ["Tags", schedule.tags.length > 0 && html`<${Tags} of=${schedule.tags} />`],
        ["Note", schedule.note || null],
        ["Set by", schedule.static && "the configuration: you can pause it, but not change it"],
      ]} />
    <//>
  `;
}

function History({ runs }) {
  return html`
    <${Card} title="History" wide>
      ${runs.data?.runs.length
        ? html`
            <ul class="strip" aria-label="Runs, the oldest first">
              ${runs.data.runs.toReversed().map(({ at, job, job_id: id, reason }) => {
                const told = `${moment(at)}: ${job?.state ?? reason ?? "no longer kept"}`;
                const kind = job ? standingOf(job).kind : "absent";
                return html`<li key=${`${at} ${id}`}>${id ? html`<a class=${kind} href=${link(["jobs", id])} title=${told} aria-label=${told}></a>` : html`<span class=${kind} title=${told}></span>`}</li>`;
              })}
            </ul>
            <ul class="newest">
              ${runs.data.runs.slice(0, 8).map(({ at, slot, job, job_id: id, reason }) => html`
                <li key=${`${at} ${id}`}>
                  ${job ? html`<${State} of=${job} />` : html`<span class="state cancelled">${reason ?? "Forgotten"}</span>`}
                  <span>${id ? html`<${JobLink} id=${id} />` : "no job"} ${slot === null && html`<span class="tag">on demand</span>`}</span>
                  <${Ago} at=${at} />
                </li>`)}
            </ul>`
        : html`<${Absent} of=${runs}>No runs yet.<//>`}
    <//>
  `;
}

function Deletion({ schedule: { name, version }, close }) {
  const remove = async () => {
    await ask(path(name), { method: "DELETE", headers: { "If-Match": `"${version}"` } });
    go(link(["schedules"]));
  };
  return html`
    <${Dialog} title="Delete ${name}?" close=${close}>
      <p>It will not run again. Jobs that it has begun go on.</p>
      <div class="actions">
        <form method="dialog"><button>Go back</button></form>
        <${Action} scope="schedule" kind="danger" action=${remove}>Delete<//>
      </div>
    <//>
  `;
}

// Runs for slots in the past.

/** The dialog first shows which runs would begin. */
function Backfill({ name, close }) {
  const { tell } = useShell();
  const document = useAnswer("openapi.json", {});
  const [asked, setAsked] = useState(null);
  const groups = useMemo(() => {
    if (!document.data) return null;
    const { properties: { since, until }, ...rest } = document.data.components.schemas.Backfilling;
    const day = new Date(Date.now() - 86_400_000), now = new Date();
    const initial = { since: `${day.toISOString().slice(0, 19)}Z`, until: `${now.toISOString().slice(0, 19)}Z` };
    return [{ fields: fieldsOf({ ...rest, properties: { since, until } }, ""), initial }];
  }, [document.data]);
  const look = async ([times]) => setAsked({ times, ...(await post(name, "backfill", { ...times, dry_run: true })) });
  const run = async () => {
    const { job_ids: ids } = await post(name, "backfill", { ...asked.times, dry_run: false });
    tell(`${number(ids.length)} ${ids.length === 1 ? "run has" : "runs have"} begun.`);
    close();
  };
  if (!asked) {
    return html`
      <${Dialog} title="Backfill ${name}" close=${close}>
        <p class="about">The task runs once for each time in this period at which it was due and had no job.</p>
        ${groups ? html`<${SchemaForm} groups=${groups} word="Preview" scope="schedule" submit=${look} cancel=${close} />` : html`<${Absent} of=${document} />`}
      <//>
    `;
  }
  const { slots } = asked;
  const shown = slots.length > 8 ? [...slots.slice(0, 4), null, ...slots.slice(-3)] : slots;
  return html`
    <${Dialog} title="Backfill ${name}" close=${close}>
      <p>${slots.length ? `${number(slots.length)} ${slots.length === 1 ? "run was" : "runs were"} due in this period and had no job:` : "Nothing to run: each run that was due in this period has a job."}</p>
      <ol class="slots">${shown.map((slot) => html`<li key=${slot}>${slot ? html`<time datetime=${slot}>${moment(slot)}</time>` : "…"}</li>`)}</ol>
      <div class="actions">
        <form method="dialog"><button>Go back</button></form>
        <button onClick=${() => setAsked(null)}>Change the period</button>
        ${slots.length > 0 && html`<${Action} scope="schedule" kind="primary" action=${run}>Run ${number(slots.length)}<//>`}
      </div>
    <//>
  `;
}

// Making and changing a schedule.

const FIRST = ["name", "task", "input", "crontab", "timezone", "interval", "once", "tags", "note"];

function Editor({ schedule, close }) {
  const document = useAnswer("openapi.json", {});
  const tasks = useData("tasks", () => ask("v1/tasks"));
  const groups = useMemo(() => {
    if (!document.data || !tasks.data) return null;
    const { schemas } = document.data.components;
    const fields = fieldsOf(schema(schemas, tasks.data.tasks, schedule), "", schemas);
    const rest = fields.filter(({ name }) => !FIRST.includes(name) && !(schedule && name === "enabled"));
    const first = FIRST.map((name) => fields.find((field) => field.name === name)).filter(Boolean);
    return [{ fields: first, initial: schedule }, { fields: rest, initial: schedule, title: "More" }];
  }, [document.data, tasks.data]);
  const save = async (values) => {
    const body = Object.assign({}, ...values);
    if (schedule) {
      await ask(path(schedule.name), { method: "PUT", body: { ...body, enabled: schedule.enabled }, headers: { "If-Match": `"${schedule.version}"` } });
      close();
    } else {
      go(link(["schedules", (await ask("v1/schedules", { method: "POST", body })).name]));
    }
  };
  return html`
    <${Dialog} title=${schedule ? `Edit ${schedule.name}` : "New schedule"} close=${close}>
      ${groups
        ? html`<p class="about">Fill in one of crontab, interval (seconds), once and solar.</p><${SchemaForm} groups=${groups} word="Save" scope="schedule" submit=${save} cancel=${close} />`
        : html`<${Absent} of=${document.data ? tasks : document} />`}
    <//>
  `;
}

/** Return the JSON Schema of the form, with the existing tasks as choices. Only a new schedule has a field for the name. */
function schema(schemas, tasks, schedule) {
  const { properties, ...rest } = schedule ? schemas.ScheduleFields : schemas.NewSchedule;
  const names = tasks.map(({ name }) => name);
  const known = schedule && !names.includes(schedule.task) ? [...names, schedule.task] : names;
  const { name, ...others } = { ...properties, task: { enum: known } };
  return { ...rest, properties: schedule ? others : { name, ...others } };
}
