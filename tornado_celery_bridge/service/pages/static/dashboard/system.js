// The servers below the service, its settings, and the audit log.
import { ask } from "./api.js";
import { html } from "./html.js";
import { useAnswer, useData } from "./live.js";
import { Absent, Action, Ago, Card, Facts, Page, Trouble, useShell } from "./parts.js";

/** Seconds between two requests. */
const EVERY = 5;
const NAMES = { broker: "Broker", result_backend: "Result backend", ledger: "Ledger" };

export function SystemPage() {
  const { may } = useShell();
  const ready = useData("readyz", (signal) => ask("readyz", { signal }).catch((error) => error.document ?? { checks: {} }), EVERY);
  const document = useAnswer("openapi.json", {});
  return html`
    <${Page} title="System">
      <div class="columns">
        <${Card} title="Readiness">
          ${ready.data
            ? html`<${Facts} of=${Object.entries(ready.data.checks ?? {}).map(([name, told]) => [NAMES[name] ?? name, html`<span class="state ${told === "ok" ? "succeeded" : "failed"}">${told}</span>`])} />`
            : html`<${Absent} of=${ready} />`}
        <//>
        <${Card} title="Service">
          ${document.data
            ? html`<${Facts} of=${[
                ["Version", document.data.info.version],
                ["Queues", document.data.components.schemas.JobOptions.properties.queue.anyOf[0].enum.join(", ")],
                ["API", html`<a href="docs">described in OpenAPI ${document.data.openapi}</a>`],
              ]} />`
            : html`<${Absent} of=${document} />`}
        <//>
      </div>
      ${may("admin") && html`<${Checks} /><${Audit} />`}
    <//>
  `;
}

const VERDICTS = { unsafe: "failed", allowed: "waiting", unwise: "waiting" };

/** What `tcb doctor` says. The service asks the servers for it, so the page does not repeat this by itself. */
function Checks() {
  const answer = useAnswer("readyz", { verbose: true });
  const { findings, broker } = answer.data ?? answer.error?.document ?? {};
  return html`
    <${Card} title="What is unsafe" actions=${html`<${Action} action=${answer.reload}>Check again<//>`}>
      ${answer.error && html`<${Trouble} error=${answer.error} />`}
      ${findings
        ? html`
            ${findings.length > 0
              ? html`
                  <ul class="findings">
                    ${findings.map(({ name, verdict, what, remedy }) => html`
                      <li key=${`${name} ${what}`}>
                        <span class="state ${VERDICTS[verdict]}">${verdict}</span> <code>${name}</code>
                        <p>${what}</p><p class="about">Remedy: ${remedy}</p>
                      </li>`)}
                  </ul>`
              : html`<p><span class="state succeeded">Nothing</span></p>`}
            <${Facts} of=${[
              ["Broker", `${broker.server} (${broker.url})`],
              ...Object.entries(broker.capabilities),
            ]} />`
        : !answer.error && html`<${Absent} of=${answer} />`}
    <//>
  `;
}

/** Who changed what recently. */
function Audit() {
  const answer = useAnswer("v1/audit", { limit: 20 });
  return html`
    <${Card} title="Audit log">
      ${answer.data?.entries.length
        ? html`
            <table class="plain">
              <thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th><th scope="col" class="roomy">Answer</th></tr></thead>
              <tbody>
                ${answer.data.entries.map(({ at, owner, key, ip, method, target, status, request_id: id }) => html`
                  <tr key=${id}>
                    <td><${Ago} at=${at} /></td>
                    <td title=${ip}>${owner || "–"} ${key && html`<code>${key}</code>`}</td>
                    <td><code>${method} ${target}</code></td>
                    <td class="roomy number">${status}</td>
                  </tr>`)}
              </tbody>
            </table>`
        : html`<${Absent} of=${answer}>Nothing was changed.<//>`}
    <//>
  `;
}
