// The words of the search box, and the query of the address that they stand for.
import { stateCalled } from "./states.js";

const UNITS = { s: 1, m: 60, h: 3600, d: 86400 };
const WORD = /(\w+):(?:"([^"]*)"|(\S+))|"([^"]*)"|(\S+)/g;
const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** Return `{query}`, or `{id}` if the text is the id of a job, or `{error}`. */
export function parse(text) {
  const query = { tag: [] };
  for (const [whole, name, quoted, plain] of text.matchAll(WORD)) {
    const value = quoted ?? plain;
    if (ID.test(whole)) return { id: whole };
    if (name === "task" || name === "since" || name === "failure") query[name] = value;
    else if (name === "tag") query.tag.push(value);
    else if (name === "dead") query.dead = value;
    else if (name === "state") query.state = stateCalled(value)?.name ?? value.toUpperCase();
    else return { error: `“${whole}” is not understood. Use task:, state:, tag:, since: or a job's whole id.` };
  }
  if (query.since && sinceTime(query.since) === null) {
    return { error: "since: takes 30m, 12h, 7d, or a time such as 2026-11-24T08:00:00Z." };
  }
  return { query };
}

/** Return the words of the search box for a query. */
export function words(query) {
  const quoted = (value) => (/\s/.test(value) ? `"${value}"` : value);
  return [...query]
    .filter(([name]) => ["task", "state", "tag", "since", "dead", "failure"].includes(name))
    .map(([name, value]) => `${name}:${quoted(value)}`)
    .join(" ");
}

/**
 * Return the parameters of the API for a query of the address. In them `since` is a time.
 * @returns {{task?: string, state?: string, dead?: string, failure?: string, tag: string[], since?: string}}
 */
export function filters(query) {
  const given = Object.fromEntries(["task", "state", "dead", "failure"].map((name) => [name, query.get(name) ?? undefined]));
  const since = query.get("since");
  return { ...given, tag: query.getAll("tag"), since: since ? (sinceTime(since) ?? since) : undefined };
}

function sinceTime(text) {
  const [, count, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  const time = count ? Date.now() - Number(count) * UNITS[unit] * 1000 : Date.parse(text);
  return Number.isNaN(time) ? null : new Date(time).toISOString();
}
