// The status page of pyproxy: puts its parts together, and takes the keys.

import { Detail, tiles } from "/detail.js";
import { STATES, h, mark, set, setText } from "/dom.js";
import { Feed } from "/feed.js";
import { byteRate, clock, count, rate, span } from "/format.js";
import { Model } from "/model.js";
import { Picture } from "/picture.js";
import { Table } from "/table.js";
import { Theme } from "/theme.js";

const $ = (id) => document.getElementById(id);
const model = new Model();
const theme = new Theme($("theme"));
const table = new Table($("services"), model, { chosen: open, moved });
const picture = new Picture($("picture"), model, { chosen: open });
const detail = new Detail($("detail"), { closed: close, known: (service, rows) => picture.know(service, rows) });
let lost = null;

const feed = new Feed(heard, (news) => {
  lost = news;
  document.body.classList.toggle("lost", Boolean(news));
  banner();
});

function heard(name, message) {
  if (name === "hello") {
    const current = table.current?.key ?? null;
    model.hello(message);
    heard.current = current;
    setText($("node"), message.node);
    document.title = `pyproxy · ${message.node}`;
    return;
  }
  if (!model.tick(message)) return;
  if (message.is_whole) restore();
  show();
}

// After everything was sent anew, the numbers of Services are others; their names are not.
function restore() {
  const again = heard.current && model.byKey.get(heard.current);
  table.current = again ?? null;
  picture.current = null;
  if (again) picture.select(again);
  byHash();
}

function show() {
  const { totals, state, reasons } = model.summary;
  document.body.classList.add("ready");
  set($("agent"), { class: `agent ${state}`, title: reasons.join("\n") });
  const word = { healthy: "healthy", degraded: "degraded", down: "down" }[state];
  const sign = { healthy: "healthy", degraded: "degraded", down: "failing" }[state];
  if ($("agent").dataset.said !== `${state}${reasons}`) {
    $("agent").dataset.said = `${state}${reasons}`;
    const sentence = mark(sign);
    sentence.lastChild.remove();
    $("agent").replaceChildren(sentence, h("b", {}, word), h("span", { class: "reasons" }, reasons.join("; ")));
  }
  tiles($("totals"), [
    ["Connections", rate(totals.connections)],
    ["To clients", byteRate(totals.to_client)],
    ["To endpoints", byteRate(totals.to_endpoint)],
    ["Open", count(totals.active)],
    ["Errors, 1 min", count(totals.errors), totals.errors ? "bad" : ""],
  ]);
  filters();
  table.update();
  empty();
  picture.update();
  if (detail.service) {
    const known = model.byKey.get(detail.service.key);
    if (known) detail.service = known;
    detail.update(!known);
  }
}

function filters() {
  const counts = { failing: 0, degraded: 0, healthy: 0, left: 0 };
  for (const service of model.services.values()) counts[service.state] += 1;
  const box = $("filters");
  if (!box.children.length) {
    for (const state of [null, ...Object.keys(counts)]) {
      box.append(h("button", { type: "button", "data-state": state ?? "", onclick: () => {
        table.state = table.state === state ? null : state;
        show();
      } }, state ? mark(state) : "All", " ", h("span", { class: "n" })));
    }
  }
  for (const button of box.children) {
    const state = button.dataset.state || null;
    const number = state ? counts[state] : model.services.size;
    setText(button.querySelector(".n"), count(number));
    button.hidden = Boolean(state && !number && table.state !== state);
    set(button, { "aria-pressed": table.state === state, title: state ? STATES[state] : "all Services" });
  }
}

