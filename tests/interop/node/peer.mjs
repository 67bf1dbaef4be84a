// npm `ws` as a peer, driven over stdio: one JSON line in is one act on connection `id`, one JSON line out one event.
// Messages travel as {text} or {base64}.
import { createInterface } from "node:readline";
import WebSocket from "ws";

const sockets = new Map();
const tell = (event) => process.stdout.write(JSON.stringify(event) + "\n");

const acts = {
  open({ id, url, protocols }) {
    const ws = new WebSocket(url, protocols, { perMessageDeflate: true, maxPayload: 4 * 1024 * 1024 });
    sockets.set(id, ws);
    const say = (kind, more) => tell({ id, kind, ...more });
    ws.on("open", () =>
      say("open", { subprotocol: ws.protocol, extensions: ws.extensions, port: ws._socket.localPort }),
    );
    ws.on("message", (data, binary) =>
      say("message", binary ? { base64: data.toString("base64") } : { text: data.toString() }),
    );
    ws.on("pong", (data) => say("pong", { text: data.toString() }));
    ws.on("close", (code, reason) => {
      sockets.delete(id);
      say("close", { code, reason: reason.toString() });
    });
    ws.on("error", (error) => say("error", { text: String(error) }));
  },
  send({ id, text, base64 }) {
    sockets.get(id).send(base64 === undefined ? text : Buffer.from(base64, "base64"));
  },
  ping({ id, text }) {
    sockets.get(id).ping(text);
  },
  close({ id, code, reason }) {
    sockets.get(id).close(code, reason);
  },
  reset({ id }) {
    if (sockets.has(id)) sockets.get(id)._socket.resetAndDestroy();
    else tell({ id, kind: "close", code: 1006, reason: "" });
  },
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const act = JSON.parse(line);
  acts[act.do](act);
});
lines.on("close", () => process.exit(0));
