import type { Context } from "./preact.mjs";
type Change<T> = T | ((before: T) => T);
export function useContext<T>(context: Context<T>): T;
export function useEffect(effect: () => void | (() => void), inputs?: readonly unknown[]): void;
export function useId(): string;
export function useLayoutEffect(effect: () => void | (() => void), inputs?: readonly unknown[]): void;
export function useMemo<T>(make: () => T, inputs: readonly unknown[]): T;
export function useRef<T = any>(value?: T): { current: T };
export function useState<T = any>(value?: T | (() => T)): [T, (change: Change<T>) => void];
