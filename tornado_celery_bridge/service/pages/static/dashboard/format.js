// Numbers, times and values as people read them.

const NUMBER = new Intl.NumberFormat("en");
const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
/** @type {[string, number][]} */
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
const SHORT = new Intl.DateTimeFormat("en-GB", { dateStyle: "short", timeStyle: "short" });

export const number = (value) => NUMBER.format(value);
export const percent = (value) => `${(100 * value).toFixed(value && value < 0.1 ? 1 : 0)} %`;
export const moment = (time) => MOMENT.format(new Date(time));
export const shortMoment = (time) => SHORT.format(new Date(time));

/** Write a number of seconds in two units at most. */
export function duration(seconds) {
  if (seconds < 0.0995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const parts = [];
  let left = Math.round(seconds);
  for (const [unit, size] of UNITS) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count || parts.length) parts.push(count ? `${count} ${unit}` : "");
    if (parts.length === 2) break;
  }
  return parts.filter(Boolean).join(" ");
}

/** Return the seconds between two times, which are written as in the API. */
export const between = (from, to) => (new Date(to).getTime() - new Date(from).getTime()) / 1000;

/** Write a number of seconds in one unit. */
export function coarse(seconds) {
  const [unit, size] = UNITS.find(([, each]) => seconds >= each) ?? ["s", 1];
  return `${Math.floor(seconds / size)} ${unit}`;
}

/** Write how long ago a time was, or how far in the future it is. */
export function ago(time, now) {
  const seconds = (now - new Date(time).getTime()) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds < 0 ? `in ${coarse(-seconds)}` : `${coarse(seconds)} ago`;
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const power = Math.min(4, Math.floor(Math.log2(count) / 10));
  return `${(count / 1024 ** power).toFixed(1)} ${["", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

export const shortId = (id) => id.slice(0, 8);
export const json = (value) => JSON.stringify(value, null, 2);
/** Return the last part of a dotted name. */
export const lastPart = (name) => name.slice(name.lastIndexOf(".") + 1);
/** Return an exception's name as a Python programmer would write it. */
export const exceptionName = (name) => name.replace(/^builtins\./, "");
