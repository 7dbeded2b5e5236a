// What is done with many jobs at once: with those that are selected, or, as one operation of the service, with all that match.
import { ask, forEach } from "./api.js";
import { number } from "./format.js";
import { html, useState } from "./html.js";
import { Action, cancelJob, deleteJob, Dialog, retryJob, useShell } from "./parts.js";
import { FAILURE, REVOKED } from "./states.js";

export const CANCEL = {
  word: "Cancel", action: "cancel", scope: "cancel", fits: (job) => !job.done, act: (job, terminate) => cancelJob(job.id, terminate),
  which: "They have not ended.", kind: "danger",
};
export const TRY_AGAIN = {
  word: "Retry", action: "retry", scope: "submit", fits: (job) => [FAILURE.name, REVOKED.name].includes(job.state),
  act: (job) => retryJob(job.id), which: "They failed or were cancelled. Each of them gets a new job with the same input.",
};
export const REPLAY = { ...TRY_AGAIN, word: "Replay" };
export const DELETE = {
  word: "Delete", action: "delete", scope: "cancel", fits: (job) => job.done, act: (job) => deleteJob(job.id),
  which: "They have ended. Their inputs, results and events will be gone.", kind: "danger",
};

/**
 * Return the filter of an operation for the query of a list.
 * @param {Record<string, any>} query
 */
function filterOf({ cursor, dead, min_duration: ran, min_wait: waited, min_attempt: attempts, ...rest }) {
  /** @type {Record<string, any>} */
  const given = {
    ...rest, dead: dead === "true" || undefined, min_duration: ran && Number(ran), min_wait: waited && Number(waited),
    min_attempt: attempts && Number(attempts),
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined && String(value) !== ""));
}

/** Have the service do something with all jobs that fit, and return the operation at its end. It goes on if the page is closed. */
async function operate(body, onProgress) {
  const headers = { Prefer: "wait=1" };
  let operation = await ask("v1/operations", { method: "POST", body, headers });
  while (!operation.done) {
    onProgress(operation.progress);
    operation = await ask(["v1", "operations", operation.id], { headers });
  }
  return operation;
}

/** A button that first says how many jobs it acts on. */
export function Bulk({ what, query, chosen, done }) {
  const { may, tell } = useShell();
  const [found, setFound] = useState(null);
  const count = async () => {
    if (chosen.length) {
      const jobs = chosen.filter(what.fits);
      return setFound({ jobs, count: jobs.length });
    }
    const filter = filterOf(query);
    const counted = await operate({ action: what.action, filter, dry_run: true }, () => {});
    return setFound({ filter, count: counted.acted });
  };
  return html`
    <${Action} action=${count} scope=${what.scope}>${what.word} ${chosen.length ? `${chosen.length} selected` : "all that match"}…<//>
    ${found && may(what.scope) && html`<${Confirmation} what=${what} found=${found} tell=${tell} close=${() => (setFound(null), done())} />`}
  `;
}

function Confirmation({ what, found: { jobs, filter, count }, tell, close }) {
  const [terminate, setTerminate] = useState(false);
  const [progress, setProgress] = useState(null);
  const act = async () => {
    setProgress({ current: 0, total: count });
    try {
      if (jobs) {
        const failed = await forEach(jobs, (job) => what.act(job, terminate), (current) => setProgress({ current, total: count }));
        tellEnd(jobs.length - failed.length, failed.length && `${number(failed.length)} refused: ${failed[0].error.message}`);
      } else {
        const { state, acted, detail } = await operate({ action: what.action, filter, dry_run: false, terminate }, setProgress);
        tellEnd(acted, state === "CANCELLED" && `and then ${detail}`);
      }
    } catch (error) {
      tell(error.message, "failed");
    }
    close();
  };
  const tellEnd = (done, trouble) =>
    tell(trouble ? `${what.word}: ${number(done)} done, ${trouble}` : `${what.word}: ${number(done)} done.`, trouble ? "failed" : "");
  const heading = count ? `${what.word} ${number(count)} ${count === 1 ? "job" : "jobs"}?` : "Nothing to do";
  return html`
    <${Dialog} title=${heading} close=${close}>
      <p>${count > 0 && what.which}${count > 0 && filter && " The service does it in the background, also if you leave this page."}</p>
      ${what.action === "cancel" && count > 0 && html`
        <label class="check"><input type="checkbox" checked=${terminate} onChange=${() => setTerminate(!terminate)} /> Also end the processes that run them</label>`}
      ${progress !== null && html`<progress max=${progress.total ?? 1} value=${progress.current} aria-label="Done so far"></progress>`}
      <div class="actions">
        <form method="dialog"><button>Go back</button></form>
        ${count > 0 && html`<button class=${what.kind ?? "primary"} disabled=${progress !== null} onClick=${act}>${what.word} ${number(count)}</button>`}
      </div>
    <//>
  `;
}
