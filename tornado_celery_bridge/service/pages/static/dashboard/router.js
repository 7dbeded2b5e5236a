// Pages are addressed by the fragment, `#/jobs?state=FAILURE`, so that one document serves them under any prefix.
import { useEffect, useState } from "./html.js";

/** Return the address of a page: `path` as segments, `query` without what is empty; an array is a repeated parameter. */
export function link(path, query = {}) {
  const pairs = Object.entries(query).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
  const search = new URLSearchParams(pairs.filter(([, value]) => value !== undefined && value !== null && value !== ""));
  return `#/${path.map(encodeURIComponent).join("/")}${search.size ? `?${search}` : ""}`;
}

export function go(address) {
  location.hash = address;
}

/** Change the address without a new entry in the history. */
export function replace(address) {
  history.replaceState(null, "", address);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

function current() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(search), hash: location.hash };
}

function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment; // typed by hand
  }
}

export function useRoute() {
  const [route, setRoute] = useState(current);
  useEffect(() => {
    const follow = () => setRoute(current());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}
