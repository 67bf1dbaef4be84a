// One value, carried in four ways side by side, and what each of them costs. The server counts the bytes.

import { Timeline } from "./diagram.js";
import { clockError, live, on, serverNow, tell } from "./live.js";
import { Socket } from "./socketio.js";
import { $, bytes, calm, fills, key, make, millis, now, number, put, visitor } from "./words.js";

const SHOWN_MS = 10_000;
const WAIT_S = 25; // how long the server may hold a long poll
const ASK_MS = 1000; // how often the page asks what was counted
const RETRY_MS = 1000;
const DELAYS_KEPT = 2000;
const RATES = [[2000, "every 2 s"], [1000, "1 a second"], [500, "2"], [200, "5"], [100, "10"], [50, "20 a second"]];
const INTERVALS = [[250, "4 a second"], [500, "2"], [1000, "1 a second"], [2000, "every 2 s"], [5000, "every 5 s"]];

let page = key(); // what is measured has a key; another begins another measurement
let begun = 0;
let intervalMs = 1000;
let everyMs = 500;
let running = false;

const events = (lane, more = {}) => `/socket.io/events?${new URLSearchParams({ room: "value", visitor, page, lane, ...more })}`;

// ---- the four ways ----

/** Ask for what is new, again and again; `hold`: whether the server waits until there is something. */
function asking(lane, hold) {
  let stop;
  return {
    start() {
      const controller = new AbortController();
      stop = () => controller.abort();
      ask(controller.signal);
    },
    stop: () => stop?.(),
  };

  async function ask(signal) {
    let since = "";
    while (!signal.aborted) {
      const begunAt = now();
      try {
        lanes[lane].time.tick();
        const query = since ? { since, ...(hold ? { wait: WAIT_S } : {}) } : { since: "" };
        const response = await fetch(events(lane, query), { cache: "no-store", signal });
        if (!response.ok) throw new Error(`answered ${response.status}`);
        const told = await response.json();
        since = told.position;
        for (const { name, args } of told.events) if (name === "value") arrived(lane, args[0]);
      } catch {
        since = "";
        if (!signal.aborted) await pause(RETRY_MS, signal);
        continue;
      }
      if (!hold) await pause(Math.max(0, intervalMs - (now() - begunAt)), signal);
    }
  }
}

function pause(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    });
  });
}

function listening() {
  let source;
  return {
    start() {
      lanes.sse.time.tick();
      source = new EventSource(events("sse"));
      source.addEventListener("value", (event) => arrived("sse", JSON.parse(event.data)[0]));
    },
    stop: () => source?.close(),
  };
}

function connected() {
  let socket;
  return {
    start() {
      lanes.websocket.time.tick();
      socket = new Socket({
        url: `${fills.ws}/socket.io`,
        query: { visitor, page, lane: "websocket" },
        receive: { value: (change) => arrived("websocket", change) },
      });
      socket.open();
    },
    stop: () => socket?.close(),
  };
}

const lanes = {};
for (const [id, way, title, does, picture] of [
  ["polling", asking("polling", false), "Polling", "asks, and asks again", "Each change waits until the page asks"],
  ["longpolling", asking("longpolling", true), "Long polling", "the answer waits for a change", "Each change answers a request that waits"],
  ["sse", listening(), "Server-Sent Events", "one answer that never ends", "Each change is sent at once, within one response"],
  ["websocket", connected(), "WebSocket", "open both ways, Socket.IO", "Each change is sent at once, as a message"],
]) {
  const row = $("lane").content.cloneNode(true).firstElementChild;
  const find = (name) => row.querySelector(`.${name}`);
  const heading = row.querySelector("h3");
  heading.id = `l-${id}`;
  heading.textContent = title;
  heading.nextElementSibling.textContent = does;
  find("time").setAttribute("aria-label", picture);
  row.setAttribute("aria-labelledby", heading.id);
  row.dataset.lane = id;
  row.classList.add(id === "websocket" ? "websocket" : "http");
  $("lane").before(row);
  lanes[id] = {
    ...way,
    parts: Object.fromEntries(["value", "requests", "sent", "received", "delay", "worst", "each"].map((name) => [name, find(name)])),
    time: new Timeline(find("time"), { span: SHOWN_MS, hue: id === "websocket" ? "--ws-light" : "--http-light" }),
    delays: [], // until each change was drawn
    arrivals: [], // until the page had it
    changes: 0,
    newest: 0,
    counted: { requests: 0, sent: 0, received: 0 },
  };
}

// ---- what arrives, and when it is on the screen ----

const due = []; // what came, and is to be seen in the next frame

function arrived(id, change) {
  const lane = lanes[id];
  if (change.n > lane.newest) {
    lane.newest = change.n;
    put(lane.parts.value, change.value.toFixed(2));
  }
  if (due.push({ id, change, at: now() }) === 1) requestAnimationFrame(() => setTimeout(drawn)); // after that frame was drawn
}

