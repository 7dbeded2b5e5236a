// Fields of a JSON Schema object: how each is asked for, and how what was typed is read.
import { html, useId } from "./html.js";

/** Return `{name, schema, kind, required, label}` for each property. */
export function fieldsOf(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, given]) => {
    const property = plain(given, schema.$defs ?? {});
    return { name, schema: property, kind: kindOf(property), required: required.has(name), label: name };
  });
}

/** Follow a reference, and take the one way that there is beside null. */
function plain(schema, defs) {
  if (schema.$ref) return plain({ ...defs[schema.$ref.split("/").pop()], ...schema, $ref: undefined }, defs);
  const ways = (schema.anyOf ?? schema.oneOf ?? []).filter((way) => way.type !== "null");
  if (ways.length !== 1) return schema;
  return plain({ ...schema, anyOf: undefined, oneOf: undefined, ...ways[0] }, defs);
}

function kindOf({ type, enum: choices, const: only, format, maxLength, contentEncoding, items }) {
  if (choices ?? only !== undefined) return "choice";
  if (type === "boolean") return "boolean";
  if (type === "integer" || type === "number") return "number";
  if (contentEncoding === "base64" || format === "base64") return "file";
  if (type === "string") return format || maxLength <= 200 ? "line" : "text";
  if (type === "array" && items?.type === "string" && items.maxLength <= 200) return "words";
  return "json";
}

/** Return what is shown for a value; undefined is nothing. */
export function textOf({ kind }, value) {
  if (value === undefined) return "";
  if (kind === "words" && Array.isArray(value)) return value.join(", ");
  return typeof value === "string" && ["line", "text", "file"].includes(kind) ? value : JSON.stringify(value, null, 2);
}

/** Return `{values, faults}` of what was typed; what was left empty is left out, and its default counts. */
export function read(fields, texts, prefix) {
  const values = {}, faults = [];
  for (const { name, kind, required } of fields) {
    const text = texts[name] ?? "";
    const isText = ["line", "text", "file"].includes(kind);
    if (text === "" && !(isText && required)) continue;
    if (isText) values[name] = text;
    else if (kind === "words") values[name] = text.split(",").map((word) => word.trim()).filter(Boolean);
    else {
      try {
        values[name] = JSON.parse(text);
      } catch {
        faults.push({ pointer: `${prefix}/${name}`, detail: kind === "number" ? "This is no number." : "This is no JSON." });
      }
    }
  }
  return { values, faults };
}

export function Field({ field, text, faults, change }) {
  const id = useId();
  const { schema, label, required } = field;
  const about = [faults.length && `${id}-fault`, schema.description && `${id}-about`].filter(Boolean).join(" ") || undefined;
  const attributes = { id, "aria-invalid": faults.length > 0, "aria-describedby": about, "aria-required": required };
  return html`
    <div class="field">
      <label for=${id}>${label}${required && html` <span class="required">required</span>`}</label>
      <${Control} field=${field} text=${text} change=${change} attributes=${attributes} />
      ${schema.description && html`<p class="about" id="${id}-about">${schema.description}</p>`}
      ${faults.length > 0 && html`<p class="fault" id="${id}-fault">${faults.map(({ detail }) => detail).join("; ")}</p>`}
    </div>
  `;
}

function Control({ field: { kind, schema, required }, text, change, attributes }) {
  const placeholder = schema.default === undefined || schema.default === null ? undefined : JSON.stringify(schema.default);
  const typed = (event) => change(event.target.value);
  if (kind === "choice" || kind === "boolean") {
    const choices = kind === "boolean" ? [true, false] : (schema.enum ?? [schema.const]);
    return html`
      <select ...${attributes} value=${text} onChange=${typed}>
        <option value="">${required ? "Choose…" : `Default${placeholder ? `: ${placeholder}` : ""}`}</option>
        ${choices.map((choice) => html`<option key=${choice} value=${JSON.stringify(choice)} selected=${text === JSON.stringify(choice)}>${String(choice)}</option>`)}
      </select>`;
  }
  if (kind === "number") {
    const { minimum, maximum, type } = schema;
    return html`<input ...${attributes} type="number" value=${text} onInput=${typed} placeholder=${placeholder} min=${minimum} max=${maximum} step=${type === "integer" ? 1 : "any"} />`;
  }
  if (kind === "line") return html`<input ...${attributes} value=${text} onInput=${typed} placeholder=${placeholder ?? { "date-time": "2026-11-24T08:00:00Z" }[schema.format]} />`;
  if (kind === "words") return html`<input ...${attributes} value=${text} onInput=${typed} placeholder="several, with commas between" />`;
  if (kind === "file") {
    return html`
      <textarea ...${attributes} rows="2" value=${text} onInput=${typed} placeholder="base64" spellcheck=${false}></textarea>
      <input type="file" aria-label="A file for ${attributes.id}" onChange=${async (event) => change(await base64(event.target.files[0]))} />`;
  }
  return html`<textarea ...${attributes} class=${kind} rows=${kind === "json" ? 3 : 2} value=${text} onInput=${typed} placeholder=${kind === "json" ? (placeholder ?? "JSON") : placeholder} spellcheck=${false}></textarea>`;
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
