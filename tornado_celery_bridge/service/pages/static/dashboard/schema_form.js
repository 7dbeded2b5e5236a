// Forms for JSON Schema objects: which field each property has, how typed text is read, and where errors are shown.
import { Problem } from "./api.js";
import { html, useId, useRef, useState } from "./html.js";
import { useShell } from "./parts.js";

/**
 * Return `{name, pointer, schema, kind, required}` for each property that is not read-only.
 * @param {object} schema
 * @param {string} prefix the JSON Pointer of the object in the request's body.
 * @param {object} defs the schemas that references lead to, by the last part of the reference.
 */
export function fieldsOf(schema, prefix, defs = schema.$defs ?? {}) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).filter(([, { readOnly }]) => !readOnly).map(([name, given]) => {
    const property = plain(given, defs);
    return { name, pointer: `${prefix}/${name}`, schema: property, kind: kindOf(property), required: required.has(name) };
  });
}

/** Follow a reference. If there is one alternative beside null, take it. */
function plain(schema, defs) {
  if (schema.$ref) return plain({ ...defs[schema.$ref.split("/").pop()], ...schema, $ref: undefined }, defs);
  const ways = (schema.anyOf ?? schema.oneOf ?? []).filter((way) => way.type !== "null");
  if (ways.length !== 1) return schema;
  return plain({ ...schema, anyOf: undefined, oneOf: undefined, ...ways[0] }, defs);
}

function kindOf({ type, enum: choices, const: only, format, pattern, maxLength, contentEncoding, items }) {
  if (choices || only !== undefined) return "choice";
  if (type === "boolean") return "boolean";
  if (type === "integer" || type === "number") return "number";
  if (contentEncoding === "base64" || format === "base64") return "file";
  if (type === "string") return format || pattern || maxLength <= 1000 ? "line" : "text";
  if (type === "array" && items?.type === "string" && items.maxLength <= 200) return "words";
  return "json";
}

const TEXTS = ["line", "text", "file"];

/** Return the text that is shown for a value; it is empty for undefined and null. */
function textOf({ kind }, value) {
  if (value === undefined || value === null) return "";
  if (kind === "words" && Array.isArray(value)) return value.join(", ");
  return typeof value === "string" && TEXTS.includes(kind) ? value : JSON.stringify(value, null, 2);
}

/** Return `{values, faults}` for the typed texts. Empty fields are left out, so that their defaults hold. */
function read(fields, texts) {
  const values = {}, faults = [];
  for (const { name, pointer, kind, required } of fields) {
    const text = texts[name] ?? "";
    if (text === "" && !(TEXTS.includes(kind) && required)) continue;
    if (TEXTS.includes(kind)) values[name] = text;
    else if (kind === "words") values[name] = text.split(",").map((word) => word.trim()).filter(Boolean);
    else {
      try {
        values[name] = JSON.parse(text);
      } catch {
        faults.push({ pointer, detail: kind === "number" ? "This is not a number." : "This is not JSON." });
      }
    }
  }
  return { values, faults };
}

/**
 * A form.
 * @param {{groups: {fields: object[], initial?: object, title?: string}[], word: string, scope: string,
 *   submit: (values: object[]) => Promise, cancel?: () => void}} props
 *   A group with a title can be folded. `submit` gets one object for each group. The errors that the API answers are shown at their fields.
 */
