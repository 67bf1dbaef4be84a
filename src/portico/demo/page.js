// The demo's page: one WebSocket that tells of every connection, and plain HTTP requests beside it.
// Whatever came from a visitor reaches the document through textContent alone.

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const now = () => performance.now();

// ---- words and numbers ----

const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

function bytes(n) {
  if (n < 1000) return `${n} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    n /= 1000;
    if (n < 999.5 || unit === "GB") return `${n < 9.95 ? n.toFixed(1) : Math.round(n)} ${unit}`;
  }
}

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")}`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}`;
}

const millis = (ms) => (ms == null ? "–" : `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`);
const host = (name) => (name.includes(":") ? `[${name}]` : name);
const count = (n, one, many) => `${number.format(n)}\u00a0${n === 1 ? one : many}`;

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const secure = location.protocol === "https:";
const fills = {
  port: location.port || (secure ? "443" : "80"),
  http: location.origin,
  ws: `${secure ? "wss" : "ws"}://${location.host}`,
};
for (const element of document.querySelectorAll("[data-fill]")) element.textContent = fills[element.dataset.fill];

// ---- the WebSocket: open, measured, and opened again with full jitter ----

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const SILENCE_MS = 8_000; // a snapshot comes every second, so this long without one means that the path is dead

let socket = null;
let you = null;
let openedAt = 0;
let heardAt = 0;
let attempts = 0;
let retry = 0;
let roundTrip = null;

function show(state, text) {
  document.body.dataset.state = state;
  put($("status-text"), text);
  $("send").setAttribute("aria-disabled", String(state !== "live"));
}

function connect() {
  clearTimeout(retry);
  const mine = new WebSocket(`${fills.ws}/live`);
  socket = mine;
  heardAt = now();
  mine.onmessage = (event) => {
    heardAt = now();
    const told = JSON.parse(event.data);
    receive[told.type]?.(told);
  };
  mine.onclose = () => {
    if (socket === mine) lost();
  };
}

function lost() {
  socket = null;
  you = null;
  openedAt = 0;
  roundTrip = null;
  attempts += 1;
  const wait = Math.random() * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** attempts);
  show("waiting", attempts > 1 ? `Reconnecting… (attempt ${attempts})` : "Reconnecting…");
  retry = setTimeout(connect, wait);
}

function tell(value) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(value));
  return true;
}

const receive = {
  hello(told) {
    you = told.you;
    attempts = 0;
    openedAt = now();
    show("live", "Live");
    told.said.forEach(addMessage);
    ping();
  },
  pong(told) {
    roundTrip = now() - told.t;
    put($("trip"), millis(roundTrip));
  },
  snapshot,
  said: addMessage,
  sent(told) {
    note("say-note", told.others ? `Delivered to ${count(told.others, "other", "others")}.` : "Nobody else is here yet.");
  },
  error(told) {
    note("say-note", told.text, true);
  },
};

function ping() {
  tell({ type: "ping", t: now(), ...(roundTrip === null ? {} : { rtt_ms: Math.min(60_000, roundTrip) }) });
}

function note(id, text, bad = false) {
  put($(id), text);
  $(id).classList.toggle("bad", bad);
}

setInterval(() => {
  if (socket && now() - heardAt > SILENCE_MS) {
    const dead = socket;
    lost();
    dead.close();
  } else if (you) ping();
}, 2000);
addEventListener("online", () => {
  if (!socket) connect();
});

// ---- the connections: a table row and a column of the house each ----

const MOST_COLUMNS = 64;
const COLUMN_PX = 9; // the least that a column takes, with the gap beside it
const ours = new Set(); // addresses from which this page's own HTTP requests came, as /hello told
const drawn = new Map(); // connection id -> what shows it

function draw(id) {
  const row = make("tr", "new");
  row.setAttribute("role", "row");
  const cell = (className, label) => {
    const td = make("td", className);
    td.setAttribute("role", "cell");
    if (label) td.dataset.label = label;
    row.append(td);
    return td;
  };
  const parts = { badge: cell("c-protocol").appendChild(make("span", "badge")) };
  const pair = (td) => {
    const line = td.appendChild(make("div", "pair"));
    return [line.appendChild(make("span", "host")), line.appendChild(make("span", "port")), line];
  };
  parts.peer = pair(cell("c-peer"));
  parts.tag = parts.peer[2].appendChild(make("span", "tag"));
  parts.local = pair(cell("c-local"));
  parts.state = cell("c-state");
  parts.age = cell("c-num", "Age");
  parts.in = cell("c-num", "In");
  parts.out = cell("c-num", "Out");
  parts.trip = cell("c-num c-trip", "Round trip");

  const column = make("div", "column");
  const shaft = make("div", "shaft");
  parts.dot = make("div", "dot");
  shaft.append(make("div", "fill"), parts.dot);
  const label = make("div", "label");
  parts.label = label.appendChild(make("span"));
  column.append(make("div", "cap"), shaft, make("div", "base"), label);
  for (const element of [row, column]) element.dataset.id = id;
  setTimeout(() => row.classList.remove("new"), 1700);
  return { row, column, parts, in: 0, out: 0 };
}

