// The frame of every page: navigation, counters, messages. Inside it stands the page that the address names.
import { ask } from "./api.js";
import { html, render, useEffect, useMemo, useRef, useState } from "./html.js";
import { Counters } from "./counters.js";
import { useAnswer, useData } from "./live.js";
import { Page, Shell, useShell } from "./parts.js";
import { link, useRoute } from "./router.js";
import { DeadLetters, JobsPage } from "./jobs.js";
import { FailuresPage } from "./failures.js";
import { JobPage } from "./job.js";
import { LimitsPage } from "./limits.js";
import { NewJobPage } from "./new_job.js";
import { OverviewPage } from "./overview.js";
import { QueuesPage, WorkersPage } from "./queues.js";
import { SchedulePage, SchedulesPage } from "./schedules.js";
import { SystemPage } from "./system.js";
import { WorkflowPage, WorkflowsPage } from "./workflows.js";

/** Seconds between two requests for the counters. */
const EVERY = 3;

/** The sections: the first segment of the address, the title, and the scope that the section needs. */
const SECTIONS = [
  ["", "Overview"],
  ["jobs", "Jobs"],
  ["failures", "Failures"],
  ["dead", "Dead letters"],
  ["workflows", "Workflows"],
  ["schedules", "Schedules"],
  ["queues", "Queues", "monitor"],
  ["workers", "Workers", "monitor"],
  ["limits", "Limits", "monitor"],
  ["system", "System"],
];

/** The pages, by the first segment of the address and the number of its segments. */
const PAGES = {
  "/0": OverviewPage,
  "jobs/1": JobsPage,
  "jobs/2": JobPage,
  "new/1": NewJobPage,
  "new/2": NewJobPage,
  "failures/1": FailuresPage,
  "dead/1": DeadLetters,
  "workflows/1": WorkflowsPage,
  "workflows/2": WorkflowPage,
  "schedules/1": SchedulesPage,
  "schedules/2": SchedulePage,
  "queues/1": QueuesPage,
  "workers/1": WorkersPage,
  "limits/1": LimitsPage,
  "system/1": SystemPage,
};

function Missing() {
  return html`<${Page} title="Nothing here"><p class="absent">There is no such page. <a href="#/">Overview</a><//>`;
}

function Theme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const [theme, setTheme] = useState(root.dataset.theme ?? system);
  const other = theme === "dark" ? "light" : "dark";
  const change = () => {
    root.dataset.theme = other;
    localStorage.setItem("theme", other);
    setTheme(other);
    dispatchEvent(new Event("themechange"));
  };
  return html`<button class="quiet" onClick=${change}>${other === "dark" ? "Dark" : "Light"} theme</button>`;
}

async function logOut() {
  await fetch("logout", { method: "POST" });
  location.assign("login");
}

function Navigation({ section }) {
  const { me, may } = useShell();
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [section]);
  return html`
    <nav class="sidebar ${open ? "open" : ""}" aria-label="Pages">
      <a class="brand" href="#/"><img src="dashboard/icon.svg" alt="" width="24" height="24" />Jobs</a>
      <button class="menu" aria-expanded=${open} aria-controls="sections" onClick=${() => setOpen(!open)}>Menu</button>
      <div id="sections" class="sections">
        <a class="button primary" href="#/new">New job</a>
        <ul>
          ${SECTIONS.filter(([, , scope]) => !scope || may(scope)).map(
            ([name, title]) => html`<li key=${name}><a href="#/${name}" aria-current=${name === section ? "page" : undefined}>${title}</a></li>`,
          )}
        </ul>
        <ul class="outside">
          <li><a href="docs">API</a></li>
          ${may("admin") && html`<li><a href="flower/">Flower</a></li>`}
        </ul>
        <${Theme} />
        ${me?.login === "session" && html`<p class="who">${me.owner}, ${me.role ?? me.scopes.join(", ")}</p><button class="quiet" onClick=${logOut}>Log out</button>`}
      </div>
    </nav>
  `;
}

function Messages({ messages, drop }) {
  return html`
    <div class="messages" role="status">
      ${messages.map(
        ({ id, text, kind }) => html`
          <div class="message-box ${kind}" key=${id}>
            <span>${text}</span><button class="quiet" onClick=${() => drop(id)} aria-label="Close the message">×</button>
          </div>
        `,
      )}
    </div>
  `;
}

function App() {
  const { path, query } = useRoute();
  const section = path[0] ?? "";
  const PageOf = PAGES[`${section}/${path.length}`] ?? Missing;
  const me = useAnswer("v1/me", {});
  const may = (scope) => me.data?.scopes.includes(scope) ?? false;
  const counts = useData(may("monitor") ? "counts" : null, (signal) => ask("v1/statistics", { query: { since: new Date().toISOString() }, signal }), EVERY);
  const pulse = JSON.stringify(counts.data?.now);
  const [messages, setMessages] = useState([]);
  const drop = (id) => setMessages((before) => before.filter((each) => each.id !== id));
  const shell = useMemo(() => {
    const tell = (text, kind = "") => {
      const id = Symbol();
      setMessages((before) => [...before.slice(-2), { id, text, kind }]);
      setTimeout(drop, kind === "failed" ? 12_000 : 4_000, id);
    };
    return { me: me.data, may, tell, pulse };
  }, [me.data, pulse]);
  const main = useRef();
  return html`
    <${Shell.Provider} value=${shell}>
      <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>To the content</a>
      <${Navigation} section=${section} />
      <div class="content">
        ${may("monitor") && html`<${Counters} of=${counts} />`}
        <main id="main" tabindex="-1" ref=${main}>
          <${PageOf} key=${section === "new" ? section : path.join("/")} path=${path} query=${query} />
        </main>
      </div>
      <${Messages} messages=${messages} drop=${drop} />
    <//>
  `;
}

// The login does not keep the fragment of the address, so it was stored before: go there now.
if (!location.hash && sessionStorage.getItem("wanted")) location.replace(sessionStorage.getItem("wanted"));
sessionStorage.removeItem("wanted");

addEventListener("keydown", (event) => {
  const typing = /** @type {Element} */ (event.target).closest("input, textarea, select, dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    const search = /** @type {HTMLInputElement} */ (document.querySelector("input[type=search]"));
    if (search) search.focus();
    else location.hash = link(["jobs"]);
  }
});

render(html`<${App} />`, document.body);
