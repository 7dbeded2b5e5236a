import type { Element, h } from "./preact.mjs";
declare const htm: {
  bind(make: typeof h): (strings: TemplateStringsArray, ...values: unknown[]) => Element;
};
export default htm;