function pulse(dot, upwards) {
  if (calm.matches || document.hidden || dot.getAnimations().length) return;
  const ends = [{ top: "100%", opacity: 0 }, { opacity: 1, offset: 0.2 }, { opacity: 1, offset: 0.8 }, { top: "-7px", opacity: 0 }];
  dot.animate(upwards ? ends : [{ ...ends[3] }, ends[1], ends[2], { ...ends[0] }], { duration: 900, easing: "ease-in-out" });
}

function update(seen, one) {
  const { row, column, parts } = seen;
  const socketHere = one.protocol === "websocket";
  const self = one.ws !== null && one.ws === you;
  const mine = self || ours.has(`${host(one.peer[0])}:${one.peer[1]}`);
  for (const element of [row, column]) {
    element.classList.toggle("websocket", socketHere);
    element.classList.toggle("you", self);
    element.classList.toggle("mine", mine);
  }
  if (self) row.dataset.you = "";
  row.dataset.protocol = one.protocol;
  put(parts.badge, (socketHere ? "WebSocket" : "HTTP/1.1") + (one.tls ? " · TLS" : ""));
  for (const [[name, port, line], at] of [[parts.peer, one.peer], [parts.local, one.local]]) {
    put(name, `${host(at[0])}:`);
    put(port, String(at[1]));
    line.title = `${host(at[0])}:${at[1]}`;
  }
  const tag = self ? (one.name ? `you, ${one.name}` : "you") : mine ? "your HTTP" : one.name;
  put(parts.tag, tag);
  parts.tag.hidden = !tag;
  put(parts.state, one.state);
  put(parts.age, span(one.age_s));
  put(parts.in, bytes(one.bytes_in));
  put(parts.out, bytes(one.bytes_out));
  put(parts.trip, socketHere ? millis(one.round_trip_ms) : "–");
  put(parts.label, self ? "you" : String(one.peer[1]));
  if (one.bytes_in > seen.in) pulse(parts.dot, true);
  else if (one.bytes_out > seen.out) pulse(parts.dot, false);
  seen.in = one.bytes_in;
  seen.out = one.bytes_out;
}

function place(parent, elements) {
  let at = parent.firstElementChild;
  for (const element of elements) {
    while (at?.classList.contains("gone")) at = at.nextElementSibling;
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
}

function leave(id, seen) {
  drawn.delete(id);
  put(seen.parts.state, "closed");
  for (const element of [seen.row, seen.column]) {
    element.classList.add("gone");
    setTimeout(() => element.remove(), 1500);
  }
}

function five(one) {
  const values = { "local-host": one.local[0], "local-port": one.local[1], "peer-host": one.peer[0], "peer-port": one.peer[1] };
  for (const [name, value] of Object.entries(values)) put(document.querySelector(`[data-five="${name}"]`), String(value));
}

// Where not every connection finds room under the roof, a quarter of it is for HTTP.
function columnsFor(all) {
  const most = Math.min(MOST_COLUMNS, Math.floor($("columns").clientWidth / COLUMN_PX) - 2);
  const plain = all.filter((one) => one.protocol !== "websocket");
  const sockets = all.filter((one) => one.protocol === "websocket");
  return [...sockets.slice(0, most - Math.min(plain.length, most >> 2)), ...plain].slice(0, most);
}

function snapshot(told) {
  const all = told.connections.toSorted((a, b) => (b.ws === you) - (a.ws === you));
  const ids = new Set(all.map((one) => one.id));
  for (const [id, seen] of drawn) if (!ids.has(id)) leave(id, seen);
  for (const one of all) {
    if (one.ws !== null && one.ws === you) five(one);
    if (!drawn.has(one.id)) drawn.set(one.id, draw(one.id));
  }
  place($("connections"), all.map((one) => drawn.get(one.id).row));
  const standing = new Set(columnsFor(all));
  for (const one of all) if (!standing.has(one)) drawn.get(one.id).column.remove();
  place($("columns"), [...standing].map((one) => drawn.get(one.id).column));
  void $("columns").offsetWidth; // each column is first drawn as HTTP, so that one can see it switch
  for (const one of all) update(drawn.get(one.id), one);

  const plain = told.total - told.sockets;
  put($("count-websocket"), number.format(told.sockets));
  put($("word-websocket"), told.sockets === 1 ? "WebSocket" : "WebSockets");
  put($("count-http"), number.format(plain));
  put($("word-http"), plain === 1 ? "HTTP connection" : "HTTP connections");
  put($("count-answered"), number.format(told.answered));
  const more = told.total > all.length ? `The first ${all.length} of ${number.format(told.total)}. ` : "";
  put($("table-note"), `${more}Everybody who opens this page sees this list, addresses included.`);
  $("drawing").setAttribute(
    "aria-label",
    `A portico: under the roof of port ${fills.port} stand ${count(told.sockets, "WebSocket", "WebSockets")} and ${count(plain, "HTTP connection", "HTTP connections")}`,
  );
  sockets = told.sockets;
  put($("http-sockets"), number.format(sockets));
}

let sockets = 0;

// ---- messages ----

const MOST_MESSAGES = 200;
const known = new Set(); // a hello after reconnecting repeats the last messages

function addMessage(said) {
  if (known.has(said.id)) return;
  known.add(said.id);
  const log = $("log");
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const item = make("li", said.by === you ? "mine" : "");
  const who = make("div", "who");
  const when = make("time", "", clock.format(said.at_ms));
  when.dateTime = new Date(said.at_ms).toISOString();
  who.append(make("b", "", (said.name || said.peer) + (said.by === you ? " (you)" : "")), when);
  item.append(who, make("div", "what", said.text));
  $("messages").append(item);
  $("log-empty").hidden = true;
  if ($("messages").childElementCount > MOST_MESSAGES) $("messages").firstElementChild.remove();
  if (follows) log.scrollTop = log.scrollHeight;
}

function remembered(value) {
  try {
    if (value === undefined) return localStorage.getItem("portico-demo-name") ?? "";
    localStorage.setItem("portico-demo-name", value);
  } catch {
    return ""; // storage may be forbidden; the name is then asked again
  }
}

$("name").value = remembered();
$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  const name = $("name").value.trim();
  if (!text) return;
  if (tell({ type: "say", text, name })) {
    remembered(name);
    $("text").value = "";
    $("text").focus();
  } else note("say-note", "Not connected just now. Your message stays here until the page is back.", true);
});

