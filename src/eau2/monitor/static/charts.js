// Small charts: an hour as a line. SVG, coloured by the style sheet, so that they follow dark and light by themselves.

import { amount, clock, el } from "./tools.js";

const SVG = "http://www.w3.org/2000/svg"; // a name, not an address that is asked
const WIDTH = 600;

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Return the paths of a line and of the area below it; where nothing is known the line has a gap. */
function paths(values, height, most) {
  const step = WIDTH / Math.max(1, values.length - 1);
  let line = "", area = "", run = [];
  const end = () => {
    if (!run.length) return;
    if (run.length === 1) run.push([Math.min(WIDTH, run[0][0] + step / 2), run[0][1]]);
    const points = run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`);
    line += `M${points.join("L")}`;
    area += `M${run[0][0].toFixed(1)} ${height}L${points.join("L")}L${run.at(-1)[0].toFixed(1)} ${height}Z`;
    run = [];
  };
  values.forEach((value, at) => {
    if (value == null) end();
    else run.push([at * step, height - 1.5 - (Math.max(0, value) / most) * (height - 3)]);
  });
  end();
  return { line, area };
}

function top(values) {
  return values.reduce((most, value) => (value > most ? value : most), 0);
}

/** A chart as high as a line of text. `draw(values)` draws it anew. */
export function spark() {
  const height = 60;
  const box = svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const area = svg("path", { class: "area" }), line = svg("path", { class: "line" });
  box.append(area, line);
  return {
    node: box,
    draw(values) {
      const found = paths(values, height, top(values) || 1);
      area.setAttribute("d", found.area);
      line.setAttribute("d", found.line);
    },
  };
}

/** Round up to what reads well on an axis. */
function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((each) => each * power).find((each) => each >= value * 0.999);
}

/** A chart with axes, whose values are read by pointing at it, or with the arrow keys. */
export function chart(title, unit, { perSecond = false, tall = false } = {}) {
  const height = tall ? 150 : 90;
  const suffix = perSecond ? "/s" : "";
  let values = [], step = 10, end = 0, most = 1, at = null;
  const box = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const grid = svg("path", { class: "grid", d: `M0 ${height / 2}H${WIDTH}M0 .5H${WIDTH}` });
  const area = svg("path", { class: "area" }), line = svg("path", { class: "line" }), mark = svg("path", { class: "cursor" });
  box.append(grid, area, line, mark);
  const high = el("p", { class: "high", "aria-hidden": "true" }), now = el("output", { class: "now" });
  const field = el("div", { class: `field${tall ? " tall" : ""}`, tabindex: 0, role: "img" }, box);
  const node = el("figure", { class: "chart" },
    el("figcaption", {}, el("span", {}, title), now), high, field,
    el("div", { class: "times", "aria-hidden": "true" }, el("span", {}, "1 h ago"), el("span", {}, "30 min"), el("span", {}, "now")));

  function read() {
    const index = at ?? values.findLastIndex((value) => value != null);
    const value = index >= 0 ? values[index] : null;
    now.textContent = value == null ? "not known" : `${amount(value, unit)}${suffix}`;
    if (at != null) now.textContent += `, ${clock(end - (values.length - 1 - at) * step)}`;
    mark.setAttribute("d", at == null ? "" : `M${((at * WIDTH) / Math.max(1, values.length - 1)).toFixed(1)} 0V${height}`);
    field.setAttribute("aria-label", `${title}: ${now.textContent}, at most ${amount(top(values), unit)}${suffix} in the hour`);
  }
  function point(index) {
    at = index == null ? null : Math.max(0, Math.min(values.length - 1, index));
    read();
  }
  field.addEventListener("pointermove", (event) => {
    const { left, width } = field.getBoundingClientRect();
    point(Math.round(((event.clientX - left) / width) * (values.length - 1)));
  });
  for (const event of ["pointerleave", "blur"]) field.addEventListener(event, () => point(null));
  field.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30 }[event.key];
    if (move) {
      event.preventDefault();
      point((at ?? values.length - 1) + move);
    } else if (event.key === "Escape") point(null);
  });
  return {
    node,
    isFlat: () => top(values) === 0,
    draw(given, seconds, last) {
      values = given;
      step = seconds;
      end = last;
      most = nice(top(values));
      const found = paths(values, height, most);
      area.setAttribute("d", found.area);
      line.setAttribute("d", found.line);
      high.textContent = `${amount(most, unit)}${suffix}`;
      read();
    },
  };
}
