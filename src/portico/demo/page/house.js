// The connections: a table row and a column of the house each.

import { live, on } from "./live.js";
import { $, bytes, calm, count, fills, host, make, millis, number, put, span } from "./words.js";

export const seen = { sockets: 0 };
export const who = { id: "" }; // what this browser is called in the chat, and by its connections

const MOST_COLUMNS = 64;
const COLUMN_PX = 9; // the least that a column takes, with the gap beside it
const USES = { chat: "chat", value: "value", longpolling: "long poll", sse: "event stream" };
export const ours = new Set(); // addresses from which this page's own HTTP requests came, as /hello told
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

function update(shown, one) {
  const { row, column, parts } = shown;
  const socketHere = one.protocol === "websocket";
  const self = one.ws !== null && one.ws === live.you;
  const mine = self || (one.guest !== "" && one.guest === who.id) || ours.has(`${host(one.peer[0])}:${one.peer[1]}`);
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
  const tag = self ? (one.name ? `you, ${one.name}` : "you") : mine ? `your ${USES[one.use] ?? "HTTP"}` : one.name || (socketHere ? (USES[one.use] ?? "") : "");
  put(parts.tag, tag);
  parts.tag.hidden = !tag;
  put(parts.state, one.state);
  put(parts.age, span(one.age_s));
  put(parts.in, bytes(one.bytes_in));
  put(parts.out, bytes(one.bytes_out));
  put(parts.trip, socketHere ? millis(one.round_trip_ms) : "–");
  put(parts.label, self ? "you" : String(one.peer[1]));
  if (one.bytes_in > shown.in) pulse(parts.dot, true);
  else if (one.bytes_out > shown.out) pulse(parts.dot, false);
  shown.in = one.bytes_in;
  shown.out = one.bytes_out;
}

function place(parent, elements) {
  let at = parent.firstElementChild;
  for (const element of elements) {
    while (at?.classList.contains("gone")) at = at.nextElementSibling;
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
}

function leave(id, was) {
  drawn.delete(id);
  put(was.parts.state, "closed");
  for (const element of [was.row, was.column]) {
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
  const all = told.connections.toSorted((a, b) => (b.ws === live.you) - (a.ws === live.you));
  const ids = new Set(all.map((one) => one.id));
  for (const [id, was] of drawn) if (!ids.has(id)) leave(id, was);
  for (const one of all) {
    if (one.ws !== null && one.ws === live.you) five(one);
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
  seen.sockets = told.sockets;
  put($("http-sockets"), number.format(told.sockets));
}

on("snapshot", snapshot);
