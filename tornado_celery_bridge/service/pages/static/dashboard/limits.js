// The limits of tasks: how many jobs run at once and begin in a time, and which tasks take no new jobs.
import { ask } from "./api.js";
import { number } from "./format.js";
import { html, useId, useState } from "./html.js";
import { useAnswer } from "./live.js";
import { Absent, Action, Ago, Card, Dialog, Page, TaskName, Trouble, useShell } from "./parts.js";

/** Seconds between two requests. */
const EVERY = 3;

const change = (task, body) => ask(["v1", "tasks", task], { method: "PATCH", body });

export function LimitsPage() {
  const limits = useAnswer("v1/limits", {}, EVERY);
  const tasks = useAnswer("v1/tasks", {});
  const [opened, setOpened] = useState(null);
  const close = () => (setOpened(null), limits.reload());
  const shown = limits.data && tasks.data && rowsOf(limits.data.tasks, tasks.data.tasks);
  const share = html`<${Action} scope="admin" action=${async () => setOpened({ limit: {} })}>Limit tasks together…<//>`;
  return html`
    <${Page} title="Limits" lead="How many jobs of a task run at once, and how many begin in a time, over all workers." actions=${share}>
      ${limits.error && html`<${Trouble} error=${limits.error} again=${limits.reload} />`}
      ${limits.data?.limits.length > 0 && html`<${Shared} of=${limits.data.limits} open=${setOpened} reload=${limits.reload} />`}
      ${shown?.length
        ? html`
            <table>
              <thead><tr><th scope="col">Task</th><th scope="col">Limit</th><th scope="col" class="roomy">Running</th><th scope="col" class="roomy">Waiting</th><th scope="col">State</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
              <tbody>${shown.map((each) => html`<${Row} key=${each.task} limit=${each} reload=${limits.reload} open=${setOpened} />`)}</tbody>
            </table>`
        : !limits.error && html`<${Absent} of=${limits}>No tasks.<//>`}
      ${opened?.task && html`<${TaskDialog} of=${opened} close=${close} />`}
      ${opened?.off && html`<${OffDialog} task=${opened.off} close=${close} />`}
      ${opened?.limit && html`<${SharedDialog} of=${opened.limit} close=${close} />`}
    <//>
  `;
}

/** Return a row for each task: those that are limited come with how, the others are plain. */
function rowsOf(limited, tasks) {
  const plain = { max_concurrency: null, max_rate: null, set: {}, limit_by: null, limit: null, switched_off: null, uses: [] };
  const known = new Map([...tasks.map(({ name }) => [name, { ...plain, task: name }]), ...limited.map((each) => [each.task, each])]);
  return [...known.values()].sort((one, other) => (one.task < other.task ? -1 : 1));
}

const bounds = (most, rate) => [most !== null && `${number(most)} at once`, rate].filter(Boolean).join(", ") || "–";
const sum = (uses, name) => number(uses.reduce((total, each) => total + each[name], 0));

function Row({ limit, reload, open }) {
  const { task, max_concurrency: most, max_rate: rate, set, limit_by: by, limit: shared, switched_off: off, uses } = limit;
  const switchOn = async () => (await change(task, { enabled: true }), reload());
  const about = [by && `for each ${by}`, shared && `with ${shared}`, (written(set.max_concurrency) || set.max_rate) && "set at run time"].filter(Boolean).join(", ");
  return html`
    <tr data-name=${task}>
      <td class="what"><${TaskName} name=${task} />${about && html`<span class="reason">${about}</span>`}</td>
      <td>${bounds(most, rate)}</td>
      <td class="roomy number">${sum(uses, "running")}</td>
      <td class="roomy number">${sum(uses, "waiting")}${uses.some(({ key, waiting }) => key && waiting) && html`<span class="reason">${uses.filter(({ waiting }) => waiting).map(({ key, waiting }) => `${key}: ${number(waiting)}`).join(", ")}</span>`}</td>
      <td>${off ? html`<span class="state cancelled">Off</span> <span class="about">${off.reason} <${Ago} at=${off.at} /></span>` : html`<span class="state succeeded">On</span>`}</td>
      <td class="acts">
        <${Action} scope="admin" action=${async () => open(limit)} label="Change the limits of ${task}…">Change…<//>
        ${off
          ? html`<${Action} scope="admin" action=${switchOn} label="Switch ${task} on">Switch on<//>`
          : html`<${Action} scope="admin" kind="danger" action=${async () => open({ off: task })} label="Switch ${task} off…">Switch off…<//>`}
      </td>
    </tr>
  `;
}

function Shared({ of: limits, open, reload }) {
  const remove = (name) => async () => (await ask(["v1", "limits", name], { method: "DELETE" }), reload());
  return html`
    <${Card} title="Several tasks together">
      <table class="plain">
        <thead><tr><th scope="col">Name</th><th scope="col">Limit</th><th scope="col" class="roomy">Running</th><th scope="col" class="roomy">Waiting</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
        <tbody>${limits.map(
          (limit) => html`
            <tr key=${limit.name} data-limit=${limit.name}>
              <td class="what long">${limit.name}<span class="reason">${limit.tasks.join(", ")}</span></td>
              <td>${bounds(limit.max_concurrency, limit.max_rate)}</td>
              <td class="roomy number">${number(limit.running)}</td><td class="roomy number">${number(limit.waiting)}</td>
              <td class="acts">
                <${Action} scope="admin" action=${async () => open({ limit })} label="Change ${limit.name}…">Change…<//>
                <${Action} scope="admin" kind="danger" action=${remove(limit.name)} label="Remove ${limit.name}">Remove<//>
              </td>
            </tr>`,
        )}</tbody>
      </table>
    <//>
  `;
}

/** Return a bound as a field has it, and as the API takes it: an empty field is no bound. */
const written = (bound) => (bound === null || bound === undefined ? "" : String(bound));
const read = (text) => (text.trim() === "" ? null : text.trim());
const count = (text) => (read(text) === null ? null : Number(text));

function Field({ label, about, value, set, ...more }) {
  const id = useId();
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      <input id=${id} value=${value} onInput=${(event) => set(event.target.value)} autocomplete="off" spellcheck=${false} aria-describedby="${id}-about" ...${more} />
      <p class="about" id="${id}-about">${about}</p>
    </div>
  `;
}

