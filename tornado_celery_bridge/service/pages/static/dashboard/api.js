// The HTTP API. All paths are relative to the page's, so that they hold under a prefix.

/** What the API said instead of an answer: an RFC 9457 problem, or that it was not there at all. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || "No answer");
    this.status = status;
    this.code = document.code;
    this.faults = document.errors ?? [];
    this.document = document;
  }
}

/**
 * Ask the API.
 * @param {string} path such as `v1/jobs`, or an array of segments, which are encoded.
 * @param {{method?: string, query?: object, body?: any, headers?: object, signal?: AbortSignal}} options
 * @returns what it answered; null if that was nothing.
 */
export async function ask(path, { method = "GET", query = {}, body, headers = {}, signal } = {}) {
  const response = await fetch(address(path, query), {
    method,
    signal,
    headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "The service does not answer." });
  });
  const text = await response.text();
  if (response.ok) return text ? JSON.parse(text) : null;
  if (response.status === 401) goToLogin();
  throw new Problem(response.status, parsed(text) ?? { title: response.statusText });
}

export function address(path, query = {}) {
  const pairs = Object.entries(query).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
  const search = new URLSearchParams(pairs.filter(([, value]) => value !== undefined && value !== null && value !== ""));
  const joined = Array.isArray(path) ? path.map(encodeURIComponent).join("/") : path;
  return search.size ? `${joined}?${search}` : joined;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's own page
  }
}

function goToLogin() {
  sessionStorage.setItem("wanted", location.hash);
  location.assign("login");
}

/** Yield the jobs of a list, page by page, newest first, until there are `most`. */
export async function* allJobs(query, most) {
  let cursor, count = 0;
  do {
    const page = await ask("v1/jobs", { query: { ...query, limit: 200, cursor } });
    for (const job of page.jobs) {
      if (count++ >= most) return;
      yield job;
    }
    cursor = page.next_cursor;
  } while (cursor);
}

/** Return as much of an async iterable as there is. */
export async function collect(iterable) {
  const all = [];
  for await (const each of iterable) all.push(each);
  return all;
}

/** Call `action` for each of `items`, six at a time as a browser would; tell `onProgress` and return those that failed. */
export async function forEach(items, action, onProgress) {
  const left = [...items], failed = [];
  let done = 0;
  const worker = async () => {
    while (left.length) {
      const item = left.shift();
      try {
        await action(item);
      } catch (error) {
        failed.push({ item, error });
      }
      onProgress(++done);
    }
  };
  await Promise.all(Array.from({ length: 6 }, worker));
  return failed;
}
