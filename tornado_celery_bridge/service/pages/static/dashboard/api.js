// The HTTP API. All paths are relative to the page's, so that they hold under a prefix.

/** An error that the API answered (an RFC 9457 problem), or the fact that it did not answer at all. */
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
 * Send a request to the API.
 * @param {string | string[]} path such as `v1/jobs`, or an array of segments; each segment is then encoded.
 * @param {{method?: string, query?: object, body?: any, headers?: object, signal?: AbortSignal}} options
 * @returns the answer; null if the answer is empty.
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
    return null; // not the API's answer but a page of a proxy
  }
}

function goToLogin() {
  sessionStorage.setItem("wanted", location.hash);
  location.assign("login");
}

/** Yield the jobs of a list, newest first, and at most `most` of them. It reads the list page by page. */
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

/** Return all items of an async iterable. */
export async function collect(iterable) {
  const all = [];
  for await (const each of iterable) all.push(each);
  return all;
}

/** Call `action` for each of `items`, six at a time, as many as a browser sends at once. Call `onProgress` with the number done so far, and return the items that failed. */
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
