// The official Socket.IO client in Node: node official.mjs PACKAGE URL TRANSPORTS. PACKAGE is its name in node_modules;
// TRANSPORTS "default", or like "polling,websocket". Prints one line of JSON with what it saw.

import { readFileSync } from "node:fs";
import { run } from "./features.mjs";

const [name, url, transports] = process.argv.slice(2);
const { io } = await import(name);
const { version } = JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url)));
console.log(JSON.stringify(await run(io, url, transports, version)));
process.exit(0);
