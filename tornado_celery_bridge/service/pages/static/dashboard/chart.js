// A chart of series over time: uPlot, in the page's colours.
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "./html.js";

const HEIGHT = 190;

/** How uPlot writes times, by the seconds between two of them, in uPlot's own format. The day is written where it begins. */
const DAYS = ["{MMM} {D}", "\n{YYYY}", null, null, null, null, null, 1];
const HOURS = ["{HH}:{mm}", "\n{MMM} {D}", null, "\n{MMM} {D}", null, null, null, 1];
const TIMES = [[86_400, ...DAYS], [60, ...HOURS]];

/**
 * @param {{title: string, summary: string, times: number[], series: {label: string, values: (number | null)[], colour: string}[],
 *   format: (value: number) => string}} props
 *   Times are seconds since 1970. A colour is the name of a CSS variable of the page. `summary` says in words what the chart shows.
 */
export function Chart({ title, summary, times, series, format }) {
  const place = useRef();
  const chart = useRef();
  const id = useId();
  const theme = useTheme();
  const shape = series.map(({ label }) => label).join();
  const data = [times, ...series.map(({ values }) => values)];
  useLayoutEffect(() => {
    const paint = colours(place.current);
    const axis = { stroke: paint("soft"), grid: { stroke: paint("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const options = {
      width: place.current.clientWidth,
      height: HEIGHT,
      cursor: { y: false, drag: { x: false } },
      scales: { y: { range: (_, __, most) => [0, Math.max(most * 1.08, 1e-3)] } },
      axes: [{ ...axis, values: TIMES }, { ...axis, size: 62, values: (_, ticks) => ticks.map(format) }],
      series: [
        { value: (_, at) => (at === null ? "" : new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "short", timeStyle: "short" })) },
        ...series.map(({ label, colour }) => ({ label, stroke: paint(colour), width: 2, spanGaps: true, points: { size: 5, filter: lone }, value: (_, value) => (value === null ? "–" : format(value)) })),
      ],
    };
    chart.current = new uPlot(options, data, place.current);
    const observer = new ResizeObserver(() => chart.current.setSize({ width: place.current.clientWidth, height: HEIGHT }));
    observer.observe(place.current);
    return () => {
      observer.disconnect();
      chart.current.destroy();
    };
  }, [theme, shape]);
  useEffect(() => chart.current.setData(data), [times, series]);
  return html`
    <figure class="card chart" aria-labelledby=${id}>
      <figcaption id=${id}><h2>${title}</h2><p>${summary}</p></figcaption>
      <div ref=${place}></div>
    </figure>
  `;
}

/** Where points are too close to be drawn, return the one of a series that has no other, so that no line shows it. */
function lone(chart, series, shown) {
  const there = [...chart.data[series].keys()].filter((place) => chart.data[series][place] !== null);
  return shown || there.length !== 1 ? null : there;
}

/** Return a function that looks up a CSS variable: a canvas cannot use variables itself. */
function colours(element) {
  const probe = element.appendChild(document.createElement("i"));
  const found = {};
  const paint = (name) => {
    probe.style.color = `var(--${name})`;
    return (found[name] ??= getComputedStyle(probe).color);
  };
  queueMicrotask(() => probe.remove());
  return paint;
}

/** Return the current theme. A component that uses this is drawn again when the theme changes. */
function useTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme ?? String(dark.matches);
  const [theme, setTheme] = useState(current);
  useEffect(() => {
    const follow = () => setTheme(current());
    dark.addEventListener("change", follow);
    addEventListener("themechange", follow);
    return () => {
      dark.removeEventListener("change", follow);
      removeEventListener("themechange", follow);
    };
  }, []);
  return theme;
}
