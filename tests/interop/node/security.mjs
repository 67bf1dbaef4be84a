// The official Socket.IO client with tickets, an identity that expires, and rates: node security.mjs URL TRANSPORTS.
// Prints one line of JSON with what it saw; a failure ends it with status 1.

import { io } from "socket.io-client";

const [url, transports] = process.argv.slice(2);
const options = { transports: transports.split(","), reconnectionDelay: 10, reconnectionDelayMax: 50, forceNew: true };
const next = (socket, event) => new Promise((resolve) => socket.once(event, (...args) => resolve(args)));
const fetchTicket = async () => (await fetch(url + "/ticket")).text();
const saw = {};

// a ticket by `auth`, asked for anew at each attempt: it also comes back after a cut
const socket = io(url, { ...options, auth: (give) => fetchTicket().then((ticket) => give({ ticket })) });
await next(socket, "connect");
saw.user = await socket.emitWithAck("who");
const back = next(socket, "connect");
socket.io.engine.close();
await back;
saw.again = await socket.emitWithAck("who");

// the same ticket a second time
const used = await fetchTicket();
const first = io(url, { ...options, auth: { ticket: used } });
await next(first, "connect");
const second = io(url, { ...options, auth: { ticket: used } });
const [error] = await next(second, "connect_error");
saw.used = [error.message, error.data];

// a ticket in the query
const query = io(url, { ...options, query: { ticket: await fetchTicket() } });
await next(query, "connect");
saw.query = await query.emitWithAck("who");

// more events than its rate allows
const acks = await Promise.all([1, 2, 3].map((n) => socket.emitWithAck("rare", n)));
saw.rate = acks.map((ack) => (ack?.error ? [ack.error, ack.data.code, ack.data.retry_after_s > 0] : ack));

// renewed in place with a new ticket, then expired
saw.renewed = await socket.emitWithAck("renew", await fetchTicket());
const told = next(socket, "identity_expired");
const gone = next(socket, "disconnect");
socket.emit("soon");
await told;
saw.gone = (await gone)[0];
socket.connect();
await next(socket, "connect");
saw.anew = await socket.emitWithAck("who");
console.log(JSON.stringify(saw));
process.exit(0);
