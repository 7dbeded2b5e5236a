// The fragment of the address names the page, as in `#/jobs?task=NAME`. So one document serves all pages, under any prefix.
import { useEffect, useState } from "./html.js";

/** Return the address of a page. `path` is its segments. Empty members of `query` are left out, and an array is a repeated parameter. */
export function link(path, query = {}) {
  const pairs = Object.entries(query).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
  const search = new URLSearchParams(pairs.filter(([, value]) => value !== undefined && value !== null && value !== ""));
  return `#/${path.map(encodeURIComponent).join("/")}${search.size ? `?${search}` : ""}`;
}

export function go(address) {
  location.hash = address;
}

function current() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(search), hash: location.hash };
}

function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment; // somebody typed an address that is not encoded
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
