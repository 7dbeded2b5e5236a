// The form for a job. The fields of the input come from the task's JSON Schema, those of the options from the OpenAPI document.
import { html, useMemo } from "./html.js";
import { useAnswer } from "./live.js";
import { Absent } from "./parts.js";
import { fieldsOf, SchemaForm } from "./schema_form.js";

/** The one field for an input that is edited as JSON, because it is a list or has names that the schema does not have. */
const WHOLE = { name: "input", pointer: "/input", schema: {}, kind: "json", required: true };

/**
 * @param {{task: string, input?: any, word: string, submit: (job: {input: any, options?: object}) => Promise,
 *   cancel?: () => void, withOptions?: boolean}} props
 */
export function JobForm({ task, withOptions = false, ...rest }) {
  const described = useAnswer(["v1", "tasks", task], {});
  const document = useAnswer("openapi.json", {});
  const missing = [described, document].find(({ data }) => !data);
  if (missing) return html`<${Absent} of=${missing} />`;
  return html`<${Form} schema=${described.data.input} options=${withOptions && document.data.components.schemas.JobOptions} ...${rest} />`;
}

function Form({ schema, options, input = {}, word, submit, cancel }) {
  const groups = useMemo(() => {
    const fields = fieldsOf(schema, "/input");
    const names = fields.map(({ name }) => name);
    const isWhole = schema.additionalProperties === true || Array.isArray(input) || Object.keys(input).some((name) => !names.includes(name));
    const given = isWhole ? { fields: [WHOLE], initial: { input } } : { fields, initial: input };
    return options ? [given, { fields: fieldsOf(options, "/options"), title: "Options" }] : [given];
  }, [schema, options, input]);
  const send = ([values, chosen]) => submit({ input: groups[0].fields[0] === WHOLE ? values.input : values, options: chosen });
  return html`
    ${groups[0].fields.length === 0 && html`<p class="absent">This task takes no input.</p>`}
    <${SchemaForm} groups=${groups} word=${word} scope="submit" submit=${send} cancel=${cancel} />
  `;
}
