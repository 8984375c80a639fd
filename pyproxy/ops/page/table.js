// The table of Services: sorted, searched, and only as many rows in the document as can be seen.

import { sparkPath } from "/charts.js";
import { STATES, h, mark, markPath, set, setText, svg } from "/dom.js";
import { byteRate, count, milliseconds, rate } from "/format.js";

const ROW = 34;
const SPARE = 6;
const SPARK = { width: 84, height: 20, slots: 48 };
const GRAVITY = { failing: 3, degraded: 2, healthy: 1, left: 0 };

const text = (value) => (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
const number = (value) => (a, b) => value(b) - value(a);

// compare: the order of a first click. value: what a cell says; zero: whether it is of no interest.
const COLUMNS = [
  { id: "state", title: "", label: "State", kind: "state", compare: number((s) => GRAVITY[s.state]) },
  { id: "name", title: "Service", kind: "name", compare: text((s) => s.key) },
  { id: "ports", title: "Port", kind: "text wide", compare: text((s) => s.portList[0]?.[2] ?? 0),
    value: (s) => s.ports || "–" },
  { id: "rate", title: "Conn/s", label: "New connections a second", kind: "num",
    compare: number((s) => s.connections), value: (s) => (s.connections ? rate(s.connections) : "0"), zero: (s) => !s.connections },
  { id: "bytes", title: "Traffic", label: "Bytes a second, both ways", kind: "num",
    compare: number((s) => s.bytes), value: (s) => (s.bytes ? byteRate(s.bytes) : "0"), zero: (s) => !s.bytes },
  { id: "active", title: "Open", label: "Open connections and flows", kind: "num",
    compare: number((s) => s.active), value: (s) => count(s.active), zero: (s) => !s.active },
  { id: "errors", title: "Errors", label: "Errors in the last minute", kind: "num errors",
    compare: number((s) => s.errors), value: (s) => count(s.errors), zero: (s) => !s.errors },
  { id: "p95", title: "Connect", label: "Time to connect an endpoint: 95 of 100 are faster", kind: "num wide",
    compare: number((s) => s.p95 ?? -1), value: (s) => milliseconds(s.p95), zero: (s) => s.p95 === null },
  { id: "ready", title: "Ready", label: "Endpoints that are ready, of all", kind: "num",
    compare: (a, b) => a.ready / (a.total || 1) - b.ready / (b.total || 1) || b.total - a.total,
    value: (s) => (s.left ? "–" : `${s.ready}/${s.total}`), zero: (s) => s.left },
  { id: "spark", title: "4 min", label: "Connections of the last four minutes", kind: "spark",
    compare: number((s) => s.spark.reduce((sum, value) => sum + value, 0)) },
];

export class Table {
  // model: pyproxy's; chosen: a Service was opened; moved: the current one is another.
  constructor(element, model, { chosen, moved }) {
    this.element = element;
    this.model = model;
    this.chosen = chosen;
    this.moved = moved;
    this.order = { id: "bytes", isTurned: false };
    this.search = "";
    this.state = null;
    this.current = null;
    this.shown = [];
    this.rows = [];
    this.#build();
    this.#mark();
  }

  #build() {
    this.heads = new Map();
    const head = h("tr", { "aria-rowindex": 1 }, COLUMNS.map((column) => {
      const button = h("button", { type: "button", title: column.label ?? column.title,
        "aria-label": column.label ?? column.title, tabindex: -1,
        onclick: () => this.sort(column.id) }, column.title || "●");
      const cell = h("th", { class: column.kind, scope: "col", "data-column": column.id }, button);
      this.heads.set(column.id, cell);
      return cell;
    }));
    this.above = h("tr", { class: "space", "aria-hidden": "true" }, h("td"));
    this.below = this.above.cloneNode(true);
    this.body = h("tbody", {}, this.above, this.below);
    this.table = h("table", { role: "grid", "aria-label": "Services" },
      h("colgroup", {}, COLUMNS.map((column) => h("col", { class: column.kind }))),
      h("thead", {}, head), this.body);
    this.element.append(this.table);
    this.element.addEventListener("scroll", () => this.#render(), { passive: true });
    new ResizeObserver(() => this.#render()).observe(this.element);
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-id]");
      const service = row && this.model.services.get(Number(row.dataset.id));
      if (service) {
        this.select(service);
        this.chosen(service);
      }
    });
  }

  sort(id) {
    const isSame = this.order.id === id;
    this.order = { id, isTurned: isSame && !this.order.isTurned };
    this.#mark();
    this.update();
  }

  #mark() {
    for (const [id, cell] of this.heads) {
      const isIt = id === this.order.id;
      const isText = id === "name" || id === "ports" || id === "ready";
      const isRising = isText !== this.order.isTurned;
      set(cell, { "aria-sort": isIt ? (isRising ? "ascending" : "descending") : "none" });
    }
  }

  // Choose what is shown, in which order; then draw it.
  update() {
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    const column = COLUMNS.find(({ id }) => id === this.order.id);
    const turn = this.order.isTurned ? -1 : 1;
    this.shown = [...this.model.services.values()]
      .filter((s) => (!this.state || s.state === this.state) && words.every((word) => s.words.includes(word)));
    this.shown.sort((a, b) => turn * column.compare(a, b) || (a.key < b.key ? -1 : 1));
    this.#render();
  }

  select(service) {
    if (this.current === service) return;
    this.current = service;
    this.#render();
    this.moved(service);
  }

  // Move by so many rows, or to either end; open: whether the detail follows.
  move(by) {
    if (!this.shown.length) return;
    const known = this.shown.indexOf(this.current);
    const at = known < 0 && by < 0 ? this.shown.length : known;
    const to = Math.min(this.shown.length - 1, Math.max(0, at + by));
    this.#reveal(to);
    this.select(this.shown[to]);
  }

  get page() {
    return Math.max(1, Math.floor(this.element.clientHeight / ROW) - 2);
  }

  #reveal(at) {
    const top = at * ROW;
    const view = this.element.clientHeight - this.table.tHead.offsetHeight;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + ROW > this.element.scrollTop + view) this.element.scrollTop = top + ROW - view;
  }

  reveal(service) {
    const at = this.shown.indexOf(service);
    if (at >= 0) this.#reveal(at);
  }

  #render() {
    const total = this.shown.length;
    const seen = Math.ceil(this.element.clientHeight / ROW) + 1;
    const first = Math.max(0, Math.min(total - seen, Math.floor(this.element.scrollTop / ROW)) - SPARE);
    const last = Math.min(total, first + seen + 2 * SPARE);
    while (this.rows.length < last - first) {
      const row = new Row();
      this.rows.push(row);
      this.below.before(row.element);
    }
    while (this.rows.length > last - first) this.rows.pop().element.remove();
    for (let at = first; at < last; at += 1) {
      this.rows[at - first].show(this.shown[at], at, this.shown[at] === this.current);
    }
    this.above.firstChild.style.height = `${first * ROW}px`;
    this.below.firstChild.style.height = `${(total - last) * ROW}px`;
    this.above.hidden = first === 0;
    this.below.hidden = total === last;
    set(this.table, { "aria-rowcount": total + 1 });
    if (this.current && this.rows.some((row) => row.service === this.current)) {
      set(this.element, { "aria-activedescendant": `service-${this.current.id}` });
    } else this.element.removeAttribute("aria-activedescendant");
  }
}

