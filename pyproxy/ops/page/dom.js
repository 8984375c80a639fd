// Making elements. Texts are only ever set as text: what a cluster's names say is never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// Change a text or an attribute only where it differs: the browser then has nothing to do.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    const text = String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

export const STATES = {
  healthy: "healthy",
  degraded: "degraded",
  failing: "failing",
  left: "not proxied",
};

// A shape for each state, so that nobody needs the colours.
const SHAPES = {
  healthy: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z",
  degraded: "M6 .8 11.7 10.8H.3z",
  failing: "M6 0 12 6 6 12 0 6z",
  left: "M6 2a4 4 0 1 0 0 8a4 4 0 1 0 0-8z",
};

export function mark(state) {
  const picture = svg("svg", { viewBox: "0 0 12 12", width: 11, height: 11, "aria-hidden": "true" },
    svg("path", { d: SHAPES[state] ?? SHAPES.left }));
  return h("span", { class: `mark ${state}`, title: STATES[state] ?? state }, picture,
    h("span", { class: "spoken" }, STATES[state] ?? state));
}

export function markPath(state) {
  return SHAPES[state] ?? SHAPES.left;
}
