// Plain HTTP on the same port: a request every second, and a hundred at once.

import { ours, seen } from "./house.js";
import { live } from "./live.js";
import { $, count, millis, note, now, number, put, span } from "./words.js";

const BURST = 100;
const AT_ONCE = 6; // what browsers allow per host over HTTP/1.1
const latencies = [];
let answered = 0;

async function hello() {
  const begun = now();
  const response = await fetch("/hello", { cache: "no-store" });
  const text = await response.text();
  if (!response.ok) throw new Error(`answered ${response.status}`);
  const peer = text.match(/^Hello (\S{1,64}),/)?.[1];
  if (peer) ours.add(peer);
  answered += 1;
  return { text, ms: now() - begun };
}

function plot() {
  const usual = latencies.toSorted((a, b) => a - b)[Math.floor((latencies.length - 1) * 0.9)];
  const top = Math.max(5, usual * 1.6); // a rare slow answer is cut off rather than flattening all others
  const points = latencies.map((ms, i) => `${((i + 60 - latencies.length) / 59) * 300},${64 - Math.min(1, ms / top) * 64}`);
  const first = ((60 - latencies.length) / 59) * 300;
  $("spark").querySelector(".line").setAttribute("d", `M${points.join("L")}`);
  $("spark").querySelector(".area").setAttribute("d", `M${first},64L${points.join("L")}L300,64Z`);
  put($("spark-top"), `scale: 0 to ${millis(top)}`);
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

async function beat() {
  if (live.you && !document.hidden) {
    try {
      const { text, ms } = await hello();
      latencies.push(ms);
      if (latencies.length > 60) latencies.shift();
      put($("http-text"), text.trim());
      put($("http-latency"), millis(median(latencies.slice(-9))));
      plot();
    } catch {
      put($("http-text"), "no answer");
    }
  }
  put($("http-answered"), number.format(answered));
  put($("http-open"), live.openedAt ? `yours for ${span((now() - live.openedAt) / 1000)}` : "yours not now");
}

setInterval(beat, 1000);

let bursting = false;
$("burst").addEventListener("click", async () => {
  if (bursting) return;
  bursting = true;
  $("burst").setAttribute("aria-disabled", "true");
  const [begun, before, same] = [now(), answered, live.socket];
  let left = BURST;
  const worker = async () => {
    while (left-- > 0) {
      await hello();
      put($("http-answered"), number.format(answered));
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    const ms = now() - begun;
    const kept = same && same === live.socket ? `${count(seen.sockets, "WebSocket", "WebSockets")} stayed open.` : "";
    note("burst-note", `${BURST} answered in ${millis(ms)}, ${number.format(Math.round((BURST / ms) * 1000))}\u00a0a\u00a0second. ${kept}`);
  } catch {
    note("burst-note", `${answered - before} of ${BURST} were answered, then the server could not be reached.`, true);
  }
  $("burst").removeAttribute("aria-disabled");
  bursting = false;
});
