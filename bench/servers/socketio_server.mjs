// npm's socket.io: what portico_realtime_server.py serves, for comparison. node socketio_server.mjs PORT

import { createServer } from "node:http";
import { createRequire } from "node:module";

const { Server } = createRequire(new URL("../../tests/interop/node/package.json", import.meta.url))("socket.io");

const server = createServer();
const io = new Server(server);

io.on("connection", (socket) => {
  socket.on("join", () => socket.join("room"));
  socket.on("echo", (text) => socket.emit("echo", text));
  socket.on("broadcast", (text) => io.to("room").emit("broadcast", text));
});
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 1024 });
