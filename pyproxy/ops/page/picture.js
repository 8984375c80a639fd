// The picture: Services on the left, their endpoints on the right, and what flows between them.
//
// A flow is as wide as what goes through it, by a square root, so that a small one is still seen. A
// Service's traffic is shared out to its endpoints by the connections that are open there.

import { STATES, h, markPath, set, setText, svg } from "/dom.js";
import { byteRate, count, plural, rate } from "/format.js";

const LINE = 21;
const GAP = 13;
const TOP = 8;
const SMOOTH = 0.4;
const STATE_WORDS = {
  ejected: "left out: it cannot be connected",
  unready: "not ready",
  unused: "not used, by policy",
  terminating: "terminating",
};

export class Picture {
  constructor(element, model, { chosen }) {
    this.element = element;
    this.model = model;
    this.chosen = chosen;
    this.flows = new Map();
    this.nodes = new Map();
    this.smooth = new Map();
    this.current = null;
    this.extra = null;
    this.layers = { flows: svg("g"), nodes: svg("g") };
    this.drawing = svg("svg", { class: "flows", role: "group", "aria-label": "Traffic, live" },
      this.layers.flows, this.layers.nodes);
    this.caption = h("p", { class: "caption" });
    this.none = h("div", { class: "empty", hidden: true });
    element.append(h("div", { class: "heads" }, h("h2", {}, "Services"), h("h2", {}, "Endpoints")),
      this.drawing, this.none, this.caption);
    new ResizeObserver(() => this.update()).observe(element);
  }

  // The Service that the table stands on: it is in the picture, whatever its traffic.
  select(service) {
    this.current = service;
    if (!service || this.extra?.id !== service.id) this.extra = null;
    this.update();
  }

  // endpoints: rows of the current Service, when they are known.
  know(service, rows) {
    if (this.current !== service) return;
    this.extra = { id: service.id, total: rows.length, connections: 0,
      endpoints: rows.slice(0, 8).map((row) => [row.endpoint, row.pod, row.state, row.connections]) };
  }

  update() {
    const summary = this.model.summary;
    if (!summary || !this.model.isWhole) return;
    const box = this.element.getBoundingClientRect();
    const width = Math.max(280, this.drawing.clientWidth || box.width);
    const height = Math.max(160, this.drawing.clientHeight || box.height);
    const groups = this.#groups(summary, height);
    this.none.hidden = groups.length > 0;
    this.drawing.toggleAttribute("hidden", groups.length === 0);
    set(this.drawing, { viewBox: `0 0 ${width} ${height}` });
    this.#draw(groups, width, height);
    const all = this.model.services.size;
    setText(this.caption, groups.length < all && groups.length
      ? `The busiest ${groups.length} of ${plural(all, "Service")}. Width: bytes and connections a second.`
      : groups.length ? "Width: bytes and connections a second." : "");
  }

  empty(...content) {
    this.none.replaceChildren(...content);
  }

  // What fits: of those that do something or are in trouble, or else of all; with two endpoints of
  // each at least, rather than with many Services.
  #groups(summary, height) {
    const listed = [...summary.picture];
    if (this.extra && !listed.some((one) => one.id === this.extra.id)) listed.push(this.extra);
    let groups = listed.map((one) => ({ ...one, service: this.model.services.get(one.id) }))
      .filter((one) => one.service)
      .sort((a, b) => (a.service.name < b.service.name ? -1 : 1));
    const room = (height - 2 * TOP + GAP) / LINE;
    const isTall = (cap) => groups.reduce((sum, one) => sum + lines(one, cap) + GAP / LINE, 0) > room;
    if (isTall(8)) {
      const telling = groups.filter((one) => this.#importance(one) > 0);
      if (telling.length) groups = telling;
    }
    let cap = 8;
    while (cap > 2 && isTall(cap)) cap -= 1;
    while (groups.length > 4 && isTall(cap)) {
      const least = groups.reduce((a, b) => (this.#importance(a) <= this.#importance(b) ? a : b));
      groups = groups.filter((one) => one !== least);
    }
    if (isTall(cap)) cap = 1;
    while (groups.length > 1 && isTall(cap)) groups = groups.slice(0, -1);
    return groups.map((one) => ({ ...one, cap: capOf(one, cap) }));
  }

  #importance({ service }) {
    if (service === this.current) return Infinity;
    return service.weight || { failing: 0.5, degraded: 0.25 }[service.state] || 0;
  }

  #draw(groups, width, height) {
    const used = { flows: new Set(), nodes: new Set() };
    const wanted = groups.reduce((sum, one) => sum + lines(one, one.cap) * LINE + GAP, -GAP);
    const stretch = Math.min(1.5, Math.max(1, (height - 2 * TOP) / wanted));
    const [nameWidth, right] = this.#columns(groups, width);
    const widest = Math.min(44, Math.max(14, height / groups.length / 3.5));
    const places = new Map(); // of endpoints: two Services may lead to the same
    const most = Math.max(1, ...groups.map((one) => this.#eased(one.service)));
    let y = Math.max(TOP, (height - wanted * stretch) / 2);
    for (const group of groups) {
      const tall = lines(group, group.cap) * LINE * stretch;
      this.#drawGroup(group, { y, tall, nameWidth, right, width, places, most, widest }, used);
      y += tall + GAP * stretch;
    }
    for (const layer of ["flows", "nodes"]) {
      for (const [key, found] of this[layer]) {
        if (!used[layer].has(key)) {
          found.element.remove();
          this[layer].delete(key);
        }
      }
    }
  }

  // Where the names of Services end, and where endpoints begin: in steps, so that they rarely move.
  #columns(groups, width) {
    const step = (wanted, most) => Math.min(most, Math.ceil(wanted / 24) * 24);
    const names = groups.map(({ service }) => fullName(service).length * 7 + 36);
    const labels = groups.flatMap(({ endpoints, cap }) =>
      endpoints.slice(0, cap).map(([endpoint, pod]) => (pod || endpoint).length * 7 + 90));
    return [step(Math.max(140, ...names), Math.max(110, width * 0.36)),
      width - step(Math.max(120, ...labels), Math.max(110, width * 0.38))];
  }

  #eased(service) {
    const before = this.smooth.get(service.id) ?? service.weight;
    const now = before + SMOOTH * (service.weight - before);
    this.smooth.set(service.id, now < 1 ? 0 : now);
    return now;
  }