class Row {
  constructor() {
    this.mark = mark("healthy");
    this.name = h("b");
    this.namespace = h("span", { class: "muted" });
    this.note = h("span", { class: "note" });
    this.line = svg("path", { class: "line" });
    this.cells = COLUMNS.map((column) => h(column.id === "name" ? "th" : "td",
      { class: column.kind, scope: column.id === "name" ? "row" : null }));
    this.cells[0].append(this.mark);
    this.cells[1].append(h("div", { class: "who" }, this.name, this.namespace, this.note));
    this.cells.at(-1).append(svg("svg", { class: "sparkline", width: SPARK.width,
      height: SPARK.height, viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, "aria-hidden": "true" }, this.line));
    this.element = h("tr", {}, this.cells);
  }

  show(service, at, isCurrent) {
    this.service = service;
    set(this.element, { id: `service-${service.id}`, "data-id": service.id, "aria-rowindex": at + 2,
      "aria-selected": isCurrent, class: service.state + (at % 2 ? " odd" : "") });
    set(this.mark, { class: `mark ${service.state}`, title: service.why || STATES[service.state] });
    set(this.mark.firstChild.firstChild, { d: markPath(service.state) });
    setText(this.mark.lastChild, STATES[service.state]);
    setText(this.name, service.name);
    setText(this.namespace, service.namespace);
    setText(this.note, service.left ? leftWord(service) : "");
    set(this.cells[1], { title: service.why ? `${service.key}: ${service.why}` : service.key });
    COLUMNS.forEach((column, which) => {
      if (!column.value) return;
      const cell = this.cells[which];
      setText(cell, service.left && column.kind.includes("num") ? "–" : column.value(service));
      cell.classList.toggle("zero", Boolean(service.left || column.zero?.(service)));
    });
    set(this.line, { d: sparkPath(service.spark, SPARK.width, SPARK.height, SPARK.slots) });
  }
}

const leftWord = (service) =>
  ({ ExternalName: "ExternalName", Headless: "headless", OtherProxy: "other proxy",
    NoClusterIP: "no ClusterIP", NoPorts: "no ports" })[service.left] ?? service.left;
