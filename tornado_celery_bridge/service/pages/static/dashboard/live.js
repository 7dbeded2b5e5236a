// What stays up to date by itself: data that is read again and again, streams of events, and the clock.
import { ask } from "./api.js";
import { useEffect, useRef, useState } from "./html.js";

/** @typedef {{key: any, data?: any, error?: any, at?: number}} Answer what was loaded last or went wrong, and when (milliseconds) */

/**
 * Keep what `load` returns. It is called when `key` changes (and not while `key` is null), on `reload()`, and every `seconds` seconds while the page
 * is visible. If it fails, the last data stay, so that the page does not become empty when the server is away for a moment.
 * @returns {Answer & {loading: boolean, reload: () => Promise<void>}}
 */
export function useData(key, load, seconds = 0) {
  const [state, setState] = useState(/** @type {Answer} */ ({ key: null }));
  const latest = useRef();
  const reload = useRef();
  useEffect(() => {
    if (key === null) return undefined;
    const controller = new AbortController();
    const run = async () => {
      const asked = (latest.current = Symbol());
      try {
        const data = await load(controller.signal);
        if (latest.current === asked) setState({ key, data, at: Date.now() });
      } catch (error) {
        if (error.name !== "AbortError" && latest.current === asked) {
          setState((before) => ({ ...(before.key === key ? before : {}), key, error }));
        }
      }
    };
    reload.current = run;
    run();
    const timer = seconds && setInterval(() => document.hidden || run(), seconds * 1000);
    return () => {
      latest.current = null;
      controller.abort();
      clearInterval(timer);
    };
  }, [key, seconds]);
  const shown = state.key === key ? state : { key };
  return { ...shown, loading: shown.data === undefined && !shown.error, reload: () => reload.current() };
}

/** Keep the answer to a GET; see `useData`. */
export function useAnswer(path, query, seconds) {
  return useData(JSON.stringify([path, query]), (signal) => ask(path, { query, signal }), seconds);
}

const EVENTS = ["state", "progress", "item", "log", "checkpoint", "changed", "end", "snapshot"];

/**
 * Follow a stream of server-sent events while `path` is not null.
 * @param {(kind: string, data: any, id: string) => void} onEvent
 * @returns whether the stream is open; a broken stream is opened again.
 */
export function useEvents(path, onEvent) {
  const [open, setOpen] = useState(false);
  const handler = useRef();
  handler.current = onEvent;
  useEffect(() => {
    if (path === null) return undefined;
    let source, timer, isOver = false, last = "";
    const address = () => (last ? `${path}${path.includes("?") ? "&" : "?"}after=${last}` : path);
    const connect = () => {
      if (isOver) return;
      source = new EventSource(address());
      source.onopen = () => setOpen(true);
      source.onerror = () => {
        setOpen(false);
        // An EventSource tries again if the server went away, but not if the server answered with another status than 200,
        // and it does not say which: 204 (there is no more) and most of 4xx stay as they are.
        if (source.readyState === EventSource.CLOSED) askAgain();
      };
      for (const kind of EVENTS) {
        source.addEventListener(kind, (event) => {
          last = event.lastEventId;
          handler.current(kind, JSON.parse(event.data), event.lastEventId);
        });
      }
    };
    const askAgain = async () => {
      const answer = await fetch(address(), { method: "HEAD" }).catch(() => null);
      const isFinal = answer && (answer.status === 204 || (answer.status >= 400 && answer.status < 500 && answer.status !== 429));
      if (!isFinal && !isOver) timer = setTimeout(connect, 3000);
    };
    connect();
    return () => {
      isOver = true;
      clearTimeout(timer);
      source.close();
      setOpen(false);
    };
  }, [path]);
  return open;
}

const clocks = new Set();
setInterval(() => clocks.forEach((tick) => tick(Date.now())), 1000);

/** Return the time. It changes once a second. */
export function useNow() {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    clocks.add(setNow);
    return () => clocks.delete(setNow);
  }, []);
  return now;
}
