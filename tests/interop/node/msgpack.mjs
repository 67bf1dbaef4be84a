// The official Socket.IO client in Node with npm's socket.io-msgpack-parser: node msgpack.mjs URL TRANSPORTS, as official.mjs.

import { readFileSync } from "node:fs";
import { io as plain } from "socket.io-client";
import parser from "socket.io-msgpack-parser";
import { run } from "./features.mjs";

const [url, transports] = process.argv.slice(2);
const io = (to, options) => plain(to, { ...options, parser });
const { version } = JSON.parse(readFileSync(new URL("node_modules/socket.io-client/package.json", import.meta.url)));
const saw = await run(io, url, transports, version);

// what JSON does not have: undefined, a Date, typed arrays
const socket = io(url, { transports: ["websocket"], auth: {} });
const values = [undefined, new Date(86400000), new Uint8Array(8), new Uint8Array([0]).buffer, 2 ** 40, -1.5, NaN];
saw.own = await new Promise((resolve) => socket.emit("values", ...values, (...args) => resolve(args)));
console.log(JSON.stringify(saw));
process.exit(0);