export function SchemaForm({ groups, word, scope, submit, cancel }) {
  const { may } = useShell();
  const [texts, setTexts] = useState(() => groups.map(({ fields, initial = {} }) => Object.fromEntries(fields.map((field) => [field.name, textOf(field, initial[field.name])]))));
  const [faults, setFaults] = useState([]);
  const [busy, setBusy] = useState(false);
  const form = useRef();
  const send = async (event) => {
    event.preventDefault();
    const given = groups.map(({ fields }, place) => read(fields, texts[place]));
    const wrong = given.flatMap((each) => each.faults);
    setFaults(wrong);
    if (!wrong.length) {
      setBusy(true);
      try {
        await submit(given.map(({ values }) => values));
        return;
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        setFaults(error.faults.length ? error.faults : [{ pointer: "", detail: error.message }]);
      } finally {
        setBusy(false);
      }
    }
    requestAnimationFrame(() => form.current?.querySelector("[aria-invalid=true], [role=alert]")?.focus());
  };
  const faultsOf = ({ pointer }) => faults.filter((fault) => fault.pointer === pointer || fault.pointer.startsWith(`${pointer}/`));
  const placed = groups.flatMap(({ fields }) => fields.flatMap(faultsOf));
  const loose = faults.filter((fault) => !placed.includes(fault));
  const shown = (field, place) => html`
    <${Field} key=${field.pointer} field=${field} text=${texts[place][field.name] ?? ""} faults=${faultsOf(field)}
      change=${(text) => setTexts((before) => before.with(place, { ...before[place], [field.name]: text }))} />`;
  return html`
    <form class="form" onSubmit=${send} ref=${form} noValidate>
      ${loose.length > 0 && html`
        <div class="trouble" role="alert" tabindex="-1"><ul>${loose.map(({ pointer, detail }) => html`<li>${pointer && html`<code>${pointer}</code> `}${detail}</li>`)}</ul></div>`}
      ${groups.map(({ fields, title }, place) =>
        title
          ? html`
              <details key=${title} open=${fields.some((field) => faultsOf(field).length)}>
                <summary>${title}</summary>
                <div class="options">${fields.map((field) => shown(field, place))}</div>
              </details>`
          : fields.map((field) => shown(field, place)),
      )}
      <div class="actions">
        ${cancel && html`<button type="button" onClick=${cancel}>Go back</button>`}
        <button class="primary" disabled=${busy || !may(scope)} title=${may(scope) ? undefined : `Your key lacks the scope ${scope}.`}>${word}</button>
      </div>
    </form>
  `;
}

function Field({ field, text, faults, change }) {
  const id = useId();
  const { name, schema, required } = field;
  const about = [faults.length && `${id}-fault`, schema.description && `${id}-about`].filter(Boolean).join(" ") || undefined;
  const attributes = { id, name, "aria-invalid": faults.length > 0, "aria-describedby": about, "aria-required": required };
  return html`
    <div class="field">
      <label for=${id}>${name}${required && html` <span class="required">required</span>`}</label>
      <${Control} field=${field} text=${text} change=${change} attributes=${attributes} />
      ${schema.description && html`<p class="about" id="${id}-about">${schema.description}</p>`}
      ${faults.length > 0 && html`<p class="fault" id="${id}-fault">${faults.map(({ detail }) => detail).join("; ")}</p>`}
    </div>
  `;
}

function Control({ field: { name, kind, schema, required }, text, change, attributes }) {
  const usual = schema.default === undefined || schema.default === null ? undefined : JSON.stringify(schema.default);
  const typed = (event) => change(event.target.value);
  if (kind === "choice" || kind === "boolean") {
    const choices = kind === "boolean" ? [true, false] : (schema.enum ?? [schema.const]);
    return html`
      <select ...${attributes} onChange=${typed}>
        <option value="">${required ? "Choose…" : usual ? `Default: ${usual}` : "Default"}</option>
        ${choices.map((choice) => html`<option key=${choice} value=${JSON.stringify(choice)} selected=${text === JSON.stringify(choice)}>${String(choice)}</option>`)}
      </select>`;
  }
  if (kind === "number") {
    const { minimum, maximum, type } = schema;
    return html`<input ...${attributes} type="number" value=${text} onInput=${typed} placeholder=${usual} min=${minimum} max=${maximum} step=${type === "integer" ? 1 : "any"} />`;
  }
  if (kind === "line" || kind === "words") {
    const hint = kind === "words" ? "several, with commas between" : schema.format === "date-time" ? "2026-11-24T08:00:00Z" : undefined;
    return html`<input ...${attributes} value=${text} onInput=${typed} placeholder=${schema.default || hint} />`;
  }
  const placeholder = kind === "text" ? schema.default : kind === "file" ? "base64" : (usual ?? "JSON");
  return html`
    <textarea ...${attributes} class=${kind} rows=${kind === "json" ? 3 : 2} value=${text} onInput=${typed} placeholder=${placeholder || undefined} spellcheck=${false}></textarea>
    ${kind === "file" && html`<input type="file" aria-label="A file as ${name}" onChange=${async (event) => change(await base64(event.target.files[0]))} />`}`;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
