// The search box's words, and the query of the address that they stand for.

const STATES = {
  waiting: "PENDING", pending: "PENDING", running: "STARTED", started: "STARTED", retry: "RETRY", retrying: "RETRY",
  success: "SUCCESS", succeeded: "SUCCESS", failure: "FAILURE", failed: "FAILURE", revoked: "REVOKED", cancelled: "REVOKED",
};
const UNITS = { s: 1, m: 60, h: 3600, d: 86400 };
const WORD = /(\w+):(?:"([^"]*)"|(\S+))|"([^"]*)"|(\S+)/g;
const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** Return `{query}`, `{id}` for what is a job's id, or `{error}`. */
export function parse(text) {
  const query = { tag: [] };
  for (const [whole, name, quoted, plain] of text.matchAll(WORD)) {
    const value = quoted ?? plain;
    if (ID.test(whole)) return { id: whole };
    if (name === "task" || name === "since" || name === "failure") query[name] = value;
    else if (name === "tag") query.tag.push(value);
    else if (name === "dead") query.dead = value;
    else if (name === "state") query.state = STATES[value.toLowerCase()] ?? value.toUpperCase();
    else return { error: `“${whole}” is not understood. There are task:, state:, tag:, since: and a job's whole id.` };
  }
  if (query.since && sinceTime(query.since) === null) {
    return { error: "since: takes 30m, 12h, 7d, or a time such as 2026-11-24T08:00:00Z." };
  }
  return { query };
}

/** Return the words for a query. */
export function words(query) {
  const quoted = (value) => (/\s/.test(value) ? `"${value}"` : value);
  return [...query]
    .filter(([name]) => ["task", "state", "tag", "since", "dead", "failure"].includes(name))
    .map(([name, value]) => `${name}:${quoted(value)}`)
    .join(" ");
}

/** Return what the API is asked for a query of the address: `since` is a time then. */
export function filters(query) {
  const given = Object.fromEntries(["task", "state", "dead", "failure"].map((name) => [name, query.get(name) ?? undefined]));
  const since = query.get("since");
  return { ...given, tag: query.getAll("tag"), since: since ? (sinceTime(since) ?? since) : undefined };
}

function sinceTime(text) {
  const [, count, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  const time = count ? Date.now() - count * UNITS[unit] * 1000 : Date.parse(text);
  return Number.isNaN(time) ? null : new Date(time).toISOString();
}
