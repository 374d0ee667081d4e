"use strict";
// Draws what a pane shows of a tree. Each frame costs what is on the screen, whatever the tree holds: of each depth only
// the rows in sight are touched, and of rows that fall on one pixel one is drawn.

const READABLE = 0.42; // scale from which texts are drawn
const SHADES = 32;
const MOST_MARKS = 5000; // matches that are drawn apart from what shares their pixels
const FONT = "12px system-ui, sans-serif";

/** Colours of the theme in use, read once for each theme. */
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["paper", "ink", "faint", "edge", "path", "accent", "bad", "match", "low", "high", "odd"];
  const theme = Object.fromEntries(names.map((name) => [name, color(name)]));
  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [low, high] = [channels(theme.low), channels(theme.high)];
  theme.shades = Array.from({ length: SHADES + 1 }, (_, i) => {
    const mixed = low.map((from, c) => Math.round(from + ((high[c] - from) * i) / SHADES));
    return `rgb(${mixed.join(",")})`;
  });
  return theme;
}

function shadeOf(theme, value) {
  if (!(value >= -Infinity)) return theme.odd; // NaN
  return theme.shades[Math.round(SHADES * Math.min(1, Math.max(0, value)))];
}

/** Rectangles of one colour each, in an image of its own: for thousands of them far faster than a 2D context. */
class Bars {
  constructor() {
    this.colors = new Map(); // a text of CSS: the pixel
    this.image = null;
  }

  /** A clean image of so many CSS pixels. */
  begin(width, height, ratio, paper) {
    const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
    if (this.image?.width !== w || this.image.height !== h) {
      this.image = new ImageData(w, h);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    this.ratio = ratio;
    this.pixels.fill(this.pixelOf(paper));
  }

  set fillStyle(color) {
    this.pixel = this.pixelOf(color);
  }

  pixelOf(color) {
    let pixel = this.colors.get(color);
    if (pixel === undefined) {
      const hex = /^#(..)(..)(..)$/.exec(color);
      const [r, g, b] = hex ? hex.slice(1).map((part) => parseInt(part, 16)) : color.match(/\d+/g).map(Number);
      pixel = new Uint32Array(new Uint8Array([r, g, b, 255]).buffer)[0];
      this.colors.set(color, pixel);
    }
    return pixel;
  }

  fillRect(x, y, width, height) {
    const { ratio, pixels, pixel } = this;
    const { width: w, height: h } = this.image;
    const left = Math.max(0, Math.round(x * ratio));
    const right = Math.min(w, Math.round((x + width) * ratio));
    const bottom = Math.min(h, Math.round((y + height) * ratio));
    if (right <= left) return;
    for (let row = Math.max(0, Math.round(y * ratio)); row < bottom; row++) {
      const begin = row * w;
      if (right - left === 1) pixels[begin + left] = pixel;
      else pixels.fill(pixel, begin + left, begin + right);
    }
  }
}

class Painter {
  /** `pane`: {search, replay, layout, view: {x, y, scale}, selected, matches}. */
  constructor(pane) {
    this.pane = pane;
    this.short = []; // labels that fit a box
    this.bars = new Bars();
  }

