// Words, numbers and the document. Whatever came from a visitor reaches the document through textContent alone.

export const $ = (id) => document.getElementById(id);
export const calm = matchMedia("(prefers-reduced-motion: reduce)");
export const now = () => performance.now();

export const number = new Intl.NumberFormat("en");
export const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function bytes(n) {
  if (n < 1000) return `${n} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    n /= 1000;
    if (n < 999.5 || unit === "GB") return `${n < 9.95 ? n.toFixed(1) : Math.round(n)} ${unit}`;
  }
}

export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")}`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}`;
}

export function millis(ms) {
  if (ms == null) return "–";
  if (ms >= 999.5) return `${(ms / 1000).toFixed(1)}\u00a0s`;
  return `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)}\u00a0ms`;
}

export const host = (name) => (name.includes(":") ? `[${name}]` : name);
export const count = (n, one, many) => `${number.format(n)}\u00a0${n === 1 ? one : many}`;

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const secure = location.protocol === "https:";
export const fills = {
  port: location.port || (secure ? "443" : "80"),
  http: location.origin,
  ws: `${secure ? "wss" : "ws"}://${location.host}`,
};
for (const element of document.querySelectorAll("[data-fill]")) element.textContent = fills[element.dataset.fill];

export function note(id, text, bad = false) {
  put($(id), text);
  $(id).classList.toggle("bad", bad);
}

/** A key of this page; with a name, of this browser. Lower-case letters and digits. */
export function key(name) {
  const made = Array.from(crypto.getRandomValues(new Uint8Array(10)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return name ? remembered(name) || remembered(name, made) || made : made;
}

export function remembered(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(`portico-demo-${name}`) ?? "";
    localStorage.setItem(`portico-demo-${name}`, value);
    return value;
  } catch {
    return ""; // storage may be forbidden: it is then asked, or made, anew
  }
}

export const visitor = key("visitor");
