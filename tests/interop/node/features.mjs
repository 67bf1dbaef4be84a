// Every feature of the official Socket.IO client against Portico's Realtime, in Node and in a page: the same code.
// `run` is given the client library, and returns what it saw; test_official_client.py has what it must see.

const next = (socket, event) => new Promise((resolve) => socket.once(event, (...args) => resolve(args)));
const ask = (socket, event, ...args) =>
  new Promise((resolve) => socket.emit(event, ...args, (...values) => resolve(values.length > 1 ? values : values[0])));
// the arguments of an event: with recovery its place in the history comes behind them
const args = (came) => came.slice(0, -1);
const bytes = (data) => [...new Uint8Array(data)];
const plain = (value) => {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return { bytes: bytes(value) };
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item)]));
};

export async function run(io, url, transports, library) {
  const options = { reconnectionDelay: 10, reconnectionDelayMax: 50, forceNew: true };
  if (transports !== "default") options.transports = transports.split(",");
  const open = (namespace, auth) => io(url + namespace, { ...options, auth });
  const saw = { library };

  await refusals(open, saw);

  // let in: auth may be a function, which is asked again before each attempt
  let asked = 0;
  const socket = open("/", (answer) => answer({ token: "right", asked: ++asked }));
  const hello = next(socket, "hello");
  await next(socket, "connect");
  saw.hello = (await hello)[0] === socket.id;
  saw.transport = await settled(socket, transports);

  await acknowledgements(socket, saw);
  await binary(socket, saw);
  await timeouts(socket, saw);
  await namespaces(socket, saw);
  await rooms(socket, open, saw);
  await volatile(socket, saw);
  await partings(socket, saw);
  await comingBack(socket, saw);
  saw.asked = asked;
  socket.disconnect();
  return saw;
}

// where the connection is, once it is where it is going to be
async function settled(socket, transports) {
  const engine = socket.io.engine;
  if (transports === "default" && engine.transport.name !== "websocket") {
    await new Promise((resolve) => engine.once("upgrade", resolve));
  }
  return engine.transport.name;
}

async function refusals(open, saw) {
  const middleware = open("/", { token: "wrong" });
  const [why] = await next(middleware, "connect_error");
  saw.refused = [why.message, why.data];
  middleware.auth = { token: "late" };
  middleware.connect();
  const [handler] = await next(middleware, "connect_error");
  saw.refusedLate = [handler.message, handler.data ?? null];
  middleware.auth = { token: "right" };
  middleware.connect();
  await next(middleware, "connect");
  saw.thirdTime = middleware.connected;
  middleware.disconnect();
  const nowhere = open("/nowhere", {});
  saw.nowhere = (await next(nowhere, "connect_error"))[0].message;
  nowhere.disconnect();
}

async function acknowledgements(socket, saw) {
  saw.sum = await ask(socket, "add", 2, 3);
  saw.values = await ask(socket, "values", "é", null, { "": [1.5, true] });
  saw.nothing = (await ask(socket, "nothing")) === undefined;
  saw.error = await ask(socket, "fail");
  saw.middleware = await ask(socket, "forbidden", 1);
  saw.unknown = (await ask(socket, "nobody knows this")).error;
  saw.ordered = await Promise.all([...Array(100).keys()].map((n) => ask(socket, "count", n)));
  socket.on("question", (value, answer) => answer(value + 1, new Uint8Array([7])));
  saw.questioned = await ask(socket, "ask", 41);
  const big = "x€".repeat(100000);
  saw.big = (await ask(socket, "echo", big)) === big;
}

async function binary(socket, saw) {
  const value = { a: [new Uint8Array([1, 2]), { b: new Uint8Array([]) }], c: new Uint8Array([0, 255]).buffer, d: "€" };
  saw.binary = plain(await ask(socket, "echo", value));
  const came = next(socket, "pieces");
  socket.emit("send pieces");
  saw.pieces = plain(args(await came));
  const large = new Uint8Array(300000).map((_, n) => n);
  const back = bytes(await ask(socket, "echo", large));
  saw.large = back.length === large.length && back.every((byte, n) => byte === large[n]);
  if (typeof window !== "undefined") saw.blob = plain(await ask(socket, "echo", new Blob(["blob"])));
}

