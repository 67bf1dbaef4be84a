// What became of the chat's connection: each cut, what was missed, and whether all of that came, in order and once.

import { Timeline } from "./diagram.js";
import { serverNow } from "./live.js";
import { $, clock, count, millis, now, put } from "./words.js";

const PAGE_WAITS_MS = 2600; // after a cut that was asked for: what happens meanwhile is what there is to miss
const SHOWN_MS = 20_000;
const SETTLED_MS = 350; // after coming back, until what was missed is counted
const MESSAGES = ["said", "away"];

const strip = new Timeline($("strip"), { span: SHOWN_MS, hue: "--ws-light" });
let chat = null;
let wanted = false; // whether the visitor asked for the cut
let lostAt = null;
let place = null; // in the history: epoch and number of the last event
let wrong = 0; // events that came twice, or not in order, since the cut
let missed = 0;

/** Watch this connection. */
export function follow(socket) {
  chat = socket;
  const { receive, changed } = socket;
  for (const name of MESSAGES) {
    const before = receive[name];
    receive[name] = (...args) => {
      arrived(name === "said" ? args[0].at_ms : args[2]);
      before(...args);
    };
  }
  receive["*"] = (event, at) => {
    if (MESSAGES.includes(event)) check(at);
  };
  socket.changed = (state, details) => {
    if (state === "waiting") gone(details.was);
    else returned(details.recovered);
    changed(state, details);
  };
}

/** The visitor wants it cut. */
export function begin() {
  wanted = true;
  chat.waitAtLeast = PAGE_WAITS_MS;
  verdict("waiting", "Cutting…");
}

function arrived(serverTime) {
  const ahead = serverNow(0);
  const at = now();
  const made = ahead === null ? at : Math.min(at, serverTime - ahead);
  if (at - made < SHOWN_MS) strip.line(made, at); // an older one is history, not news
  if (lostAt !== null) missed += made < lostAt.back;
}

/** Each place is after the one before it: `epoch:number`. */
function check(at) {
  if (!at) return;
  const [epoch, digits] = at.split(":");
  const next = Number(digits);
  if (place && place.epoch === epoch && next <= place.next) wrong += 1;
  place = { epoch, next };
}

function gone(was) {
  if (!was) return;
  lostAt = { from: now(), back: Infinity };
  wrong = missed = 0;
  strip.tear();
  const what = wanted ? "The server has cut your connection" : "The connection broke";
  verdict("waiting", `${what} at ${clock.format(Date.now())}. Coming back…`);
}

function returned(recovered) {
  strip.mend();
  wanted = false;
  if (lostAt === null) verdict("", "Connected over WebSocket.");
  else {
    lostAt.back = now();
    setTimeout(judge, SETTLED_MS, lostAt, recovered);
  }
}

function judge(of, recovered) {
  if (lostAt !== of || !chat.connected) return;
  lostAt = null;
  const took = `Away for ${millis(of.back - of.from)}`;
  if (!recovered) {
    verdict("bad", `Reconnected anew. ${took}: more than the server remembers, so the room was fetched again.`);
  } else if (wrong) verdict("bad", `Reconnected. ${took}: ${count(wrong, "event", "events")} came twice or out of order.`);
  else if (missed) {
    verdict("good", `Reconnected, nothing missed. ${took}: ${count(missed, "message", "messages")} sent meanwhile came in order, none doubled.`);
  } else verdict("good", `Reconnected, nothing missed. ${took}: nothing was sent meanwhile.`);
}

function verdict(kind, text) {
  $("verdict").className = `verdict ${kind}`;
  put($("verdict"), text);
}
