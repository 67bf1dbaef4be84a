// The official Socket.IO client against Portico's Realtime: node official.mjs URL TRANSPORTS ("polling,websocket").
// Prints one line of JSON with what it saw; a failure ends it with status 1.

import { io } from "socket.io-client";

const [url, transports] = process.argv.slice(2);
const options = { transports: transports.split(","), reconnectionDelay: 10, reconnectionDelayMax: 50, forceNew: true };
const saw = {};
const next = (socket, event) => new Promise((resolve) => socket.once(event, (...args) => resolve(args)));
const upgraded = async (socket) => {
  const engine = socket.io.engine;
  if (transports.includes("websocket") && engine.transport.name !== "websocket") {
    await new Promise((resolve) => engine.once("upgrade", resolve));
  }
  return engine.transport.name;
};

// turned away, with data; and a namespace that is not there
const refused = io(url, { ...options, auth: { token: "wrong" } });
const [why] = await next(refused, "connect_error");
saw.refused = [why.message, why.data];
const [nowhere] = await next(io(url + "/nowhere", options), "connect_error");
saw.nowhere = nowhere.message;

// let in
const socket = io(url, { ...options, auth: { token: "right" } });
const events = [];
socket.onAny((event, ...args) => events.push([event, ...args]));
const hello = next(socket, "hello");
await next(socket, "connect");
saw.recovered = [socket.recovered];
saw.hello = (await hello)[0] === socket.id;
saw.transport = await upgraded(socket);

// acknowledgements both ways, several values, binary anywhere, errors
saw.sum = await socket.emitWithAck("add", 2, 3);
saw.values = await new Promise((resolve) => socket.emit("values", "é", null, (...args) => resolve(args)));
const back = await socket.emitWithAck("echo", { a: [Buffer.from([1, 2]), { b: Buffer.from([]) }], c: "€" });
saw.binary = [[...back.a[0]], [...back.a[1].b], back.c];
saw.error = await socket.emitWithAck("fail");
saw.ordered = await Promise.all([...Array(100).keys()].map((n) => socket.emitWithAck("count", n)));
socket.on("question", (value, answer) => answer(value + 1, Buffer.from([7])));
saw.asked = await socket.emitWithAck("ask", 41);
try {
  await socket.timeout(50).emitWithAck("never");
} catch (error) {
  saw.timeout = error.message;
}
const big = "x".repeat(300000);
saw.big = (await socket.emitWithAck("echo", big)) === big;

// namespaces on the same connection
const admin = socket.io.socket("/admin", { auth: {} });
const room = socket.io.socket("/room-7", { auth: {} });
await Promise.all([next(admin, "connect"), next(room, "connect")]);
saw.namespaces = [await admin.emitWithAck("where"), await room.emitWithAck("where")];
saw.kinds = new Set([socket.id, admin.id, room.id]).size;
const gone = next(admin, "disconnect");
admin.emit("leave");
saw.left = (await gone)[0];
room.disconnect();

// the connection breaks: identity, rooms and what was missed come back
events.length = 0;
const before = socket.id;
const last = next(socket, "last");
await socket.emitWithAck("ready");
socket.io.engine.close();
await last;
saw.recovered.push(socket.recovered, socket.id === before);
saw.missed = events.filter(([event]) => event === "missed").map(([, n]) => n);
saw.still = await socket.emitWithAck("rooms");
console.log(JSON.stringify(saw));
process.exit(0);