function empty() {
  const box = $("empty");
  const isEmpty = table.shown.length === 0;
  box.hidden = !isEmpty;
  $("services").hidden = isEmpty;
  const hasServices = model.services.size > 0;
  const why = model.agent.source === "manifests"
    ? "Put a Service and its EndpointSlices into the directory of --manifests, and they appear here."
    : "The API server has told of none yet. Once one is made in the cluster, it appears here.";
  const said = `${hasServices}${table.search}${table.state}`;
  if (!isEmpty || box.dataset.said === said) {
    if (!isEmpty) delete box.dataset.said;
    if (hasServices) picture.empty(h("h3", {}, "Nothing to draw"), h("p", {}, "None of the Services is proxied."));
    return;
  }
  box.dataset.said = said;
  if (hasServices) {
    box.replaceChildren(h("h3", {}, "No Service matches"),
      h("p", {}, table.search ? `Nothing has “${table.search}” in its name, address, port or type.` : "No Service is in this state."),
      h("button", { type: "button", class: "button", onclick: clear }, "Show all"));
  } else {
    box.replaceChildren(h("h3", {}, "No Services yet"), h("p", {}, why));
    picture.empty(h("h3", {}, "Nothing flows yet"), h("p", {}, "Traffic between Services and their endpoints is drawn here."));
  }
}

function clear() {
  table.state = null;
  table.search = $("search").value = "";
  show();
}

function banner() {
  const box = $("banner");
  box.hidden = !lost;
  if (!lost) {
    setText(box, "");
    return;
  }
  const seconds = (Date.now() - lost.since.getTime()) / 1000;
  const since = `Agent not reachable since ${clock(lost.since)} (${span(seconds)})`;
  setText(box, lost.why ? `No live view: ${lost.why}. Trying again.` : `${since}. What is shown is from then; trying again.`);
}
setInterval(banner, 1000);

function open(service) {
  table.select(service);
  const hash = `#/${encodeURIComponent(service.namespace)}/${encodeURIComponent(service.name)}`;
  if (location.hash !== hash) location.hash = hash;
  else byHash();
}

function close() {
  if (location.hash) history.pushState(null, "", location.pathname);
  byHash();
  $("services").focus({ preventScroll: true });
}

function moved(service) {
  picture.select(service);
  if (detail.service) open(service);
}

// The address says which Service is open, so that it may be kept, sent, and gone back to.
function byHash() {
  const [, namespace, name] = location.hash.split("/").map(decoded);
  const service = name && model.byKey.get(`${namespace}/${name}`);
  document.body.classList.toggle("with-detail", Boolean(service));
  if (!service) {
    detail.close();
    return;
  }
  detail.open(service);
  table.select(service);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

addEventListener("hashchange", byHash);
$("search").addEventListener("input", (event) => {
  table.search = event.target.value.trim();
  $("services").scrollTop = 0;
  if (model.isWhole) show();
});
$("keys-button").addEventListener("click", () => $("keys").showModal());

const MOVES = {
  ArrowDown: () => 1,
  ArrowUp: () => -1,
  j: () => 1,
  k: () => -1,
  PageDown: () => table.page,
  PageUp: () => -table.page,
  Home: () => -Infinity,
  End: () => Infinity,
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !model.isWhole) return;
  const isTyping = event.target === $("search");
  const isInDetail = $("detail").contains(event.target);
  if (event.key === "Escape") escape(isTyping);
  else if (event.key === "/" && !isTyping) $("search").select();
  else if (isTyping && event.key.length === 1) return;
  else if (event.key in MOVES) {
    if (isTyping && !event.key.startsWith("Arrow")) return;
    if (isInDetail && event.key.length > 1) return; // these scroll it
    if (isTyping) $("services").focus({ preventScroll: true });
    table.move(MOVES[event.key]());
  } else if (event.key === "Enter") {
    if (event.target.closest("button, a, .node")) return;
    if (isTyping) {
      if (!table.shown.length) return;
      table.select(table.shown.includes(table.current) ? table.current : table.shown[0]);
    }
    if (!table.current) return;
    open(table.current);
    detail.title.focus({ preventScroll: true });
  } else if (event.key === "t") theme.toggle();
  else if (event.key === "?") $("keys").showModal();
  else return;
  event.preventDefault();
});

function escape(isTyping) {
  if (detail.service) close();
  else if (isTyping || table.search || table.state) {
    clear();
    $("services").focus({ preventScroll: true });
  } else if (table.current) {
    table.current = null;
    picture.select(null);
    table.update();
  }
}

// For tests and the curious: what the page knows.
globalThis.pyproxy = { model, table, feed };
