// What the dashboard uses of Preact. Its elements are whatever htm makes of a template.
export type Element = unknown;
export interface Context<T> {
  Provider: (props: { value: T }) => Element;
}
export function createContext<T>(value: T): Context<T>;
export function h(type: unknown, props: unknown, ...children: unknown[]): Element;
export function render(element: Element, parent: globalThis.Element): void;
