// What the service stands on.
import { ask } from "./api.js";
import { html } from "./html.js";
import { useAnswer, useData } from "./live.js";
import { Absent, Card, Facts, Page } from "./parts.js";

/** Seconds between two looks. */
const EVERY = 5;
const NAMES = { broker: "Broker", result_backend: "Result backend", ledger: "Ledger" };

export function SystemPage() {
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
    <//>
  `;
}
