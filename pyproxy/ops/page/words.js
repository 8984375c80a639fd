// The answers of `explain` in plain words. docs/explain.md has all of the reasons.

import { plural } from "/format.js";

const ENDS = {
  reject: "New connections are refused at once.",
  drop: "New connections get no answer: their packets are dropped.",
  none: "pyproxy leaves its packets alone.",
};

const REASONS = {
  ExternalName: "It is of type ExternalName: DNS answers with another name, and there is nothing to proxy.",
  Headless: "It is headless: DNS answers with the pods' own addresses, and clients connect to these.",
  OtherProxy: "A label leaves it to another proxy.",
  NoClusterIP: "It has no ClusterIP yet.",
  UnknownPort: "It has no such port.",
  ProtocolNotSupported: "Its protocol is not supported.",
  AddressNotServed: "Its address is not served on this node.",
  AddressContested: "Another Service has its address and port.",
  SourceNotAllowed: "Its source ranges leave the client out.",
  NoEndpointSlice: "No EndpointSlice belongs to it: perhaps its selector matches no pod.",
  NoEndpoint: "It has no endpoint: its selector matches no pod, or none has an address yet.",
  PortNameMismatch: "Its endpoints have no port of this name.",
  PortProtocolMismatch: "Its endpoints have this port with another protocol.",
  NoReadyEndpoint: "None of its endpoints is ready.",
  NoLocalEndpoint: "Its traffic policy is Local, and none of its endpoints is on this node.",
};

const CHECKS = {
  Type: "Type",
  Address: "Address",
  Port: "Port",
  Protocol: "Protocol",
  Readiness: "Readiness",
  TrafficPolicy: "Traffic policy",
  SourceRanges: "Source ranges",
  Source: "Client's address",
  Listener: "Listening",
  Ejection: "Left out",
  Dial: "Tried from here",
  RecentErrors: "Lately",
};

// One sentence, or two.
export function verdict(explanation) {
  if (explanation.action === "forward") {
    const failed = explanation.checks.filter((check) => !check.ok);
    const where = plural(explanation.endpoints.length, "endpoint");
    return failed.length
      ? `New connections are forwarded to ${where}, but something is wrong: see below.`
      : `It works: new connections are forwarded to ${where}.`;
  }
  const why = REASONS[explanation.reason] ?? `The reason is ${explanation.reason}.`;
  return explanation.action === "none" ? why : `${why} ${ENDS[explanation.action]}`;
}

export const checkName = (name) =>
  CHECKS[name] ?? name.replace(/([a-z])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);

const ERRORS = {
  "connect refused": "endpoint refused the connection",
  "connect timeout": "endpoint did not answer in time",
  "connect unreachable": "endpoint could not be reached",
  "connect loop": "endpoint leads back to this Service's own address",
  "connect error": "this host could not try to connect",
  "closed endpoint_reset": "endpoint reset the connection",
  "closed no_endpoint": "client refused: no endpoint is usable",
  "closed not_allowed": "client refused: it is not in the source ranges",
  "closed connect_failed": "client refused: no endpoint could be connected",
  "closed over_limit": "client refused: as many connections as the Service allows",
  "closed over_budget": "client refused: descriptors run short",
  "closed worker_lost": "cut: a worker process died",
  "closed error": "a fault of pyproxy; the log has it",
};

export const errorWords = ({ kind, reason }) =>
  ERRORS[`${kind} ${reason}`] ?? `${kind === "connect" ? "connect: " : "ended: "}${reason.replaceAll("_", " ")}`;