  #drawGroup(group, at, used) {
    const { service } = group;
    const shown = group.endpoints.slice(0, group.cap);
    const weights = shown.map(([, , state, connections]) => (state === "used" ? connections + 0.25 : 0));
    const hidden = Math.max(0, group.total - shown.length);
    if (hidden) {
      const open = group.connections - shown.reduce((sum, row) => sum + row[3], 0);
      weights.push(Math.max(0, open) + 0.25 * hidden);
    }
    const all = weights.reduce((sum, value) => sum + value, 0) || 1;
    const value = this.smooth.get(service.id) ?? 0;
    const widthOf = (share) =>
      value ? Math.max(1.2, at.widest * Math.sqrt(value / at.most) * share) : 0;
    const middle = at.y + at.tall / 2;
    const sum = weights.reduce((total, weight) => total + widthOf(weight / all), 0);
    let from = middle - sum / 2;
    this.#serviceNode(service, middle, Math.max(sum, 18), at, used);
    weights.forEach((weight, which) => {
      const row = shown[which];
      const key = row ? row[0] : `more of ${service.id}`;
      let to = at.places.get(key);
      if (to === undefined) {
        to = at.y + (at.tall * (which + 0.5)) / weights.length;
        at.places.set(key, to);
        this.#endpointNode(key, row, hidden, to, at, used, this.#dims(service));
      }
      const wide = weight ? widthOf(weight / all) : 0;
      this.#flow(service, key, row, { from: from + wide / 2, to, wide, value }, at, used);
      from += wide;
    });
  }

  #serviceNode(service, middle, tall, at, used) {
    const key = `service ${service.id}`;
    let node = this.nodes.get(key);
    if (!node) {
      node = new ServiceNode(() => this.chosen(this.model.services.get(service.id)));
      this.nodes.set(key, node);
      this.layers.nodes.append(node.element);
    }
    used.nodes.add(key);
    node.show(service, middle, tall, at.nameWidth, this.#dims(service), service === this.current);
  }

  #endpointNode(key, row, hidden, y, at, used, isDim) {
    let node = this.nodes.get(key);
    if (!node) {
      node = new EndpointNode();
      this.nodes.set(key, node);
      this.layers.nodes.append(node.element);
    }
    used.nodes.add(key);
    node.show(row, hidden, y, at.right, at.width, isDim);
  }

  #flow(service, key, row, { from, to, wide, value }, at, used) {
    const name = `${service.id} ${key}`;
    let flow = this.flows.get(name);
    if (!flow) {
      flow = new Flow();
      this.flows.set(name, flow);
      this.layers.flows.append(flow.element);
    }
    used.flows.add(name);
    const begin = at.nameWidth + 8;
    const bend = (at.right - begin) * 0.5;
    const d = `M${begin} ${from.toFixed(1)}C${begin + bend} ${from.toFixed(1)} ${at.right - bend} ${to.toFixed(1)} ${at.right} ${to.toFixed(1)}`;
    flow.show(d, wide, row ? row[2] : "used", service, value, this.#dims(service));
  }

  #dims(service) {
    return Boolean(this.current && this.current !== service);
  }
}

