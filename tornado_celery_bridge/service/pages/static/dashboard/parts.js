// The parts that pages are made of.
import { ask, Problem } from "./api.js";
import { ago, between, duration, lastPart, moment, shortId } from "./format.js";
import { createContext, html, useContext, useEffect, useId, useRef, useState } from "./html.js";
import { useNow } from "./live.js";
import { link } from "./router.js";
import { standingOf } from "./states.js";

/** `me`: who is logged in, as `GET /v1/me` says. `may`: whether they have a scope. `tell`: show them a message. `pulse`: a text that changes with the counters. */
export const Shell = createContext(undefined);
export const useShell = () => useContext(Shell);

/** The state of a job or a workflow, as a word in its colour. */
export function State({ of: job }) {
  const { label, kind } = standingOf(job);
  return html`<span class="state ${kind}" title=${job.state}>${label}</span>`;
}

// Times.

export function Ago({ at, none = "–" }) {
  const now = useNow();
  return at ? html`<time datetime=${at} title=${moment(at)}>${ago(at, now)}</time>` : none;
}

/** The time from one moment to another, or until now. */
export function Lasted({ from, to, none = "–" }) {
  const now = useNow();
  return from ? html`<span class="number">${duration(Math.max(0, between(from, to ?? now)))}</span>` : none;
}

// Links.

export function JobLink({ id, children }) {
  return html`<a href=${link(["jobs", id])} title=${id}>${children ?? html`<code>${shortId(id)}</code>`}</a>`;
}

export function TaskName({ name }) {
  return html`<span title=${name}><span class="module">${name.slice(0, -lastPart(name).length)}</span>${lastPart(name)}</span>`;
}

export function Tags({ of: tags }) {
  return tags.map((tag) => html`<a class="tag" href=${link(["jobs"], { tag })} key=${tag}>${tag}</a>`);
}

// A page.

export function Page({ title, actions, children, lead }) {
  const heading = useRef();
  useEffect(() => {
    document.title = `${typeof title === "string" ? title : title.text} · Jobs`;
    heading.current.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, []);
  return html`
    <header class="page-header">
      <div>
        <h1 tabindex="-1" ref=${heading}>${typeof title === "string" ? title : title.shown}</h1>
        ${lead && html`<p class="lead">${lead}</p>`}
      </div>
      ${actions && html`<div class="actions">${actions}</div>`}
    </header>
    ${children}
  `;
}

export function Card({ title, children, actions, wide }) {
  const id = useId();
  return html`
    <section class="card ${wide ? "wide" : ""}" aria-labelledby=${title && id}>
      ${title && html`<div class="card-header"><h2 id=${id}>${title}</h2>${actions}</div>`}
      ${children}
    </section>
  `;
}

/** What is shown in place of data that are not there: they are loading, there was an error, or there are none. */
export function Absent({ of: { loading, error, reload }, children }) {
  if (error) return html`<${Trouble} error=${error} again=${reload} />`;
  return html`<p class="absent" aria-busy=${loading}>${loading ? "Loading…" : children}</p>`;
}

export function Trouble({ error, again }) {
  return html`
    <div class="trouble" role="alert">
      <strong>${error instanceof Problem ? error.message : String(error)}</strong>
      ${error.faults?.length > 0 &&
      html`<ul>${error.faults.map(({ pointer, detail }) => html`<li><code>${pointer || "/"}</code> ${detail}</li>`)}</ul>`}
      ${again && html`<button onClick=${again}>Try again</button>`}
    </div>
  `;
}

export function Facts({ of: facts }) {
  const shown = facts.filter(([, value]) => value !== null && value !== undefined && value !== false);
  return html`<dl class="facts">${shown.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A block that may be wider than the page. It can be scrolled, also by the keyboard. */
export function Scroll({ label, children }) {
  return html`<div class="scroll" role="group" aria-label=${label} tabindex="0">${children}</div>`;
}

export function Progress({ of: progress, label }) {
  const { current, total, message } = progress;
  const known = typeof current === "number" && total > 0;
  return html`
    <div class="progress">
      <progress aria-label=${label} max=${known ? total : undefined} value=${known ? Math.min(current, total) : undefined}></progress>
      <span class="number">${known ? `${Math.floor((100 * current) / total)} %` : typeof current === "number" ? current : ""}</span>
      ${typeof message === "string" && html`<span class="message">${message}</span>`}
    </div>
  `;
}

// Doing something.

/** A button whose `action` takes a while. It is disabled without the scope. If the action fails, a message says so, and the button may be pressed again. */
export function Action({ action, scope, kind = "", disabled, children, label }) {
  const { may, tell } = useShell();
  const [busy, setBusy] = useState(false);
  const allowed = !scope || may(scope);
  const act = async () => {
    setBusy(true);
    try {
      await action();
    } catch (error) {
      tell(error.message, "failed");
    }
    setBusy(false);
  };
  return html`
    <button class=${kind} onClick=${act} disabled=${busy || disabled || !allowed} aria-label=${label}
      title=${allowed ? undefined : `Your key lacks the scope ${scope}.`}>${children}</button>
  `;
}

/** A dialog, which is open as long as it is rendered. Escape closes it. */
export function Dialog({ title, close, children }) {
  const dialog = useRef();
  const id = useId();
  useEffect(() => dialog.current.showModal(), []);
  return html`
    <dialog ref=${dialog} aria-labelledby=${id} onClose=${close}>
      <h2 id=${id}>${title}</h2>
      ${children}
    </dialog>
  `;
}

export const cancelJob = (id, terminate) => ask(["v1", "jobs", id, "cancel"], { method: "POST", body: { terminate } });
export const deleteJob = (id) => ask(["v1", "jobs", id], { method: "DELETE" });
export const changeJob = (id, body) => ask(["v1", "jobs", id], { method: "PATCH", body, headers: { "Content-Type": "application/merge-patch+json" } });
export const retryJob = (id, body) => ask(["v1", "jobs", id, "retry"], { method: "POST", body });

export function Copy({ text, label }) {
  const { tell } = useShell();
  const copy = () => navigator.clipboard.writeText(text).then(() => tell("Copied."));
  return html`<button class="quiet" onClick=${copy} aria-label=${label}>Copy</button>`;
}

/** Let the browser save a text as a file. */
export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
