// What the page knows: the Services by their number, and the newest state of the agent.

const SPARK_POINTS = 48;

export class Service {
  constructor(row) {
    this.spark = [];
    this.connections = this.toEndpoint = this.toClient = this.active = this.errors = 0;
    this.p50 = this.p95 = null;
    this.state = row.left ? "left" : "healthy";
    this.why = "";
    this.update(row);
  }

  update(row) {
    this.id = row.id;
    this.namespace = row.namespace;
    this.name = row.name;
    this.type = row.type || "ClusterIP";
    this.left = row.left;
    this.address = row.address;
    this.ready = row.ready;
    this.total = row.total;
    this.portList = row.ports;
    this.ports = row.ports.map(([, protocol, number]) =>
      protocol === "TCP" ? String(number) : `${number}/${protocol}`).join(", ");
    this.key = `${row.namespace}/${row.name}`;
    this.words = `${this.key} ${this.type} ${row.address} ${row.ports.flat().join(" ")}`.toLowerCase();
  }

  do(values) {
    [, this.connections, this.toEndpoint, this.toClient, this.active, this.errors, this.p50,
      this.p95, this.state, this.why] = values;
  }

  get bytes() {
    return this.toEndpoint + this.toClient;
  }

  // What the picture draws: a connection without a byte counts as much as 500 of them.
  get weight() {
    return this.bytes + 500 * this.connections;
  }
}

export class Model {
  constructor() {
    this.clear();
  }

  clear() {
    this.services = new Map();
    this.byKey = new Map();
    this.agent = null;
    this.summary = null;
    this.isWhole = false;
  }

  hello(message) {
    this.clear();
    this.agent = message;
  }

  // Take in one message; say whether it was the last of a look.
  tick(message) {
    for (const row of message.services ?? []) {
      const known = this.services.get(row.id);
      if (known) known.update(row);
      else {
        const made = new Service(row);
        this.services.set(row.id, made);
        this.byKey.set(made.key, made);
      }
    }
    for (const values of message.doing ?? []) this.services.get(values[0])?.do(values);
    for (const [id, points] of Object.entries(message.sparks ?? {})) {
      const service = this.services.get(Number(id));
      if (service) service.spark = points.slice(-SPARK_POINTS);
    }
    for (const id of message.gone ?? []) this.#remove(id);
    if (!message.totals) return false;
    this.summary = message;
    this.isWhole ||= Boolean(message.is_whole);
    if (message.is_step) this.#step();
    return this.isWhole;
  }

  #remove(id) {
    const gone = this.services.get(id);
    this.services.delete(id);
    if (gone && this.byKey.get(gone.key) === gone) this.byKey.delete(gone.key);
  }

  #step() {
    for (const service of this.services.values()) {
      if (!service.spark.length && !service.connections) continue;
      service.spark.push(service.connections);
      if (service.spark.length > SPARK_POINTS) service.spark.shift();
    }
  }
}
