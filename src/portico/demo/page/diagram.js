// Time as a picture: above, what happened on the server; below, when this page had it. Each line is one thing on its way.

import { calm, now } from "./words.js";

const FRAME_MS = 33;
const CALM_FRAME_MS = 1000;
const EDGE = 6;
const KEPT = 1200;

const timelines = new Set();

export class Timeline {
  /** `span`: ms from the left end to the right one, which is now. `hue`: the name of a colour in the style sheet. */
  constructor(canvas, { span, hue }) {
    Object.assign(this, { canvas, span, hue });
    this.lines = [];
    this.ticks = [];
    this.gaps = [];
    this.visible = false;
    this.drawnAt = 0;
    new IntersectionObserver(([seen]) => {
      this.visible = seen.isIntersecting;
    }).observe(canvas);
    timelines.add(this);
  }

  /** Something that happened at `from` was here at `to`, both as `now` tells time. */
  line(from, to) {
    this.lines.push({ from, to });
    if (this.lines.length > KEPT) this.lines.splice(0, KEPT / 4);
  }

  /** The page has asked. */
  tick(at = now()) {
    this.ticks.push(at);
    if (this.ticks.length > KEPT) this.ticks.splice(0, KEPT / 4);
  }

  /** From here on there is no connection; `mend` ends that. */
  tear(at = now()) {
    this.gaps = [...this.gaps.slice(-8), { from: at, to: null }];
  }

  mend(at = now()) {
    const last = this.gaps.at(-1);
    if (last) last.to ??= at;
  }

  draw(time) {
    const { canvas, span } = this;
    const scale = devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const style = getComputedStyle(canvas);
    const [hue, soft, bad] = [this.hue, "--line-strong", "--bad"].map((name) => style.getPropertyValue(name));
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const x = (at) => width - EDGE - ((time - at) / span) * (width - EDGE);
    const [top, bottom] = [EDGE, height - EDGE];
    const since = time - span * 1.1;

    context.lineWidth = 1;
    path(context, soft, [[0, top, width - EDGE, top]]);
    path(context, soft, this.ticks.filter((at) => at > since).map((at) => [x(at), bottom, x(at), bottom + EDGE - 1]));
    context.lineWidth = 2;
    path(context, hue, whole(this.gaps, since, time).map(([from, to]) => [x(from), bottom, x(to), bottom]));
    context.setLineDash([2, 4]);
    path(context, bad, this.gaps.map(({ from, to }) => [x(from), bottom, x(to ?? time), bottom]));
    context.setLineDash([]);
    context.lineWidth = 1.25;
    const lines = this.lines.filter(({ to }) => to > since);
    context.globalAlpha = lines.length > 150 ? 0.35 : 0.6;
    path(context, hue, lines.map(({ from, to }) => [x(from), top, x(to), bottom]));
    context.globalAlpha = 1;
    const small = lines.length > 150;
    dots(context, soft, lines.map(({ from }) => [x(from), top]), small ? 1.2 : 2);
    dots(context, hue, lines.map(({ to }) => [x(to), bottom]), small ? 1.8 : 3);
  }
}

function path(context, colour, segments) {
  context.strokeStyle = colour;
  context.beginPath();
  for (const [x1, y1, x2, y2] of segments) {
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
  }
  context.stroke();
}

function dots(context, colour, places, radius) {
  context.fillStyle = colour;
  context.beginPath();
  for (const [x, y] of places) {
    context.moveTo(x + radius, y);
    context.arc(x, y, radius, 0, 2 * Math.PI);
  }
  context.fill();
}

/** The stretches between gaps. */
function whole(gaps, since, time) {
  const stretches = [];
  let from = since;
  for (const gap of gaps) {
    if (gap.from > from) stretches.push([from, gap.from]);
    from = gap.to ?? Infinity;
  }
  if (from < time) stretches.push([from, time]);
  return stretches;
}

function frame(time) {
  for (const timeline of timelines) {
    if (time - timeline.drawnAt < (timeline.visible && !calm.matches ? FRAME_MS : CALM_FRAME_MS)) continue;
    timeline.drawnAt = time;
    timeline.draw(time);
  }
  requestAnimationFrame(frame);
}

requestAnimationFrame(frame);