function Bounds({ most, setMost, rate, setRate, none }) {
  return html`
    <${Field} label="At once" about="Jobs that run at once; 0 lets none begin. Empty: ${none}." value=${most} set=${setMost} inputmode="numeric" />
    <${Field} label="Rate" about="Jobs that begin in a time: 10/s, 30/m, 100/h. Empty: ${none}." value=${rate} set=${setRate} />
  `;
}

function Deciding({ action, word, kind = "primary", disabled }) {
  return html`
    <div class="actions">
      <form method="dialog"><button>Go back</button></form>
      <${Action} scope="admin" kind=${kind} action=${action} disabled=${disabled}>${word}<//>
    </div>
  `;
}

function TaskDialog({ of: { task, set }, close }) {
  const { tell } = useShell();
  const [most, setMost] = useState(written(set.max_concurrency));
  const [rate, setRate] = useState(written(set.max_rate));
  const save = async () => {
    await change(task, { max_concurrency: count(most), max_rate: read(rate) });
    tell(`${task}: the limits hold now.`);
    close();
  };
  return html`
    <${Dialog} title="Limits of ${task}" close=${close}>
      <div class="form"><${Bounds} ...${{ most, setMost, rate, setRate }} none="as the task's code says" /></div>
      <${Deciding} action=${save} word="Change" />
    <//>
  `;
}

function OffDialog({ task, close }) {
  const [reason, setReason] = useState("");
  const save = async () => {
    await change(task, { enabled: false, reason });
    close();
  };
  return html`
    <${Dialog} title="Switch ${task} off?" close=${close}>
      <p>It takes no new jobs, and its schedules leave their runs out. Jobs that were accepted before run: to hold these, let 0 run at once.</p>
      <div class="form typed"><${Field} label="Reason" about="Whoever submits a job is told this." value=${reason} set=${setReason} maxlength="300" /></div>
      <${Deciding} action=${save} word="Switch off" kind="danger" disabled=${!reason.trim()} />
    <//>
  `;
}

function SharedDialog({ of: limit, close }) {
  const [name, setName] = useState(limit.name ?? "");
  const [tasks, setTasks] = useState((limit.tasks ?? []).join("\n"));
  const [most, setMost] = useState(written(limit.max_concurrency));
  const [rate, setRate] = useState(written(limit.max_rate));
  const id = useId();
  const names = tasks.split(/[\s,]+/).filter(Boolean);
  const save = async () => {
    await ask(["v1", "limits", name], { method: "PUT", body: { tasks: names, max_concurrency: count(most), max_rate: read(rate) } });
    close();
  };
  return html`
    <${Dialog} title=${limit.name ? `Change ${limit.name}` : "Limit tasks together"} close=${close}>
      <div class="form">
        <${Field} label="Name" about="What this limit is called." value=${name} set=${setName} maxlength="100" disabled=${Boolean(limit.name)} />
        <div class="field">
          <label for=${id}>Tasks</label>
          <textarea id=${id} rows="4" value=${tasks} onInput=${(event) => setTasks(event.target.value)} spellcheck=${false}></textarea>
        </div>
        <${Bounds} ...${{ most, setMost, rate, setRate }} none="any number" />
      </div>
      <${Deciding} action=${save} word="Save" disabled=${!name.trim() || !names.length} />
    <//>
  `;
}
