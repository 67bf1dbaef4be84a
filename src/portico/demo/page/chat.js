// The chat: rooms, who is in them, who is typing, what was said last. Over Socket.IO, in the namespace /chat.

import { begin, follow } from "./cut.js";
import { who } from "./house.js";
import { live } from "./live.js";
import { $, clock, count, fills, make, note, now, put, remembered, visitor } from "./words.js";
import { Socket } from "./socketio.js";

const ROOMS = ["lobby", "terrace", "library"];
const MOST_MESSAGES = 200;
const TYPING_EVERY_MS = 1500;
const TYPING_LASTS_MS = 3000;
const MOST_NAMES = 12;

let room = ROOMS.includes(location.hash.slice(1)) ? location.hash.slice(1) : ROOMS[0];
let people = new Map(); // those in the room: id -> name
let known = new Set(); // ids of the messages that are shown
let typedAt = -Infinity;
const typing = new Map(); // id -> its name, and when that ends

const name = () => $("name").value.trim();
live.name = name;

const chat = new Socket({
  url: `${fills.ws}/socket.io`,
  query: { visitor },
  namespace: "/chat",
  receive: {
    you(id) {
      who.id = id;
    },
    said(said) {
      if (said.room === room) add(said);
    },
    away(number, of, at) {
      aside(`While you were away, ${number} of ${of}`, at);
    },
    presence,
    counts: showCounts,
    typing: someoneTypes,
  },
  changed(state, { recovered }) {
    $("chat").dataset.state = state;
    $("send").setAttribute("aria-disabled", String(state !== "connected"));
    if (state === "connected" && !recovered) enter(room);
  },
});
follow(chat);

async function enter(next) {
  room = next;
  for (const tab of $("rooms").children) tab.setAttribute("aria-pressed", String(tab.dataset.room === room));
  try {
    const { counts, said } = await chat.ask("enter", room, name());
    if (room !== next) return;
    known = new Set();
    $("messages").replaceChildren();
    $("log-empty").hidden = false;
    put($("log-empty"), `Nothing was said in the ${room} yet. Yours could be the first.`);
    typing.clear();
    showTyping();
    showCounts(counts);
    said.forEach(add);
    $("log").scrollTop = $("log").scrollHeight;
  } catch (error) {
    note("say-note", error.message, true);
  }
}

// ---- what is said ----

function append(item) {
  const log = $("log");
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  $("messages").append(item);
  $("log-empty").hidden = true;
  if ($("messages").childElementCount > MOST_MESSAGES) $("messages").firstElementChild.remove();
  if (follows) log.scrollTop = log.scrollHeight;
}

function time(at) {
  const when = make("time", "", clock.format(at));
  when.dateTime = new Date(at).toISOString();
  return when;
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".");
const hue = (id) => [...id].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 360, 7);

function face(id, shown) {
  const mark = make("span", "face", [...shown.replace(/^guest /, "")][0]?.toUpperCase() ?? "?");
  mark.style.setProperty("--hue", hue(id));
  mark.setAttribute("aria-hidden", "true");
  return mark;
}

const called = (id, name) => name || `guest ${id.slice(0, 4)}`;

function add(said) {
  if (known.has(said.id)) return;
  known.add(said.id);
  typing.delete(said.by);
  showTyping();
  const mine = said.by === who.id;
  const item = make("li", mine ? "mine" : "");
  item.dataset.id = said.id;
  const head = make("div", "who");
  head.append(make("b", "", called(said.by, said.name) + (mine ? " (you)" : "")), time(said.at_ms));
  const body = make("div", "body");
  body.append(head, make("div", "what", said.text));
  item.append(face(said.by, called(said.by, said.name)), body);
  append(item);
}

function aside(text, at) {
  const item = make("li", "aside");
  item.append(make("span", "", text), time(at));
  append(item);
}

// ---- who is there ----

// All of it comes at first, as `members`; then who joined and who left.
function presence(told) {
  if (told.room !== room) return;
  if (told.members) people = new Map();
  for (const { user } of told.left ?? []) people.delete(user);
  for (const { user, info } of told.members ?? told.joined ?? []) people.set(user, info);
  const first = [...people].toSorted(([a], [b]) => (b === who.id) - (a === who.id));
  const items = first.slice(0, MOST_NAMES).map(([id, info]) => {
    const item = make("li", id === who.id ? "me" : "");
    item.append(face(id, called(id, info)), make("span", "name", called(id, info)));
    if (id === who.id) item.append(make("span", "quiet", "you"));
    return item;
  });
  if (told.count > items.length) items.push(make("li", "quiet", `and ${told.count - items.length} more`));
  $("people").replaceChildren(...items);
  put($("people-count"), count(told.count, "person", "people"));
}

function showCounts(counts) {
  for (const tab of $("rooms").children) {
    const there = counts[tab.dataset.room] ?? 0;
    put(tab.querySelector(".there"), String(there));
    tab.querySelector(".there").title = `${count(there, "person", "people")} there`;
  }
}

function someoneTypes(id, name) {
  typing.set(id, { name: called(id, name), until: now() + TYPING_LASTS_MS });
  showTyping();
  setTimeout(showTyping, TYPING_LASTS_MS + 50);
}

function showTyping() {
  for (const [id, { until }] of typing) if (until <= now()) typing.delete(id);
  const names = [...typing.values()].map((one) => one.name);
  const text = names.length > 2 ? `${names.length} people are typing` : `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} typing`;
  put($("typing"), names.length ? text : "");
}

// ---- what the visitor does ----

for (const each of ROOMS) {
  const tab = make("button");
  tab.type = "button";
  tab.dataset.room = each;
  tab.append(make("span", "", each), make("span", "there", "0"));
  tab.addEventListener("click", () => {
    if (each !== room && chat.connected) enter(each);
  });
  $("rooms").append(tab);
}

$("name").value = remembered("name");
$("name").addEventListener("change", () => {
  remembered("name", name());
  chat.ask("enter", room, name()).catch(() => {}); // it is told again with the next message
});

$("text").addEventListener("input", () => {
  if (!chat.connected || now() - typedAt < TYPING_EVERY_MS || !$("text").value) return;
  typedAt = now();
  chat.ask("typing", name()).catch(() => {});
});

$("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  remembered("name", name());
  try {
    const asked = chat.ask("say", text, name());
    if (chat.connected) {
      $("text").value = "";
      $("text").focus();
      typedAt = -Infinity;
    }
    const others = await asked;
    note("say-note", others ? `Delivered to ${count(others, "other", "others")} in the ${room}.` : `Nobody else is in the ${room} yet.`);
  } catch (error) {
    if (!$("text").value) $("text").value = text;
    note("say-note", `${sentence(error.message)} Your message is still here.`, true);
  }
});

$("cut").addEventListener("click", async () => {
  if (!chat.connected) return;
  begin();
  try {
    await chat.ask("cut");
  } catch (error) {
    if (chat.connected) note("say-note", sentence(error.message), true); // else it was cut before it could answer
  }
});

chat.open();
