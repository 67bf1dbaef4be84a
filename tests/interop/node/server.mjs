// npm `ws` as a server: says its port, and then one line of JSON for each connection that has ended: [code, reason].
// It echoes; "close CODE REASON" makes it close, "ping" makes it ping and say "pong" when the answer is there.
import { WebSocketServer } from "ws";

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
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
    else ws.send(data, { binary });
  });
  ws.on("pong", () => ws.send("pong"));
  ws.on("close", (code, reason) => say([code, reason.toString()]));
});
process.stdin.on("end", () => process.exit(0)).resume();