async function timeouts(socket, saw) {
  if (socket.timeout) {  // since 4.4
    saw.timeout = await new Promise((resolve) => socket.timeout(50).emit("never", (error) => resolve(error.message)));
    saw.inTime = await new Promise((resolve) => socket.timeout(5000).emit("add", 1, 1, (...came) => resolve(came)));
  }
  if (socket.emitWithAck) saw.awaited = await socket.emitWithAck("add", 20, 22);  // since 4.6
  socket.on("unanswered", () => {});
  saw.serverTimeout = await ask(socket, "ask in vain");
}

async function namespaces(socket, saw) {
  const admin = socket.io.socket("/admin", { auth: {} });
  const room = socket.io.socket("/room-7", { auth: {} });
  await Promise.all([next(admin, "connect"), next(room, "connect")]);
  saw.namespaces = [await ask(admin, "where"), await ask(room, "where")];
  saw.ids = new Set([socket.id, admin.id, room.id]).size;
  const strays = [];
  for (const other of [socket, room]) other.on("to admins", () => strays.push(other.nsp));
  const told = next(admin, "to admins");
  await ask(admin, "tell admins");
  saw.admins = args(await told);
  await ask(room, "where");
  saw.strays = strays;
  const gone = next(admin, "disconnect");
  admin.emit("leave");
  saw.left = (await gone)[0];
  saw.stays = [socket.connected, room.connected, admin.connected];
  admin.connect();  // by hand, as the documentation says
  await next(admin, "connect");
  saw.again = await ask(admin, "where");
  admin.disconnect();
  room.disconnect();
}

async function rooms(socket, open, saw) {
  const other = open("/", { token: "right" });
  await next(other, "connect");
  const log = { socket: [], other: [] };
  socket.on("news", (n) => log.socket.push(n));
  other.on("news", (n) => log.other.push(n));
  await ask(socket, "join", "x");
  await ask(other, "join", "x");
  saw.inRoom = await ask(socket, "who", "x");
  await ask(socket, "publish", "x", socket.id);  // 1 to all, 2 to x, 3 to x but socket, 4 by socket to the others
  await ask(other, "leave", "x");
  await ask(socket, "publish", "x", socket.id);
  await Promise.all([ask(socket, "nothing"), ask(other, "nothing")]);
  saw.news = log;
  saw.answers = await ask(socket, "ask all", "x");
  other.disconnect();
}

async function volatile(socket, saw) {
  const came = next(socket, "now");
  const again = setInterval(() => socket.volatile.emit("volatile please"), 10);  // dropped while the client is busy
  saw.volatile = args(await came);
  clearInterval(again);
}

async function partings(socket, saw) {
  saw.reason = [];
  let gone = next(socket, "disconnect");
  socket.disconnect();
  saw.reason.push((await gone)[0]);
  socket.connect();
  await next(socket, "connect");
  gone = next(socket, "disconnect");
  socket.emit("throw me out");
  saw.reason.push((await gone)[0]);
  socket.connect();
  await next(socket, "connect");
}

// the connection breaks: identity, rooms and what was missed come back, where the client knows how (since 4.6)
async function comingBack(socket, saw) {
  const missed = [];
  socket.on("missed", (n) => missed.push(n));
  saw.recovered = [];
  for (const cut of ["ours", "theirs"]) {
    const before = socket.id;
    await ask(socket, "ready");
    const back = next(socket, "connect");
    const last = socket.recovered === undefined ? back : next(socket, "last");
    if (cut === "ours") socket.io.engine.close();
    else socket.emit("cut me");
    await Promise.all([back, last]);
    saw.recovered.push([socket.recovered ?? null, socket.id === before]);
  }
  saw.missed = missed;
  saw.still = await ask(socket, "state");
}
