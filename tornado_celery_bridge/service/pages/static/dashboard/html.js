// The only module that knows where the libraries are.
import htm from "./htm.mjs";
import { createContext, h, render } from "./preact.mjs";

export const html = htm.bind(h);
export { createContext, render };
export { useContext, useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "./hooks.mjs";
