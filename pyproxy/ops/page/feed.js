// The agent's events. When they stop, for whatever reason, the page says since when, and goes on
// trying; the agent then sends everything anew.

const SILENCE_MS = 6000;
const RETRY_MS = 2000;

export class Feed {
  // heard: an event's name and data. lost: since when nothing is heard, and why; null once it is.
  constructor(heard, lost) {
    this.heard = heard;
    this.lost = lost;
    this.lastHeard = Date.now();
    this.isLost = false;
    this.#open();
    setInterval(() => this.#watch(), 1000);
  }

  #open() {
    this.source?.close();
    this.source = new EventSource("/api/v1/events");
    for (const name of ["hello", "tick"]) {
      this.source.addEventListener(name, (event) => {
        this.lastHeard = Date.now();
        if (this.isLost) {
          this.isLost = false;
          this.lost(null);
        }
        this.heard(name, JSON.parse(event.data));
      });
    }
    this.source.addEventListener("error", () => this.#failed());
  }

  async #failed() {
    const source = this.source;
    if (!this.isLost) {
      this.isLost = true;
      this.lost({ since: new Date(this.lastHeard), why: "" });
    }
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    const why = await refusal();
    if (this.isLost && why) this.lost({ since: new Date(this.lastHeard), why });
    setTimeout(() => source === this.source && this.#open(), RETRY_MS);
  }

  #watch() {
    if (Date.now() - this.lastHeard < SILENCE_MS) return;
    if (!this.isLost) {
      this.isLost = true;
      this.lost({ since: new Date(this.lastHeard), why: "" });
      this.#open(); // a laptop that slept has a connection that nobody answers on
    }
  }
}

// The agent answers, but not with events: it has too many viewers, or does not know this name.
async function refusal() {
  try {
    const answer = await fetch("/api/v1/status");
    const body = await answer.json();
    if (!answer.ok) return body.error ?? `it answers ${answer.status}`;
    const { now, most } = body.viewers;
    return now >= most ? `it has ${most} viewers already, and takes no more` : "";
  } catch {
    return "";
  }
}

// Ask for an answer; throws an Error whose message is for people.
export async function ask(path, signal) {
  let answer;
  try {
    answer = await fetch(path, { signal });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Error("the agent cannot be reached");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the agent answers ${answer.status}`);
  return body;
}
