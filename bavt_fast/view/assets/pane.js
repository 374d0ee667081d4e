"use strict";
// One search on its canvas: pan, zoom, select, fold. Several panes stand side by side.

const ZOOM = { least: 0.00005, most: 4 };
const NARROWEST = 0.22; // of columns: trees are far higher than wide, so rows shrink further than columns do

class Pane {
  constructor(app, index, search) {
    this.app = app;
    this.index = index;
    this.search = search;
    this.replay = new Replay(search);
    this.folding = new Folding(search);
    this.painter = new Painter(this);
    this.view = { x: 0, y: 0, scale: 1 };
    this.selected = 0;
    this.matches = new Set();
    this.waiting = false; // for a frame
    this.frames = 0;
    this.element = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    this.canvas = this.element.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.listen();
    this.folding.unfoldFirst();
    this.lay();
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  // ---- what is shown

  lay() {
    this.layout = layOut(this.search, this.folding);
  }

  /** The scale from left to right. */
  get across() {
    return Math.max(this.view.scale, Math.min(NARROWEST, (this.size.width - 70) / this.layout.right));
  }

  /** After folding or unfolding: a node stays where it is on the screen. */
  relay(node = 0) {
    const before = this.layout.of.get(node);
    const y = before ? this.view.y + before.x * this.view.scale : null;
    this.lay();
    const after = this.layout.of.get(node);
    if (y !== null && after) this.view.y = y - after.x * this.view.scale;
    this.changed();
  }

  toggle(node) {
    this.folding.toggle(node);
    this.relay(node);
  }

  showMore(node) {
    this.folding.more(node);
    this.relay(node);
  }

  select(node, center = true) {
    this.selected = node;
    if (!this.layout.of.has(node)) {
      this.folding.reveal(node);
      this.lay();
    }
    if (center) this.centerOn(node);
    this.app.activate(this);
    this.changed();
  }

  centerOn(node) {
    const place = this.layout.of.get(node);
    const { width, height } = this.size;
    this.view.scale = Math.max(this.view.scale, 0.6);
    const { scale } = this.view;
    const [x, y] = [this.view.x + place.y * scale, this.view.y + place.x * scale];
    if (x < 10 || x + BOX.width * scale > width - 10) this.view.x = width / 3 - place.y * scale;
    if (y < 20 || y > height - 20) this.view.y = height / 2 - place.x * scale;
  }

  fit() {
    const { width, height } = this.size;
    const { top, bottom, right } = this.layout;
    const [wide, high] = [(width - 70) / right, (height - 40) / (bottom - top + ROW)];
    this.view.scale = Math.max(ZOOM.least, Math.min(1.2, wide, high));
    this.view.x = 16;
    this.view.y = height / 2 - ((top + bottom) / 2) * this.view.scale;
    this.changed();
  }

  /** The root at the left, at a size that can be read. */
  home() {
    this.fit();
    if (this.view.scale < 0.6) {
      this.view.scale = 0.8;
      this.view.y = this.size.height / 2 - this.layout.order[0].x * this.view.scale;
    }
    this.changed();
  }

  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    const { view, across } = this;
    const scale = Math.min(ZOOM.most, Math.max(ZOOM.least, view.scale * factor));
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    view.x = x - ((x - view.x) * this.across) / across;
    this.changed();
  }

  pan(x, y) {
    this.view.x += x;
    this.view.y += y;
    this.changed();
  }

  // ---- frames

  get size() {
    return { width: this.canvas.clientWidth || 800, height: this.canvas.clientHeight || 600 };
  }

