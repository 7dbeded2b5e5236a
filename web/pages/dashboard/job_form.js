// The form for a job: of a task's JSON Schema, and of the options' in the API's own description.
import { Problem } from "./api.js";
import { html, useMemo, useRef, useState } from "./html.js";
import { useAnswer } from "./live.js";
import { Absent, useShell } from "./parts.js";
import { Field, fieldsOf, read, textOf } from "./schema_form.js";

/** An input that is no object, or that has more than the schema's names, is edited as JSON. */
const WHOLE = { name: "input", schema: {}, kind: "json", required: true, label: "Input (JSON)" };

/**
 * @param {{task: string, input?: any, word: string, submit: (job: {input: any, options?: object}) => Promise, cancel?: () => void, withOptions?: boolean}} props
 */
export function JobForm({ task, withOptions, ...rest }) {
  const described = useAnswer(["v1", "tasks", task], {});
  const document = useAnswer("openapi.json", {});
  if (!described.data) return html`<${Absent} of=${described} />`;
  if (withOptions && !document.data) return html`<${Absent} of=${document} />`;
  return html`<${Form} schema=${described.data.input} options=${withOptions && document.data.components.schemas.JobOptions} ...${rest} />`;
}

function Form({ schema, options, input, word, submit, cancel }) {
  const { may } = useShell();
  const { fields, optionFields } = useMemo(() => {
    const named = fieldsOf(schema);
    const isWhole = Array.isArray(input) || Object.keys(input ?? {}).some((name) => !named.some((field) => field.name === name));
    return { fields: isWhole ? [WHOLE] : named, optionFields: options ? fieldsOf(options) : [] };
  }, [schema, options, input]);
  const [texts, setTexts] = useState(() =>
    Object.fromEntries(fields.map((field) => [field.name, field === WHOLE ? textOf(field, input) : textOf(field, input?.[field.name])])),
  );
  const [optionTexts, setOptionTexts] = useState({});
  const [faults, setFaults] = useState([]);
  const [busy, setBusy] = useState(false);
  const form = useRef();
  const send = async (event) => {
    event.preventDefault();
    const given = read(fields, texts, "/input");
    const chosen = read(optionFields, optionTexts, "/options");
    let wrong = [...given.faults, ...chosen.faults];
    if (!wrong.length) {
      setBusy(true);
      try {
        await submit({ input: fields[0] === WHOLE ? given.values.input : given.values, options: chosen.values });
        return;
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        wrong = error.faults.length ? error.faults : [{ pointer: "", detail: error.message }];
      } finally {
        setBusy(false);
      }
    }
    setFaults(wrong);
    requestAnimationFrame(() => (form.current.querySelector("[aria-invalid=true]") ?? form.current.querySelector("[role=alert]")).focus());
  };
  const under = (prefix) => faults.filter(({ pointer }) => pointer === prefix || pointer.startsWith(`${prefix}/`));
  const placed = new Set([...fields.map(({ name }) => `/input/${name}`), ...optionFields.map(({ name }) => `/options/${name}`)].flatMap(under));
  const loose = faults.filter((fault) => !placed.has(fault) && !(fields[0] === WHOLE && under("/input").includes(fault)));
  const shown = (field, prefix, values, setValues) => html`
    <${Field} key=${field.name} field=${field} text=${values[field.name] ?? ""} faults=${field === WHOLE ? under("/input") : under(`${prefix}/${field.name}`)}
      change=${(text) => setValues((before) => ({ ...before, [field.name]: text }))} />`;
  return html`
    <form class="form" onSubmit=${send} ref=${form} noValidate>
      ${loose.length > 0 && html`
        <div class="trouble" role="alert" tabindex="-1"><ul>${loose.map(({ pointer, detail }) => html`<li>${pointer && html`<code>${pointer}</code> `}${detail}</li>`)}</ul></div>`}
      ${fields.length ? fields.map((field) => shown(field, "/input", texts, setTexts)) : html`<p class="absent">This task takes no input.</p>`}
      ${optionFields.length > 0 && html`
        <details open=${faults.some(({ pointer }) => pointer.startsWith("/options"))}>
          <summary>Options</summary>
          <div class="options">${optionFields.map((field) => shown(field, "/options", optionTexts, setOptionTexts))}</div>
        </details>`}
      <div class="actions">
        ${cancel && html`<button type="button" onClick=${cancel}>Leave it</button>`}
        <button class="primary" disabled=${busy || !may("submit")} title=${may("submit") ? undefined : "Your key lacks the scope submit."}>${word}</button>
      </div>
    </form>
  `;
}