  /** One frame into a 2D context of so many CSS pixels. Returns how many places were drawn. */
  draw(context, width, height, ratio, theme) {
    const { view, layout } = this.pane;
    const readable = view.scale >= READABLE;
    const surface = readable ? context : this.bars;
    if (readable) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.fillStyle = theme.paper;
      context.fillRect(0, 0, width, height);
    } else this.bars.begin(width, height, ratio, theme.paper);
    const { search } = this.pane;
    this.path = new Set([0, ...search.header.path]);
    this.pathAt = []; // by depth
    for (const node of search.header.path) (this.pathAt[search.depths[node]] ??= []).push(node);
    this.there = this.pane.replay.nodesThere;
    const { scale } = view;
    const { across } = this.pane;
    const first = Math.max(0, Math.floor((-view.x - BOX.width * across - 60) / (COLUMN * across)));
    const last = Math.min(layout.columns.length - 1, Math.ceil((width - view.x) / (COLUMN * across)));
    const spans = [];
    for (let depth = first; depth <= last; depth++) spans.push([depth, ...this.inSight(depth, height)]);
    const step = scale * ROW;
    for (const [depth, from, to] of spans) if (depth) this.drawEdges(surface, depth, from, to, height, step, theme);
    let drawn = 0;
    if (readable) {
      context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * view.x, ratio * view.y);
      context.font = FONT;
      context.textBaseline = "middle";
      context.direction = "ltr";
      for (const [depth, from, to] of spans) {
        for (let i = from; i < to; i++) drawn += this.drawBox(context, layout.columns[depth][i], theme);
      }
    } else {
      for (const [depth, from, to] of spans) drawn += this.drawDots(surface, depth, from, to, step, theme);
      this.drawMarks(surface, theme);
      context.putImageData(this.bars.image, 0, 0);
    }
    return drawn;
  }

  inSight(depth, height) {
    const { view, layout } = this.pane;
    const heights = layout.heights[depth];
    const from = firstBelow(heights, (-view.y - ROW) / view.scale - ROW);
    const to = firstBelow(heights, (height - view.y + ROW) / view.scale + ROW);
    return [from, to];
  }

  isThere(place) {
    return place.data.id < this.there;
  }

  /** The place after this one to draw: the next, or the first that does not fall on the same row of pixels. */
  after(depth, i, y, step) {
    if (step >= 2) return i + 1;
    const { view, layout } = this.pane;
    return firstBelow(layout.heights[depth], (y + 0.5 - view.y) / view.scale, i + 1);
  }

  drawEdges(context, depth, from, to, height, step, theme) {
    const { view, layout, across } = this.pane;
    const { scale } = view;
    const column = layout.columns[depth];
    const thick = scale >= READABLE ? Math.max(1, Math.round(scale)) : 1;
    const left = Math.round(view.x + ((depth - 1) * COLUMN + BOX.width) * across);
    const right = Math.round(view.x + depth * COLUMN * across);
    const middle = Math.round((left + right) / 2);
    const rowOf = (place) => Math.round(view.y + place.x * scale);
    const trunk = (a, b, wide) => {
      const [low, high] = [Math.max(-4, Math.min(a, b)), Math.min(height + 4, Math.max(a, b))];
      if (high >= low) context.fillRect(middle, low, wide, high - low + wide);
    };
    const whole = (place, y, wide) => {
      const top = rowOf(place.parent);
      trunk(y, top, wide);
      if (top >= -4 && top <= height + 4) context.fillRect(left, top, middle - left, wide);
    };
    context.fillStyle = theme.edge;
    // One more at each side: the nearest beyond the screen has the trunk that crosses it.
    const end = Math.min(column.length, to + 1);
    let before = null;
    let y = 0;
    for (let i = Math.max(0, from - 1); i < end; ) {
      const place = column[i];
      if (!this.isThere(place)) {
        i++;
        continue;
      }
      // Between the first and the last of its children a parent's trunk is drawn piece by piece.
      const above = y;
      y = rowOf(place);
      if (before?.parent === place.parent) trunk(above, y, thick);
      else {
        if (before) whole(before, above, thick);
        whole(place, y, thick);
      }
      context.fillRect(middle, y, right - middle, thick);
      before = place;
      i = this.after(depth, i, y, step);
    }
    if (before) whole(before, y, thick);
    context.fillStyle = theme.path;
    for (const node of this.pathAt[depth] ?? []) {
      const place = layout.of.get(node);
      if (!place || !this.isThere(place)) continue;
      y = rowOf(place);
      whole(place, y, thick + 1);
      context.fillRect(middle, y, right - middle, thick + 1);
    }
  }

  drawDots(context, depth, from, to, step, theme) {
    const { view, layout, search, across } = this.pane;
    const column = layout.columns[depth];
    const x = Math.round(view.x + depth * COLUMN * across);
    const wide = Math.max(1, Math.round(BOX.width * across));
    const high = Math.max(1, Math.round(BOX.height * view.scale));
    let drawn = 0;
    for (let i = from; i < to; ) {
      const { id } = column[i].data;
      if (!this.isThere(column[i])) {
        i++;
        continue;
      }
      const y = Math.round(view.y + column[i].x * view.scale);
      const mark = this.pane.matches.has(id) ? theme.match : null;
      context.fillStyle = mark ?? (id < 0 ? theme.faint : shadeOf(theme, search.values[id]));
      context.fillRect(x, y - (high >> 1), wide, high);
      drawn++;
      i = this.after(depth, i, y, step);
    }
    return drawn;
  }

  /** What must be seen among dots, whichever of them share a row of pixels. */
  drawMarks(context, theme) {
    const { view, layout, selected, matches, replay, across } = this.pane;
    const high = Math.max(3, Math.round(BOX.height * view.scale) + 2);
    const wide = Math.max(3, Math.round(BOX.width * across) + 2);
    const mark = (node, color) => {
      const place = layout.of.get(node);
      if (!place || !this.isThere(place)) return;
      context.fillStyle = color;
      context.fillRect(Math.round(view.x + place.y * across) - 1, Math.round(view.y + place.x * view.scale - high / 2), wide, high);
    };
    for (const node of this.path) mark(node, theme.path);
    if (matches.size < MOST_MARKS) for (const node of matches) mark(node, theme.match);
    mark(selected, theme.accent);
    if (!replay.isFinal && replay.last) mark(replay.last.node, theme.accent);
  }

  drawBox(context, place, theme) {
    const { search, replay, selected, matches, folding } = this.pane;
    const { id } = place.data;
    if (!this.isThere(place)) return 0;
    const [x, y] = [place.y, place.x - BOX.height / 2];
    if (id < 0) {
      context.fillStyle = theme.faint;
      context.fillText(`… ${place.data.more.toLocaleString("en")} more`, x + 8, place.x);
      return 1;
    }
    const status = replay.statusOf(id);
    context.fillStyle = shadeOf(theme, search.values[id]);
    context.fillRect(x, y, BOX.width, BOX.height);
    this.drawFrame(context, x, y, id, theme);
    const share = replay.isFinal ? undefined : replay.preference()?.shares.get(id);
    if (share) {
      context.fillStyle = theme.accent;
      context.fillRect(x, y + BOX.height - 4, BOX.width * (share / replay.preference().most), 4);
    }
    context.fillStyle = status === "closed" || status === "pruned" ? theme.faint : theme.ink;
    context.textAlign = "left";
    context.fillText(this.fitting(context, id, status), x + 7, place.x);
    context.textAlign = "right";
    context.fillText(number(search.values[id], 2), x + BOX.width - 6, place.x);
    const refused = this.refusedOf(id);
    if (refused) {
      context.fillStyle = theme.bad;
      context.fillText(`✕${refused}`, x + BOX.width - 36, place.x);
    }
    context.textAlign = "left";
    if (folding.hasChildren(id)) {
      context.fillStyle = matches.size && selected !== id ? theme.faint : theme.ink;
      const children = search.children[id].length;
      context.fillText(folding.isUnfolded(id) ? "−" : `+${children}`, x + BOX.width + 4, place.x);
    }
    return 1;
  }

  drawFrame(context, x, y, id, theme) {
    const { selected, matches, replay } = this.pane;
    const isNow = !replay.isFinal && replay.last?.node === id;
    const onPath = this.path.has(id);
    context.strokeStyle =
      id === selected || isNow ? theme.accent : matches.has(id) ? theme.match : onPath ? theme.path : theme.edge;
    context.lineWidth = id === selected || isNow ? 3 : onPath || matches.has(id) ? 2 : 1;
    context.strokeRect(x, y, BOX.width, BOX.height);
  }

  refusedOf(id) {
    const places = this.pane.search.refusedOf.get(id);
    if (!places) return 0;
    const there = this.pane.replay.refusedThere;
    return places[places.length - 1] < there ? places.length : places.filter((place) => place < there).length;
  }

  /** A node's label, cut to what fits its box; measured once. */
  fitting(context, id, status) {
    const sign = status === "verified" ? "✔ " : status === "answer" ? "◆ " : "";
    const label = (this.short[id] ??= cutToWidth(context, this.pane.search.label(id), BOX.width - (this.pane.search.refusedOf.has(id) ? 72 : 60)));
    return sign + label;
  }
}

function cutToWidth(context, label, width) {
  if (context.measureText(label).width <= width) return label;
  let [low, high] = [0, label.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(label.slice(0, middle)).width <= width - 10) low = middle;
    else high = middle - 1;
  }
  // Not within a pair of surrogates.
  if (low && /[\ud800-\udbff]/.test(label[low - 1])) low--;
  return `${label.slice(0, low).trimEnd()}…`;
}
