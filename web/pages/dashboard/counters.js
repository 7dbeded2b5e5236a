import { html } from "./html.js";

export function Counters() {
  return html`<div class="counters"></div>`;
}
