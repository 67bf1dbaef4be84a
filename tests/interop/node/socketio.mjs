// npm's socket.io-client against a Socket.IO server: node socketio.mjs URL TRANSPORTS ("polling,websocket", "websocket").
// Prints one line of JSON with what it saw; a failure ends it with status 1.

import { io } from "socket.io-client";

const [url, transports] = process.argv.slice(2);
const socket = io(url, { transports: transports.split(","), auth: { token: "right" }, reconnection: false });
const saw = {};

const next = (event) => new Promise((resolve) => socket.once(event, (...args) => resolve(args)));
socket.on("connect_error", (error) => {
  console.error(error);
  process.exit(1);
});

await next("connect");
const engine = socket.io.engine;
if (transports.includes("websocket") && engine.transport.name !== "websocket") {
  await new Promise((resolve) => engine.once("upgrade", resolve));
}
saw.last = socket.io.engine.transport.name;
saw.answer = await socket.emitWithAck("add", 2, 3);
saw.binary = Array.from(await socket.emitWithAck("bytes", Buffer.from([0, 1, 255])));
const told = next("told");
socket.emit("tell", "room", "héllo €");
saw.told = await told;
const big = "x".repeat(200000);
saw.big = (await socket.emitWithAck("echo", big)) === big;
const gone = next("disconnect");
socket.emit("leave");
saw.gone = (await gone)[0];
console.log(JSON.stringify(saw));
process.exit(0); // a poll may still be under way
