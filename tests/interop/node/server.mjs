// npm `ws` as a server: says its port, and then one line of JSON for each connection that has ended: [code, reason].
// It echoes; "close CODE REASON" makes it close, "ping" makes it ping and say "pong" when the answer is there, "fragments"
// send "one message" in three frames.
// Over TLS, if its argument names a file with a key and its certificate.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { WebSocketServer } from "ws";

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");

const pem = process.argv[2] && readFileSync(process.argv[2]);
const tls = pem && createServer({ key: pem, cert: pem }).listen(0, "127.0.0.1");
const server = new WebSocketServer({
  ...(tls ? { server: tls } : { host: "127.0.0.1", port: 0 }),
  perMessageDeflate: { threshold: 1024 },
  handleProtocols: (names) => (names.has("chat.v2") ? "chat.v2" : false),
  verifyClient: ({ req }, answer) => answer(req.url !== "/no", 403, "not here"),
});
server.on("listening", () => say(server.address().port));
server.on("connection", (ws) => {
  ws.on("message", (data, binary) => {
    const text = binary ? "" : data.toString();
    const [act, code, reason] = text.split(" ");
    if (act === "close") ws.close(Number(code), reason);
    else if (act === "ping") ws.ping("are you there?");
    else if (act === "fragments") ["one ", "mess", "age"].forEach((piece, n) => ws.send(piece, { fin: n === 2 }));
    else ws.send(data, { binary });
  });
  ws.on("pong", () => ws.send("pong"));
  ws.on("close", (code, reason) => say([code, reason.toString()]));
});
process.stdin.on("end", () => process.exit(0)).resume();