class ServiceNode {
  constructor(chosen) {
    this.bar = svg("rect", { class: "bar", width: 4, rx: 2 });
    this.namespace = svg("tspan");
    this.own = svg("tspan", { class: "own" });
    this.name = svg("text", { class: "name" }, this.namespace, this.own);
    this.sub = svg("text", { class: "sub" });
    this.mark = svg("path", { class: "shape" });
    this.hit = svg("rect", { class: "hit", rx: 6 });
    this.element = svg("g", { class: "node service", role: "button", tabindex: 0,
      onclick: chosen,
      onkeydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation();
        chosen();
      } }, this.hit, this.mark, this.name, this.sub, this.bar);
  }

  show(service, middle, tall, width, isDim, isCurrent) {
    set(this.element, { class: `node service ${service.state}${isDim ? " dim" : ""}${isCurrent ? " current" : ""}`,
      "aria-label": `${service.key}, ${STATES[service.state]}, ${rate(service.connections)} connections, ${byteRate(service.bytes)}` });
    set(this.bar, { x: width + 2, y: (middle - tall / 2).toFixed(1), height: tall.toFixed(1) });
    set(this.hit, { x: 2, y: (middle - 18).toFixed(1), width: width - 4, height: 36 });
    set(this.mark, { d: markPath(service.state), transform: `translate(${width - 18} ${(middle - 12).toFixed(1)})` });
    const room = Math.floor((width - 30) / 7);
    set(this.name, { x: width - 24, y: (middle - 2).toFixed(1), "text-anchor": "end" });
    setText(this.namespace, fullName(service).length <= room ? `${service.namespace}/` : "");
    setText(this.own, clipped(service.name, room));
    set(this.sub, { x: width - 7, y: (middle + 13).toFixed(1), "text-anchor": "end" });
    const doing = service.weight ? `${rate(service.connections)} · ${byteRate(service.bytes)}`
      : service.left ? "not proxied" : service.state === "failing" ? service.why : service.active ? `${count(service.active)} open` : "quiet";
    setText(this.sub, clipped(doing, Math.floor((width - 12) / 6)));
  }
}

class EndpointNode {
  constructor() {
    this.dot = svg("path", { class: "shape" });
    this.name = svg("text", { class: "name" });
    this.title = svg("title");
    this.element = svg("g", { class: "node endpoint" }, this.title, this.dot, this.name);
  }

  show(row, hidden, y, x, width, isDim) {
    const [endpoint, pod, state, connections] = row ?? ["", "", "more", 0];
    const room = Math.floor((width - x - 22) / 6.6);
    const words = STATE_WORDS[state];
    const label = row ? pod || endpoint : `and ${count(hidden)} more`;
    const after = words ? ` · ${words.split(":")[0].split(",")[0]}` : connections ? ` · ${count(connections)} open` : "";
    set(this.element, { class: `node endpoint ${state}${isDim ? " dim" : ""}` });
    set(this.dot, { d: markPath({ used: "healthy", ejected: "degraded", more: "left" }[state] ?? "left"),
      transform: `translate(${x + 2} ${(y - 4.5).toFixed(1)}) scale(.75)`,
      visibility: row ? "visible" : "hidden" });
    set(this.name, { x: x + 16, y: (y + 4).toFixed(1) });
    const isShort = label.length + after.length > room;
    setText(this.name, isShort ? clipped(label, room) : label + after);
    setText(this.title, [endpoint, pod, words, `${count(connections)} open`].filter(Boolean).join(", "));
  }
}

class Flow {
  constructor() {
    this.wide = svg("path", { class: "wide" });
    this.drops = svg("path", { class: "drops" });
    this.element = svg("g", {}, this.wide, this.drops);
  }

  show(d, width, state, service, value, isDim) {
    const isStopped = state !== "used";
    const kind = isStopped ? "stopped" : width ? "" : "quiet";
    set(this.element, { class: `flow ${service.state} ${kind} ${state}${isDim ? " dim" : ""}` });
    set(this.wide, { d, "stroke-width": (isStopped || !width ? 1.2 : width).toFixed(2) });
    set(this.drops, { d, "stroke-width": Math.min(3, Math.max(1.2, width / 4)).toFixed(2) });
    // The more flows, the faster: from 9 s to 2 s for 20 points of the dash pattern.
    const seconds = value ? Math.max(1.2, 6 - Math.log10(value + 1)) : 0;
    const duration = seconds ? `${(Math.round(seconds * 2) / 2).toFixed(1)}s` : "0s";
    if (this.drops.style.animationDuration !== duration) this.drops.style.animationDuration = duration;
  }
}

// A single endpoint more takes no more room than saying so; one that takes nothing is told by one.
function capOf({ endpoints, total }, cap) {
  if (!endpoints.some(([, , state]) => state === "used")) return 1;
  return total === cap + 1 ? total : cap;
}

function lines(one, cap) {
  const shown = Math.min(capOf(one, cap), one.endpoints.length);
  return Math.max(1.7, shown + (one.total > shown ? 0.9 : 0));
}

const fullName = (service) => `${service.namespace}/${service.name}`;

function clipped(text, length) {
  return text.length <= length ? text : `${text.slice(0, Math.max(1, length - 1))}…`;
}
