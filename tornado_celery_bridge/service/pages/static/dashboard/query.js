// The words of the search box, and the query of the address that they stand for.
import { stateCalled } from "./states.js";

const UNITS = { s: 1, m: 60, h: 3600, d: 86400 };
const WORD = /(\w+):(?:"([^"]*)"|(\S+))|"([^"]*)"|(\S+)/g;
const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The words with a colon, and the parameters of the API that they stand for. */
const NAMES = {
  task: "task", state: "state", tag: "tag", queue: "queue", worker: "worker", owner: "owner", since: "since", until: "until",
  ran: "min_duration", waited: "min_wait", attempts: "min_attempt", dead: "dead", failure: "failure",
};
const NUMBERS = ["ran", "waited", "attempts"];
const TIMES = ["since", "until"];

/** Return `{query}`, or `{id}` if the text is the id of a job, or `{error}`. */
export function parse(text) {
  const query = { tag: [] }, searched = [];
  for (const [whole, name, quoted, plain] of text.matchAll(WORD)) {
    const value = quoted ?? plain;
    if (ID.test(whole)) return { id: whole };
    if (name === undefined) searched.push(whole);
    else if (name === "tag") query.tag.push(value);
    else if (name === "state") query.state = stateCalled(value)?.name ?? value.toUpperCase();
    else if (NAMES[name]) query[name] = value;
    else return { error: `“${whole}” is not understood. Use ${Object.keys(NAMES).slice(0, -2).join(":, ")}:, words, or a job's whole id. Put a word with a colon in quotes.` };
    if (NUMBERS.includes(name) && !(Number(value) >= 0)) return { error: `${name}: takes a number${name === "attempts" ? "" : " of seconds"}.` };
    if (TIMES.includes(name) && timeOf(value) === null) return { error: `${name}: takes 30m, 12h, 7d, or a time such as 2026-11-24T08:00:00Z.` };
  }
  if (searched.length) query.q = searched.join(" ");
  return { query };
}

/** Return the words of the search box for a query. */
export function words(query) {
  const quoted = (value) => (/\s/.test(value) ? `"${value}"` : value);
  return [...query]
    .filter(([name]) => name === "q" || name in NAMES)
    .map(([name, value]) => (name === "q" ? value : `${name}:${quoted(value)}`))
    .join(" ");
}

/** Return what narrows a list down, as the address has it. */
export function narrowing(query) {
  const given = [...query].filter(([name]) => name === "q" || (name in NAMES && name !== "tag"));
  return { ...Object.fromEntries(given), tag: query.getAll("tag") };
}

/**
 * Return the parameters of the API for a query of the address. In them `since` and `until` are times.
 * @returns {Record<string, any>}
 */
export function filters(query) {
  const given = Object.entries(narrowing(query));
  return Object.fromEntries(given.map(([name, value]) => [NAMES[name] ?? name, TIMES.includes(name) ? (timeOf(value) ?? value) : value]));
}

function timeOf(text) {
  const [, count, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  const time = count ? Date.now() - Number(count) * UNITS[unit] * 1000 : Date.parse(text);
  return Number.isNaN(time) ? null : new Date(time).toISOString();
}
