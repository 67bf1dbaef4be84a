// The page's own WebSocket, /live: open, measured, and opened again with full jitter.

import { $, fills, millis, now, put } from "./words.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const SILENCE_MS = 8_000; // a snapshot comes every second, so this long without one means that the path is dead
const PING_MS = 2000;
const PINGS_KEPT = 30;

export const live = { socket: null, you: null, openedAt: 0, name: () => "" };

const receivers = new Map();
let heardAt = 0;
let attempts = 0;
let retry = 0;
let roundTrip = null;
let trips = []; // round trips and how far the server's clock was ahead then

/** Call `receive` with each message of this type; as "lost", when the connection is lost. */
export function on(type, receive) {
  receivers.set(type, [...(receivers.get(type) ?? []), receive]);
}

/** Send a value, as JSON; false where there is no connection. */
export function tell(value) {
  if (live.socket?.readyState !== WebSocket.OPEN) return false;
  live.socket.send(JSON.stringify(value));
  return true;
}

/** The server's clock now, in ms since 1970, as far as the quickest of the last round trips tells; null where none was. */
export function serverNow(at = now()) {
  return trips.length ? at + best().ahead : null;
}

/** By how much `serverNow` may be wrong, in ms. */
export const clockError = () => (trips.length ? best().trip / 2 : null);

const best = () => trips.reduce((a, b) => (b.trip < a.trip ? b : a));

function show(state, text) {
  document.body.dataset.state = state;
  put($("status-text"), text);
}

function give(told) {
  for (const receive of receivers.get(told.type) ?? []) receive(told);
}

export function connect() {
  clearTimeout(retry);
  const mine = new WebSocket(`${fills.ws}/live`);
  live.socket = mine;
  heardAt = now();
  mine.onmessage = (event) => {
    heardAt = now();
    give(JSON.parse(event.data));
  };
  mine.onclose = () => {
    if (live.socket === mine) lost();
  };
}

function lost() {
  live.socket = null;
  live.you = null;
  live.openedAt = 0;
  roundTrip = null;
  trips = [];
  attempts += 1;
  const wait = Math.random() * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** attempts);
  show("waiting", attempts > 1 ? `Reconnecting… (attempt ${attempts})` : "Reconnecting…");
  retry = setTimeout(connect, wait);
  give({ type: "lost" });
}

function ping() {
  const measured = roundTrip === null ? {} : { rtt_ms: Math.min(60_000, roundTrip) };
  tell({ type: "ping", t: now(), name: live.name(), ...measured });
}

on("hello", (told) => {
  live.you = told.you;
  attempts = 0;
  live.openedAt = now();
  show("live", "Live");
  ping();
});

on("pong", (told) => {
  roundTrip = now() - told.t;
  trips = [...trips, { trip: roundTrip, ahead: told.at_ms - (told.t + roundTrip / 2) }].slice(-PINGS_KEPT);
  if (trips.length < 3) ping(); // a clock that was compared once is not compared well
  put($("trip"), millis(roundTrip));
});

setInterval(() => {
  if (live.socket && now() - heardAt > SILENCE_MS) {
    const dead = live.socket;
    lost();
    dead.close();
  } else if (live.you) ping();
}, PING_MS);

addEventListener("online", () => {
  if (!live.socket) connect();
});

show("connecting", "Connecting…");
