// A small client of Socket.IO 5 over Engine.IO 4, for WebSocket and text: one namespace, acknowledgements, recovery.
// The official client does as much here, and more; this one is what a page needs that loads nothing from elsewhere.

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 10_000;
const ANSWER_MS = 10_000;

export class Socket {
  /** `query`: for the request. `receive`: functions by event; `changed(state, details)`: "connected", "waiting". */
  constructor({ url, query, namespace = "/", receive, changed = () => {} }) {
    Object.assign(this, { url, query, namespace, receive, changed });
    this.prefix = namespace === "/" ? "" : `${namespace},`;
    this.connected = false;
    this.offset = undefined; // where in the namespace's history this page is
    this.pid = undefined; // what it may come back as
    this.waitAtLeast = 0; // ms, before the next attempt
    this.ws = null;
  }

  #answers = new Map();
  #number = 0;
  #attempts = 0;
  #silence = 0;
  #retry = 0;
  #patience = 45_000;

  open() {
    clearTimeout(this.#retry);
    const query = new URLSearchParams({ EIO: "4", transport: "websocket", ...this.query });
    const ws = (this.ws = new WebSocket(`${this.url}/?${query}`));
    this.#listen();
    ws.onmessage = (event) => {
      if (this.ws === ws) this.#packet(event.data);
    };
    ws.onclose = () => {
      if (this.ws === ws) this.#lost();
    };
  }

  close() {
    clearTimeout(this.#retry);
    clearTimeout(this.#silence);
    const ws = this.ws;
    this.ws = null;
    this.connected = false;
    ws?.close();
  }

  /** Send an event; a promise of what acknowledges it. Fails at once where there is no connection. */
  ask(event, ...args) {
    if (!this.connected) return Promise.reject(new Error("Not connected just now."));
    const id = ++this.#number;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id, reject, new Error("No answer has come.")), ANSWER_MS);
      this.#answers.set(id, { resolve, reject, timer });
      this.#send("2", [event, ...args], id);
    });
  }

  #send(type, data, id = "") {
    this.ws.send(`4${type}${this.prefix}${id}${data === undefined ? "" : JSON.stringify(data)}`);
  }

  #packet(text) {
    if (typeof text !== "string") return;
    this.#listen();
    switch (text[0]) {
      case "0": {
        const { pingInterval, pingTimeout } = JSON.parse(text.slice(1));
        this.#patience = pingInterval + pingTimeout;
        this.#listen();
        this.#send("0", this.pid ? { pid: this.pid, offset: this.offset } : {});
        break;
      }
      case "2":
        this.ws.send("3");
        break;
      case "4":
        this.#message(text.slice(1));
        break;
      case "1":
        this.ws.close();
    }
  }

  #message(text) {
    const [, type, namespace = "/", id, data] = text.match(/^(\d)(?:(\/[^,]*),?)?(\d*)(.*)$/s) ?? [];
    if (namespace !== this.namespace) return;
    const value = data ? JSON.parse(data) : undefined;
    if (type === "0") this.#established(value);
    else if (type === "2") this.#event(value);
    else if (type === "3") {
      const answer = value[0];
      if (answer?.error) this.#settle(Number(id), "reject", new Error(answer.error));
      else this.#settle(Number(id), "resolve", answer);
    } else if (type === "1" || type === "4") this.ws.close();
  }

  #established({ pid }) {
    const recovered = pid !== undefined && pid === this.pid;
    this.pid = pid;
    this.connected = true;
    this.#attempts = 0;
    this.waitAtLeast = 0;
    this.changed("connected", { recovered });
  }

  #event([event, ...args]) {
    const place = this.pid && typeof args.at(-1) === "string" ? args.at(-1) : undefined;
    if (place !== undefined) this.offset = place;
    this.receive[event]?.(...args);
    this.receive["*"]?.(event, place);
  }

  #settle(id, how, value) {
    const answer = this.#answers.get(id);
    if (!answer) return;
    this.#answers.delete(id);
    clearTimeout(answer.timer);
    (typeof how === "string" ? answer[how] : how)(value);
  }

  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#dead(), this.#patience);
  }

  #dead() {
    const ws = this.ws;
    if (!ws) return;
    this.#lost();
    ws.close();
  }

  #lost() {
    clearTimeout(this.#silence);
    const was = this.connected;
    this.ws = null;
    this.connected = false;
    for (const id of [...this.#answers.keys()]) this.#settle(id, "reject", new Error("The connection was lost."));
    this.#attempts += 1;
    const most = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempts);
    this.#retry = setTimeout(() => this.open(), Math.max(this.waitAtLeast, Math.random() * most));
    this.changed("waiting", { was });
  }
}
