// Lines over time: a small one for a table's row, and larger ones with their axes.

import { h, set, setText, svg } from "/dom.js";

function path(points, width, height, most, inset) {
  const usable = height - 2 * inset;
  const step = points.length > 1 ? width / (points.length - 1) : 0;
  let text = "";
  let isOn = false;
  points.forEach((value, at) => {
    if (value === null) {
      isOn = false;
      return;
    }
    const y = inset + usable * (1 - Math.min(1, value / most));
    text += `${isOn ? "L" : "M"}${(at * step).toFixed(1)} ${y.toFixed(1)}`;
    isOn = true;
  });
  return text;
}

// The path of a sparkline; as wide as all its points would be.
export function sparkPath(points, width, height, slots) {
  if (points.length < 2 || !points.some(Boolean)) return "";
  const padded = Array(Math.max(0, slots - points.length)).fill(null).concat(points);
  return path(padded, width, height, Math.max(...points) * 1.05, 1.5);
}

// A bound that a person would have chosen.
function niceMost(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 5, 7.5, 10].find((factor) => factor * power >= value) * power;
}

const WIDTH = 320;
const HEIGHT = 88;

// One chart. series: [{name, column, kind}], kinds are classes of the style sheet.
export class Chart {
  constructor(title, series, format) {
    this.series = series;
    this.format = format;
    this.most = svg("text", { x: WIDTH, y: 9, class: "axis", "text-anchor": "end" });
    this.lines = series.map(({ kind }) => svg("path", { class: `line ${kind}` }));
    this.area = svg("path", { class: `area ${series[0].kind}` });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.values = series.map(({ name, kind }) => {
      const value = h("b");
      return { value, label: h("span", { class: "legend" }, h("i", { class: kind }),
        series.length > 1 ? `${name} ` : "", value) };
    });
    this.when = h("span", { class: "when" }, "");
    const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none",
      class: "plot", role: "img", "aria-label": `${title} over the last 15 minutes` },
    svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }),
    svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2 }),
    this.area, ...this.lines, this.cursor);
    drawing.addEventListener("pointermove", (event) => this.#point(event, drawing));
    drawing.addEventListener("pointerleave", () => this.#point(null));
    this.scale = h("span", { class: "scale" });
    this.element = h("figure", { class: "chart" },
      h("figcaption", {}, h("span", { class: "title" }, title), this.values.map((v) => v.label)),
      h("div", { class: "frame" }, drawing, this.scale),
      h("div", { class: "times" }, h("span", {}, "15 min ago"), this.when, h("span", {}, "now")));
  }

  // history: columns of equal length, the newest last. slots: how many make the whole width.
  show(history, slots, stepSeconds) {
    this.stepSeconds = stepSeconds;
    this.columns = this.series.map(({ column, factor = 1 }) => {
      const found = history[column] ?? [];
      const lacking = Array(Math.max(0, slots - found.length)).fill(null);
      return lacking.concat(found.map((value) => (value === null ? null : value * factor)));
    });
    const all = this.columns.flat().filter((value) => value !== null);
    const most = niceMost(Math.max(0, ...all));
    this.columns.forEach((points, at) =>
      set(this.lines[at], { d: path(points, WIDTH, HEIGHT, most, 2) }));
    const first = this.columns[0];
    const begin = first.findIndex((value) => value !== null);
    const line = path(first.map((value, at) => (at >= begin && begin >= 0 ? value ?? 0 : null)),
      WIDTH, HEIGHT, most, 2);
    const left = begin * (WIDTH / (slots - 1));
    set(this.area, { d: line ? `${line}L${WIDTH} ${HEIGHT}L${left.toFixed(1)} ${HEIGHT}Z` : "" });
    setText(this.scale, all.length ? this.format(most) : "");
    this.#tell();
  }

  #point(event, drawing) {
    if (event && this.columns) {
      const box = drawing.getBoundingClientRect();
      const slots = this.columns[0].length;
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      this.at = Math.round(share * (slots - 1));
      const x = (this.at / (slots - 1)) * WIDTH;
      set(this.cursor, { x1: x, x2: x, visibility: "visible" });
    } else {
      this.at = null;
      set(this.cursor, { visibility: "hidden" });
    }
    this.#tell();
  }

  #tell() {
    if (!this.columns) return;
    const slots = this.columns[0].length;
    const at = this.at ?? slots - 1;
    this.columns.forEach((points, which) => {
      const value = points[at];
      setText(this.values[which].value, value === null || value === undefined ? "–" : this.format(value));
    });
    const seconds = (slots - 1 - at) * this.stepSeconds;
    setText(this.when, this.at === null || this.at === undefined ? "" :
      `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} ago`);
  }
}
