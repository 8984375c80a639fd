// One Service: how it does, where it is served, its endpoints, what went wrong, and why.

import { Chart } from "/charts.js";
import { h, mark, set, setText } from "/dom.js";
import { ago, byteRate, count, joined, milliseconds, rate } from "/format.js";
import { ask } from "/feed.js";
import { checkName, errorWords, verdict } from "/words.js";

const AGAIN_MS = 2000;
const SLOTS = 180;
const MOST_ROWS = 100;
const ENDPOINT_WORDS = {
  used: "ready",
  ejected: "left out",
  unready: "not ready",
  terminating: "terminating",
  unused: "not used",
};
const ENDPOINT_MARKS = { used: "healthy", ejected: "degraded", unready: "left", terminating: "left", unused: "left" };

export class Detail {
  constructor(element, { closed, known }) {
    this.element = element;
    this.closed = closed;
    this.known = known;
    this.service = null;
    this.#build();
  }

  #build() {
    this.mark = h("span");
    this.title = h("h2", { tabindex: -1 });
    this.sub = h("p", { class: "muted" });
    this.why = h("p", { class: "why" });
    this.tiles = h("dl", { class: "tiles" });
    this.verdict = h("p", { class: "verdict" });
    this.checks = h("ul", { class: "checks" });
    this.again = h("button", { type: "button", class: "button small", onclick: () => this.#explain() }, "Check again");
    this.charts = [
      new Chart("New connections", [{ name: "", column: "connections", kind: "one" }], rate),
      new Chart("Traffic", [
        { name: "to clients", column: "to_client", kind: "one" },
        { name: "to endpoints", column: "to_endpoint", kind: "two" }], byteRate),
      new Chart("Time to connect", [
        { name: "p95", column: "p95_s", kind: "one", factor: 1000 },
        { name: "p50", column: "p50_s", kind: "two", factor: 1000 }], milliseconds),
      new Chart("Open, and errors", [
        { name: "open", column: "active", kind: "one" },
        { name: "errors", column: "errors", kind: "bad" }], (value) => count(Math.round(value * 10) / 10)),
    ];
    this.frontends = h("tbody");
    this.endpoints = h("tbody");
    this.endpointNote = h("p", { class: "muted note" });
    this.errors = h("div");
    this.fault = h("p", { class: "fault", hidden: true });
    this.chartSection = section("Last 15 minutes",
      this.chartBox = h("div", { class: "charts", hidden: true }, this.charts.map((c) => c.element)),
      this.noCharts = h("p", { class: "muted" }, "No traffic in this time."));
    this.frontendSection = section("Served at", table(["Address", "Kind", "State"], this.frontends));
    this.endpointSection = section("Endpoints", table(["Endpoint", "Pod", "Node", "State", "Open"], this.endpoints),
      this.endpointNote);
    this.errorSection = section("Errors of the last 10 minutes", this.errors);
    this.element.append(
      h("header", {},
        h("div", { class: "top" }, this.mark, this.title,
          h("button", { type: "button", class: "tool close", "aria-label": "Close (Escape)", title: "Close (Esc)",
            onclick: () => this.closed() }, "✕")),
        this.sub),
      h("div", { class: "body" }, this.fault, this.why, this.tiles,
        section("Why does it work, or not?", this.verdict, this.checks, this.again),
        this.chartSection, this.endpointSection, this.frontendSection, this.errorSection));
  }

  open(service) {
    if (this.service?.key === service.key && !this.element.hidden) return;
    this.close();
    this.service = service;
    this.element.hidden = false;
    this.element.querySelector(".body").scrollTop = 0;
    this.aborter = new AbortController();
    for (const list of [this.frontends, this.endpoints, this.errors, this.checks]) list.replaceChildren();
    for (const chart of this.charts) chart.show({}, SLOTS, 5);
    setText(this.verdict, "Looking …");
    this.update();
    this.#load();
    this.#explain();
  }

  close() {
    this.aborter?.abort();
    clearTimeout(this.timer);
    this.service = null;
    this.element.hidden = true;
  }

  get path() {
    const { namespace, name } = this.service;
    return `/api/v1/services/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`;
  }

  // What the events have told of it.
  update(gone = false) {
    const service = this.service;
    if (!service) return;
    setText(this.title, service.name);
    set(this.element, { "data-service": service.key });
    this.mark.replaceChildren(mark(gone ? "left" : service.state));
    setText(this.sub, [service.namespace, service.type, service.address, service.ports && `port ${service.ports}`]
      .filter(Boolean).join("  ·  "));
    setText(this.why, gone ? "This Service is gone." : service.why ? `${service.why[0].toUpperCase()}${service.why.slice(1)}.` : "");
    set(this.why, { class: `why ${gone ? "left" : service.state}` });
    this.why.hidden = !this.why.textContent;
    const isLeft = Boolean(service.left);
    for (const part of [this.tiles, this.chartSection, this.endpointSection, this.frontendSection, this.errorSection]) {
      part.hidden = isLeft;
    }
    if (isLeft) return;
    tiles(this.tiles, [
      ["New connections", rate(service.connections)],
      ["To clients", byteRate(service.toClient)],
      ["To endpoints", byteRate(service.toEndpoint)],
      ["Open", count(service.active)],
      ["Connect, p50", milliseconds(service.p50)],
      ["Connect, p95", milliseconds(service.p95)],
      ["Errors, 1 min", count(service.errors), service.errors ? "bad" : ""],
    ]);
  }

  async #load() {
    const { signal } = this.aborter;
    const service = this.service;
    try {
      const found = await ask(this.path, signal);
      if (signal.aborted) return;
      this.fault.hidden = true;
      this.#show(found);
    } catch (fault) {
      if (signal.aborted) return;
      setText(this.fault, `Not up to date: ${fault.message}.`);
      this.fault.hidden = false;
    }
    this.timer = setTimeout(() => this.service === service && this.#load(), AGAIN_MS);
  }

  #show(found) {
    this.chartBox.hidden = !found.history.connections.length;
    this.noCharts.hidden = !this.chartBox.hidden;
    for (const chart of this.charts) chart.show(found.history, SLOTS, found.step_seconds);
    const frontends = found.ports.flatMap((port) => port.frontends.map((one) => ({ ...one, protocol: port.protocol })));
    rows(this.frontends, frontends.slice(0, MOST_ROWS).map((one) => [
      cell(`${joined(one.address, one.port)}/${one.protocol}`, "code"),
      cell(KINDS[one.kind] ?? one.kind),
      one.fault ? cell(one.fault, "bad") : cell(one.listening ? "listening" : "not listening", one.listening ? "" : "bad"),
    ]));
    const endpoints = found.endpoints.map((one) => ({ ...one, state: stateOf(one) }));
    const most = Math.max(1, ...endpoints.map((one) => one.connections));
    rows(this.endpoints, endpoints.slice(0, MOST_ROWS).map((one) => [
      cell(one.endpoint, "code"), cell(one.pod || "–", one.pod ? "" : "zero"), cell(one.node || "–", one.node ? "" : "zero"),
      stateCell(one), openCell(one.connections, most)]));
    setText(this.endpointNote, !endpoints.length ? "It has no endpoints."
      : endpoints.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${count(found.total)}.`
        : found.complete ? "" : "A worker did not answer in time: its connections are missing.");
    this.#errors(found.errors);
    this.known(this.service, endpoints);
  }

  #errors(errors) {
    if (!errors.length) {
      this.errors.replaceChildren(h("p", { class: "muted" }, "None."));
      return;
    }
    const now = Date.now();
    this.errors.replaceChildren(table(["Times", "What", "Last"], h("tbody", {}, errors.map((error) => h("tr", {},
      cell(count(error.count), "num bad"), cell(errorWords(error)),
      cell(ago((now - Date.parse(error.last)) / 1000), "muted"))))));
  }

  async #explain() {
    const { signal } = this.aborter;
    this.again.disabled = true;
    set(this.verdict, { "aria-busy": "true" });
    try {
      const found = await ask(`${this.path}/explain`, signal);
      if (signal.aborted) return;
      const isWell = found.action === "forward" && found.checks.every((check) => check.ok);
      set(this.verdict, { class: `verdict ${isWell ? "good" : found.action === "forward" ? "doubt" : this.service.left ? "left" : "bad"}` });
      setText(this.verdict, verdict(found));
      const isLeft = Boolean(this.service.left); // then that is how it should be
      this.checks.replaceChildren(...found.checks.map((check) => h("li", { class: check.ok || isLeft ? "good" : "bad" },
        isLeft ? null : h("span", { class: "tick", "aria-label": check.ok ? "well" : "not well", role: "img" }, check.ok ? "✓" : "✗"),
        h("div", {}, h("b", {}, checkName(check.check)), " ", check.detail,
          check.fix ? h("div", { class: "fix" }, "To mend: ", check.fix) : null))));
    } catch (fault) {
      if (signal.aborted) return;
      setText(this.verdict, `It cannot be explained now: ${fault.message}.`);
      set(this.verdict, { class: "verdict doubt" });
    }
    this.again.disabled = false;
    this.verdict.removeAttribute("aria-busy");
  }
}

const KINDS = { ClusterIP: "ClusterIP", NodePort: "node port", ExternalIP: "external IP", LoadBalancer: "load balancer" };

function stateOf(row) {
  if (row.ejected_by) return "ejected";
  if (row.used) return "used";
  if (row.terminating) return "terminating";
  return row.ready ? "unused" : "unready";
}

function stateCell(one) {
  const words = ENDPOINT_WORDS[one.state] + (one.state === "ejected" ? ` for ${Math.ceil(one.ejected_seconds)} s` : "");
  const sign = mark(ENDPOINT_MARKS[one.state]);
  sign.lastChild.remove();
  sign.removeAttribute("title");
  return h("td", {}, h("span", { class: "with-mark" }, sign, words));
}

function openCell(connections, most) {
  const bar = h("i", { class: "bar" });
  bar.style.width = `${Math.round((connections / most) * 40)}px`;
  return h("td", { class: "num" }, bar, count(connections));
}

function section(title, ...content) {
  return h("section", {}, h("h3", {}, title), content);
}

function table(titles, body) {
  return h("table", { class: "small" }, h("thead", {}, h("tr", {}, titles.map((title) =>
    h("th", { scope: "col", class: ["Open", "Times"].includes(title) ? "num" : "" }, title)))), body);
}

const cell = (text, kind = "") => h("td", { class: kind }, text);

// Put rows where they were, so that a selection of text, or the pointer, stays.
function rows(body, wanted) {
  wanted.forEach((cells, at) => {
    const made = h("tr", {}, cells);
    const before = body.children[at];
    if (!before) body.append(made);
    else if (!before.isEqualNode(made)) before.replaceWith(made);
  });
  while (body.children.length > wanted.length) body.lastChild.remove();
}

export function tiles(list, wanted) {
  wanted.forEach(([title, value, kind = ""], at) => {
    let tile = list.children[at];
    if (!tile) {
      tile = h("div", {}, h("dt", {}, title), h("dd"));
      list.append(tile);
    }
    setText(tile.firstChild, title);
    setText(tile.lastChild, value);
    set(tile.lastChild, { class: kind });
  });
}