  changed() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const { width, height } = this.size;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) [this.canvas.width, this.canvas.height] = [w, h];
    this.drawn = this.painter.draw(this.context, width, height, ratio, this.app.theme);
    this.frames++;
  }

  /** The head: what was found, what is spent at the moment that is shown. */
  showState() {
    const { header } = this.search;
    const { replay } = this;
    this.find("h2").textContent = this.search.name || oneLine(header.question || "Search");
    this.find(".found").textContent = header.found;
    const limit = header.budget?.tokens ?? null;
    const tokens = replay.isFinal || !this.search.hasEvents ? header.spent.tokens ?? 0 : replay.tokens;
    const left = replay.isFinal ? header.left : replay.left;
    const digits = (count) => count.toLocaleString("en");
    const spent = limit ? `${digits(tokens)} of ${digits(limit)} tokens` : `${digits(tokens)} tokens`;
    const parts = [spent, plural(replay.nodesThere, "node"), `${plural(replay.refusedThere, "step")} refused`];
    if (left !== null) parts.splice(1, 0, `r ${number(left)}`);
    if (!replay.isFinal) parts.push(`${number(replay.seconds, 2)} s`);
    this.find(".spent").textContent = parts.join(", ");
    const used = left === null ? 0 : Math.min(1, Math.max(0, 1 - left));
    const bar = this.find(".bar");
    bar.setAttribute("aria-valuenow", (100 * used).toFixed(0));
    bar.setAttribute("aria-valuetext", left === null ? "budget not known" : `${(100 * used).toFixed(0)}% spent`);
    bar.firstElementChild.style.width = `${100 * used}%`;
    this.canvas.setAttribute("aria-label", `Tree: ${header.found}; ${parts.join(", ")}. The outline lists its nodes.`);
  }

  // ---- mouse, touch, keys

  /** What is at a point of the canvas: {place, fold: whether on the sign that folds it}; or null. */
  at(x, y) {
    const [across, down] = [(x - this.view.x) / this.across, (y - this.view.y) / this.view.scale];
    const depth = Math.floor(across / COLUMN);
    const column = this.layout.columns[depth];
    if (!column) return null;
    const place = column[firstBelow(this.layout.heights[depth], down - BOX.height / 2)];
    if (!place || Math.abs(place.x - down) > BOX.height / 2 || !this.painter.isThere(place)) return null;
    const beyond = across - depth * COLUMN - BOX.width;
    return beyond > COLUMN - BOX.width - 6 ? null : { place, fold: beyond > 0 };
  }

  listen() {
    const pointers = new Map();
    let moved = 0;
    this.canvas.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      moved = 0;
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const from = pointers.get(event.pointerId);
      if (!from) return;
      const to = [event.offsetX, event.offsetY];
      const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
      moved += Math.abs(dx) + Math.abs(dy);
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      pointers.set(event.pointerId, to);
      if (other) {
        const away = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
        this.zoom(away(to) / away(from), (to[0] + other[0]) / 2, (to[1] + other[1]) / 2);
      } else if (moved > 3) this.pan(dx, dy);
    });
    const up = (event) => {
      if (pointers.delete(event.pointerId) && moved <= 3 && event.type === "pointerup") this.click(event);
    };
    this.canvas.addEventListener("pointerup", up);
    this.canvas.addEventListener("pointercancel", up);
    this.canvas.addEventListener("dblclick", (event) => {
      const hit = this.at(event.offsetX, event.offsetY);
      if (hit && !hit.fold && hit.place.data.id >= 0) this.toggle(hit.place.data.id);
    });
    this.canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const lines = event.deltaMode === 1 ? 16 : 1;
        if (event.shiftKey) this.pan(-event.deltaY * lines, 0);
        else this.zoom(Math.exp(-event.deltaY * lines * 0.0015), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("focusin", () => this.app.activate(this));
    for (const button of this.element.querySelectorAll("button")) {
      button.addEventListener("click", () => this.command(button.dataset.does));
    }
    new ResizeObserver(() => this.changed()).observe(this.canvas);
  }

  click(event) {
    const hit = this.at(event.offsetX, event.offsetY);
    this.app.activate(this);
    if (!hit) return;
    const { id, parent } = hit.place.data;
    if (id < 0) this.showMore(parent);
    else if (hit.fold && this.folding.hasChildren(id)) this.toggle(id);
    else if (!hit.fold) this.select(id, false);
    this.app.refresh();
  }

  key(event) {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (moves[event.key]) this.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else if (event.key === "Home") this.home();
    else return;
    event.preventDefault();
  }

  command(does) {
    const commands = {
      fit: () => this.fit(),
      home: () => this.home(),
      all: () => this.folding.unfoldAll(),
      none: () => this.folding.foldAll(),
      first: () => this.folding.unfoldFirst(),
      svg: () => saveSvg(this),
      png: () => savePng(this),
    };
    commands[does]();
    if (["all", "none", "first"].includes(does)) {
      this.lay();
      this.home();
    }
    this.app.activate(this);
    this.app.refresh();
  }
}
