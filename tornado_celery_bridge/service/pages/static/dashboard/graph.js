// A workflow's tree as a graph: steps that follow one another go to the right, steps that are side by side go down.
import { lastPart } from "./format.js";
import { html } from "./html.js";
import { Scroll } from "./parts.js";
import { link } from "./router.js";
import { standingOf } from "./states.js";

const WIDTH = 168, HEIGHT = 44, GAP = 44, SPACE = 14;
/** The characters that fit into a line of text. */
const LETTERS = 19;

export function Graph({ tree }) {
  const { width, height, nodes, edges } = placed(tree, 1, 1);
  return html`
    <${Scroll} label="The graph">
      <svg class="graph" width=${width + 2} height=${height + 2} viewBox="0 0 ${width + 2} ${height + 2}" role="group" aria-label="Jobs and the jobs that follow them">
        ${edges.map(([from, to]) => html`<path key="${from.job.id} ${to.job.id}" d=${curve(from, to)} />`)}
        ${nodes.map((node) => html`<${Node} key=${node.job.id} ...${node} />`)}
      </svg>
    <//>
  `;
}

function Node({ job, x, y }) {
  const name = lastPart(job.task);
  const label = `${job.task}, ${job.state}`;
  return html`
    <a href=${link(["jobs", job.id])} aria-label=${label} class="node ${standingOf(job).kind}">
      <title>${label}</title>
      <rect x=${x} y=${y} width=${WIDTH} height=${HEIGHT} rx="6" />
      <rect class="mark" x=${x} y=${y} width="5" height=${HEIGHT} rx="2" />
      <text x=${x + 14} y=${y + 18}>${name.length > LETTERS ? `${name.slice(0, LETTERS - 1)}…` : name}</text>
      <text class="small" x=${x + 14} y=${y + 34}>${job.state.toLowerCase()} · ${job.id.slice(0, 8)}</text>
    </a>
  `;
}

function curve(from, to) {
  const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
  const middle = (x1 + x2) / 2;
  return `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}

/** Return the size of a tree, its nodes with their places, its edges, and the nodes that it begins and ends with. */
function placed(tree, x, y) {
  if (tree.id) {
    const node = { job: tree, x, y };
    return { width: WIDTH, height: HEIGHT, nodes: [node], edges: [], first: [node], last: [node] };
  }
  if (tree.group) return besides(tree.group, x, y);
  return tree.chain ? after(tree.chain, x, y) : after([{ group: tree.chord.header }, tree.chord.body], x, y);
}

function besides(trees, x, y) {
  const parts = [];
  let height = -SPACE;
  for (const tree of trees) {
    parts.push(placed(tree, x, y + height + SPACE));
    height += parts.at(-1).height + SPACE;
  }
  const all = (name) => parts.flatMap((part) => part[name]);
  const width = Math.max(...parts.map((part) => part.width));
  return { width, height, nodes: all("nodes"), edges: all("edges"), first: all("first"), last: all("last") };
}

function after(trees, x, y) {
  const height = Math.max(...trees.map((tree) => placed(tree, 0, 0).height));
  const parts = [];
  let width = -GAP;
  for (const tree of trees) {
    const size = placed(tree, 0, 0);
    parts.push(placed(tree, x + width + GAP, y + (height - size.height) / 2));
    width += size.width + GAP;
  }
  const between = parts.slice(1).flatMap((part, place) => joined(parts[place].last, part.first));
  const all = (name) => parts.flatMap((part) => part[name]);
  return { width, height, nodes: all("nodes"), edges: [...all("edges"), ...between], first: parts[0].first, last: parts.at(-1).last };
}

function joined(before, behind) {
  return before.flatMap((from) => behind.map((to) => [from, to]));
}
