// npm `socket.io` as a server for Portico's realtime client: says its port, and then one line of JSON for each thing that
// happened. Its one argument is JSON: {"port", "options": of socket.io, "tls": a file with a key and its certificate,
// "packets": "msgpack" for socket.io-msgpack-parser}.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { Server } from "socket.io";
import msgpack from "socket.io-msgpack-parser";

const { port = 0, options = {}, tls, packets } = JSON.parse(process.argv[2] || "{}");
if (packets === "msgpack") options.parser = msgpack;
const say = (...what) => process.stdout.write(JSON.stringify(what) + "\n");
const pem = tls && readFileSync(tls);
const server = tls ? https.createServer({ key: pem, cert: pem }) : http.createServer();
const io = new Server(server, options);
let sockets = [];
server.on("connection", (socket) => sockets.push(socket));

function serve(socket) {
  say("connect", socket.handshake.auth, socket.recovered, socket.handshake.query, socket.conn.transport.name);
  socket.on("disconnect", (reason) => say("disconnect", reason));
  socket.conn.on("upgrade", (transport) => say("upgrade", transport.name));
  socket.on("echo", (...args) => socket.emit("echo", ...args));
  socket.on("say", (...args) => say("say", ...args));
  socket.on("count", (n) => { for (let i = 0; i < n; i++) socket.emit("number", i); });
  socket.on("give", (...args) => args.pop()(...args)); // the acknowledgement is what came
  socket.on("silent", () => {});
  socket.on("join", (room, done) => { socket.join(room); done(); });
  socket.on("everyone", (...args) => io.emit("news", ...args));
  socket.on("later", (ms, ...args) => setTimeout(() => io.emit("news", ...args), ms));
  socket.on("volatile", (text) => socket.volatile.emit("fleeting", text));
  socket.on("ask", async (...args) => {
    try { say("answer", await socket.timeout(2000).emitWithAck("question", ...args)); }
    catch (error) { say("answer failed", error.message); }
  });
  socket.on("askRaw", (value) => socket.emit("question", value, (...values) => say("answers", ...values)));
  socket.on("kick", () => socket.disconnect());
  socket.on("kickAll", () => socket.disconnect(true));
  socket.on("cut", () => { for (const each of sockets) each.destroy(); sockets = []; });
}

io.use((socket, next) => {
  if (socket.handshake.auth.token !== "no") return next();
  const error = new Error("not you");
  error.data = { code: 7 };
  next(error);
});
io.on("connection", serve);
io.of("/admin").use((socket, next) => next(socket.handshake.auth.token === "admin" ? undefined : new Error("admins only")));
io.of("/admin").on("connection", serve);

process.stdin.on("data", (data) => {
  for (const line of data.toString().split("\n").filter(Boolean)) {
    const [what, ...args] = JSON.parse(line);
    if (what === "cut") { for (const each of sockets) each.destroy(); sockets = []; }
    else if (what === "emit") io.emit(...args);
  }
});
process.stdin.on("end", () => process.exit(0)).resume();
server.listen(port, "127.0.0.1", () => say(server.address().port));