function drawn() {
  const at = now();
  const ahead = serverNow(0);
  for (const { id, change, at: came } of due.splice(0)) {
    const lane = lanes[id];
    if (ahead === null) continue;
    const changedAt = change.at_ms - ahead;
    if (changedAt < begun) continue; // it was there before
    lane.changes += 1;
    lane.delays = [...lane.delays.slice(-DELAYS_KEPT), Math.max(0, at - changedAt)];
    lane.arrivals = [...lane.arrivals.slice(-DELAYS_KEPT), Math.max(0, came - changedAt)];
    lane.time.line(Math.min(at, changedAt), at);
    if (!calm.matches) lane.parts.value.animate([{ color: "var(--hue)" }, { color: "inherit" }], { duration: 500 });
  }
}

function part(values, share) {
  return values.length ? values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] : null;
}

const spread = (values) => ({ median: part(values, 0.5), p95: part(values, 0.95), most: part(values, 1) });

function show() {
  for (const { parts, delays, changes, counted } of Object.values(lanes)) {
    put(parts.requests, number.format(counted.requests));
    put(parts.sent, bytes(counted.sent));
    put(parts.received, bytes(counted.received));
    put(parts.delay, millis(part(delays, 0.5)));
    put(parts.worst, delays.length ? `95% within ${millis(part(delays, 0.95))}` : "");
    put(parts.each, changes ? `${bytes(Math.round((counted.sent + counted.received) / changes))} a change` : "");
  }
  const error = clockError();
  put($("lanes-clock"), error === null ? "" : `±\u00a0${millis(error)}`);
}

/** What was measured until now, for whoever wants to write it down. */
window.porticoMeasures = () => ({
  every_ms: everyMs,
  interval_ms: intervalMs,
  seconds: running ? (now() - begun) / 1000 : 0,
  clock_error_ms: clockError(),
  lanes: Object.fromEntries(
    Object.entries(lanes).map(([id, { delays, arrivals, changes, counted }]) => [
      id,
      {
        requests: counted.requests,
        bytes_sent: counted.sent,
        bytes_received: counted.received,
        changes,
        arrival_ms: spread(arrivals),
        delay_ms: spread(delays),
      },
    ]),
  ),
});

// ---- when they run ----

function restart() {
  page = key();
  for (const lane of Object.values(lanes)) Object.assign(lane, { delays: [], arrivals: [], changes: 0, counted: { requests: 0, sent: 0, received: 0 } });
  show();
  if (!running) return;
  for (const lane of Object.values(lanes)) lane.stop();
  begin();
}

function begin() {
  begun = now();
  for (const lane of Object.values(lanes)) {
    lane.time.mend();
    lane.start();
  }
}

// Browsers allow six HTTP/1.1 connections to a server, and two of the four ways hold one: one tab at a time runs them.
const others = new BroadcastChannel("portico-demo-lanes");
let yielded = false;

function decide() {
  const wanted = !document.hidden && live.you !== null && !yielded;
  if (wanted === running) return;
  running = wanted;
  if (running) {
    others.postMessage("mine");
    restart();
  } else {
    for (const lane of Object.values(lanes)) {
      lane.stop();
      lane.time.tear();
    }
  }
  $("lanes").dataset.running = String(running);
  $("lanes-paused").hidden = !yielded;
}

others.onmessage = () => {
  yielded = true;
  decide();
};

function mine() {
  if (document.hidden) return;
  yielded = false;
  decide();
}

addEventListener("focus", mine);
document.addEventListener("visibilitychange", decide);
$("lanes-here").addEventListener("click", mine);
on("lost", decide);

// ---- what the visitor chooses ----

function choices(box, values, chosen, choose) {
  for (const [value, text] of values) {
    const label = make("label");
    const input = make("input");
    Object.assign(input, { type: "radio", name: box, value, checked: value === chosen });
    input.addEventListener("change", () => choose(value));
    label.append(input, make("span", "", text));
    $(box).append(label);
  }
}

choices("rate", RATES, everyMs, (ms) => {
  if (!tell({ type: "every", ms })) every(everyMs);
});
choices("interval", INTERVALS, intervalMs, (ms) => {
  intervalMs = ms;
  restart();
});
$("lanes-again").addEventListener("click", restart);

function every(ms) {
  const other = ms !== everyMs;
  everyMs = ms;
  for (const input of $("rate").querySelectorAll("input")) input.checked = Number(input.value) === ms;
  if (other) restart();
}

on("hello", (told) => {
  every(told.every_ms);
  decide();
});
on("every", (told) => every(told.ms));
on("measured", (told) => {
  if (told.page !== page) return;
  for (const [id, lane] of Object.entries(lanes)) lane.counted = told.lanes[id] ?? lane.counted;
  show();
});

setInterval(() => {
  if (running) tell({ type: "measure", page });
}, ASK_MS);