// ---- plain HTTP on the same port ----

const BURST = 100;
const AT_ONCE = 6; // what browsers allow per host over HTTP/1.1
const latencies = [];
let answered = 0;

async function hello() {
  const begun = now();
  const response = await fetch("/hello", { cache: "no-store" });
  const text = await response.text();
  if (!response.ok) throw new Error(`answered ${response.status}`);
  const peer = text.match(/^Hello (\S{1,64}),/)?.[1];
  if (peer) ours.add(peer);
  answered += 1;
  return { text, ms: now() - begun };
}

function plot() {
  const usual = latencies.toSorted((a, b) => a - b)[Math.floor((latencies.length - 1) * 0.9)];
  const top = Math.max(5, usual * 1.6); // a rare slow answer is cut off rather than flattening all others
  const points = latencies.map((ms, i) => `${((i + 60 - latencies.length) / 59) * 300},${64 - Math.min(1, ms / top) * 64}`);
  const first = ((60 - latencies.length) / 59) * 300;
  $("spark").querySelector(".line").setAttribute("d", `M${points.join("L")}`);
  $("spark").querySelector(".area").setAttribute("d", `M${first},64L${points.join("L")}L300,64Z`);
  put($("spark-top"), `scale: 0 to ${millis(top)}`);
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

async function beat() {
  if (you && !document.hidden) {
    try {
      const { text, ms } = await hello();
      latencies.push(ms);
      if (latencies.length > 60) latencies.shift();
      put($("http-text"), text.trim());
      put($("http-latency"), millis(median(latencies.slice(-9))));
      plot();
    } catch {
      put($("http-text"), "no answer");
    }
  }
  put($("http-answered"), number.format(answered));
  put($("http-open"), openedAt ? `yours for ${span((now() - openedAt) / 1000)}` : "yours not now");
}

setInterval(beat, 1000);

let bursting = false;
$("burst").addEventListener("click", async () => {
  if (bursting) return;
  bursting = true;
  $("burst").setAttribute("aria-disabled", "true");
  const [begun, before, same] = [now(), answered, socket];
  let left = BURST;
  const worker = async () => {
    while (left-- > 0) {
      await hello();
      put($("http-answered"), number.format(answered));
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    const ms = now() - begun;
    const kept = same && same === socket ? `${count(sockets, "WebSocket", "WebSockets")} stayed open.` : "";
    note("burst-note", `${BURST} answered in ${millis(ms)}, ${number.format(Math.round((BURST / ms) * 1000))}\u00a0a\u00a0second. ${kept}`);
  } catch {
    note("burst-note", `${answered - before} of ${BURST} were answered, then the server could not be reached.`, true);
  }
  $("burst").removeAttribute("aria-disabled");
  bursting = false;
});

show("connecting", "Connecting…");
connect();
