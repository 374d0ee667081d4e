"use strict";
// The same nodes as a list that a screen reader and a keyboard can walk. Only the rows in sight are elements.

const LINE = 24;

class Outline {
  constructor(app, element) {
    this.app = app;
    this.element = element;
    this.rows = element.firstElementChild;
    this.active = 0;
    element.addEventListener("scroll", () => this.render());
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.render()).observe(element);
  }

  get pane() {
    return this.app.pane;
  }

  get order() {
    return this.pane.layout.order;
  }

  /** After any change of what is unfolded or selected. */
  refresh(follow = true) {
    const { layout, selected } = this.pane;
    if (this.seen?.layout !== layout || this.seen.selected !== selected) {
      const place = layout.of.get(selected);
      if (place) this.active = layout.rows.get(place);
      this.seen = { layout, selected };
    }
    this.active = Math.min(this.active, this.order.length - 1);
    this.rows.style.height = `${this.order.length * LINE}px`;
    if (follow) this.scrollTo(this.active);
    this.render();
  }

  scrollTo(row) {
    const { scrollTop, clientHeight } = this.element;
    if (row * LINE < scrollTop) this.element.scrollTop = row * LINE;
    else if ((row + 1) * LINE > scrollTop + clientHeight) this.element.scrollTop = (row + 1) * LINE - clientHeight;
  }

  render() {
    if (!this.pane) return;
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / LINE) - 5);
    const last = Math.min(this.order.length, Math.ceil((scrollTop + clientHeight) / LINE) + 5);
    const shown = new Set([this.active]);
    for (let row = first; row < last; row++) shown.add(row);
    const items = [...shown].sort((a, b) => a - b).map((row) => this.item(row));
    this.rows.replaceChildren(...items);
    this.element.setAttribute("aria-activedescendant", `row-${this.active}`);
  }

  item(row) {
    const place = this.order[row];
    const { id, more } = place.data;
    const { search, folding, replay } = this.pane;
    const item = document.createElement("div");
    item.id = `row-${row}`;
    item.role = "treeitem";
    item.dataset.row = row;
    item.style.top = `${row * LINE}px`;
    item.style.paddingLeft = `${6 + 13 * Math.min(place.depth, 14)}px`;
    const siblings = place.parent ? place.parent.children : [place];
    item.setAttribute("aria-level", place.depth + 1);
    item.setAttribute("aria-setsize", siblings.length);
    item.setAttribute("aria-posinset", place.parent ? (place.data.place ??= siblings.indexOf(place)) + 1 : 1);
    item.setAttribute("aria-selected", row === this.active);
    const label = document.createElement("bdi");
    if (id < 0) label.textContent = `${more.toLocaleString("en")} more`;
    else {
      if (folding.hasChildren(id)) item.setAttribute("aria-expanded", folding.isUnfolded(id));
      const value = document.createElement("span");
      value.className = "value";
      value.textContent = `V ${number(search.values[id], 2)}`;
      label.textContent = search.label(id);
      const status = replay.statusOf(id);
      if (status !== "open") label.textContent += ` (${status})`;
      item.append(value);
      item.classList.toggle("path", id === 0 || search.header.path.includes(id));
      item.classList.toggle("unborn", id >= replay.nodesThere);
      item.classList.toggle("match", this.pane.matches.has(id));
    }
    item.append(label);
    return item;
  }

  move(row) {
    this.active = Math.max(0, Math.min(row, this.order.length - 1));
    const { id } = this.order[this.active].data;
    if (id >= 0) this.pane.select(id);
    this.app.refresh();
    this.scrollTo(this.active);
    this.render();
  }

  click(event) {
    const item = event.target.closest("[data-row]");
    if (!item) return;
    const row = Number(item.dataset.row);
    const { id, parent } = this.order[row].data;
    if (id < 0) this.more(parent, row);
    else if (row === this.active && this.pane.selected === id) this.open(id);
    else this.move(row);
  }

  open(node) {
    if (this.pane.folding.hasChildren(node)) this.pane.toggle(node);
    this.app.refresh();
  }

  /** More children of a node; the first of them takes the row. */
  more(node, row) {
    this.pane.showMore(node);
    this.app.refresh();
    this.move(row);
  }

  key(event) {
    const place = this.order[this.active];
    const { id, parent } = place.data;
    const { folding } = this.pane;
    const page = Math.max(1, Math.floor(this.element.clientHeight / LINE) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) this.move(this.active + steps[event.key]);
    else if (event.key === "ArrowRight") {
      if (id >= 0 && folding.hasChildren(id) && !folding.isUnfolded(id)) this.open(id);
      else if (place.children) this.move(this.active + 1);
    } else if (event.key === "ArrowLeft") {
      if (id >= 0 && place.children) this.open(id);
      else if (place.parent) this.move(this.pane.layout.rows.get(place.parent));
    } else if (event.key === "Enter" || event.key === " ") {
      if (id < 0) this.more(parent, this.active);
      else this.open(id);
    } else return;
    event.preventDefault();
  }
}
