"use strict";
// Where the nodes that are unfolded stand: depth goes right, d3-hierarchy's tidy tree sets the rows.

const COLUMN = 250;
const ROW = 30;
const BOX = { width: 205, height: 24 };
const FEW = 40; // children shown at once where a node has more

class Folding {
  constructor(search) {
    this.search = search;
    this.unfolded = new Set();
    this.limits = new Map(); // node: children to show, where not FEW
    this.everything = false;
  }

  isUnfolded(node) {
    return this.everything || this.unfolded.has(node);
  }

  hasChildren(node) {
    return this.search.children[node] !== undefined;
  }

  toggle(node) {
    this.settle();
    if (!this.unfolded.delete(node) && this.hasChildren(node)) this.unfolded.add(node);
  }

  more(node) {
    this.limits.set(node, 4 * (this.limits.get(node) ?? FEW));
  }

  /** Unfolds what is above a node, and sees to it that the node is among the children shown. */
  reveal(node) {
    if (this.everything) return;
    for (let child = node; child > 0; child = this.search.parents[child]) {
      const parent = this.search.parents[child];
      this.unfolded.add(parent);
      const place = this.search.children[parent].indexOf(child);
      if (!this.shown(parent).includes(child)) this.limits.set(parent, place + FEW);
    }
  }

  /** The best path, and breadth first what fits a first look. */
  unfoldFirst(most = 120) {
    this.everything = false;
    this.unfolded.clear();
    this.limits.clear();
    const path = this.search.header.path;
    for (const node of [0, ...path.slice(0, 60)]) if (this.hasChildren(node)) this.unfolded.add(node);
    const queue = [0];
    let shown = 1;
    for (let i = 0; i < queue.length && shown < most; i++) {
      if (!this.hasChildren(queue[i])) continue;
      this.unfolded.add(queue[i]);
      for (const child of this.shown(queue[i])) {
        queue.push(child);
        shown++;
      }
    }
  }

  unfoldAll() {
    this.everything = true;
  }

  foldAll() {
    this.everything = false;
    this.unfolded.clear();
    this.limits.clear();
  }

  /** Before a single node is folded where everything was unfolded. */
  settle() {
    if (!this.everything) return;
    this.everything = false;
    for (let node = 0; node < this.search.count; node++) {
      if (!this.hasChildren(node)) continue;
      this.unfolded.add(node);
      this.limits.set(node, Infinity);
    }
  }

  /** The children to show: all of a few, else those of the path and the first ones. */
  shown(node) {
    const children = this.search.children[node];
    const limit = this.limits.get(node) ?? FEW;
    if (this.everything || children.length <= limit) return children;
    const kept = children.slice(0, limit);
    const onPath = this.search.header.path.find((step) => this.search.parents[step] === node);
    if (onPath !== undefined && !kept.includes(onPath)) kept.push(onPath);
    return kept;
  }
}

/** A place: data.id is a node, or -1 for those of data.parent that are not shown. */
function placeOf(id, parent, more = 0) {
  const place = new d3.Node({ id, more, parent: parent ? parent.data.id : -1 });
  place.parent = parent;
  place.depth = parent ? parent.depth + 1 : 0;
  return place;
}

/** {order: places from the root down, columns: places by depth, each from the top down, of: node -> place, ...}. */
function layOut(search, folding) {
  const root = placeOf(0, null);
  const stack = [root];
  while (stack.length) {
    const place = stack.pop();
    const node = place.data.id;
    if (node < 0 || !folding.isUnfolded(node) || !folding.hasChildren(node)) continue;
    const shown = folding.shown(node);
    place.children = shown.map((child) => placeOf(child, place));
    const hidden = search.children[node].length - shown.length;
    if (hidden) place.children.push(placeOf(-1, place, hidden));
    for (const child of place.children) stack.push(child);
  }
  d3.tree().nodeSize([ROW, COLUMN]).separation((a, b) => (a.parent === b.parent ? 1 : 1.3))(root);
  const layout = { order: [], columns: [], of: new Map(), rows: new Map(), top: Infinity, bottom: -Infinity };
  root.eachBefore((place) => {
    layout.rows.set(place, layout.order.length);
    layout.order.push(place);
    (layout.columns[place.depth] ??= []).push(place);
    if (place.data.id >= 0) layout.of.set(place.data.id, place);
    layout.top = Math.min(layout.top, place.x);
    layout.bottom = Math.max(layout.bottom, place.x);
  });
  layout.heights = layout.columns.map((column) => Float64Array.from(column, (place) => place.x));
  layout.right = (layout.columns.length - 1) * COLUMN + BOX.width;
  return layout;
}

/** The first of a column's places at or below a height, from the place `low` on; `heights` are theirs. */
function firstBelow(heights, y, low = 0) {
  let high = heights.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (heights[middle] < y) low = middle + 1;
    else high = middle;
  }
  return low;
}
