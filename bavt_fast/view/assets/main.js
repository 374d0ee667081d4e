"use strict";
// The page: which searches are shown, the moment that is shown of them, finding steps, live updates.

const MOST_PANES = 4;
const SMALL = 300; // nodes up to which a live search stays unfolded
const PLAY_S = 20; // seconds that a replay takes

const byId = (id) => document.getElementById(id);

class App {
  constructor() {
    this.index = JSON.parse(byId("index").textContent);
    this.searches = []; // by place in the index, once unpacked
    this.panes = [];
    this.pane = null;
    this.theme = readTheme();
    this.outline = new Outline(this, byId("outline"));
    this.playing = null;
    this.found = { query: "", nodes: [], at: -1 };
    this.listen();
  }

  // ---- which searches

  async begin() {
    if (this.index.live) {
      this.follow();
      return;
    }
    const { pictures } = this.index;
    this.offer(pictures);
    const first = pictures.length <= MOST_PANES ? pictures.map((_, i) => i) : [0, 1];
    await this.show(first);
  }

  /** The list to choose from, where there are several. */
  offer(pictures) {
    byId("choice").hidden = pictures.length < 2;
    byId("choices").replaceChildren(
      ...pictures.map((name, i) => {
        const label = make("label");
        const box = make("input");
        box.type = "checkbox";
        box.value = i;
        box.addEventListener("change", () => this.chosen(box));
        label.append(box, make("bdi", name || `Search ${i + 1}`));
        return label;
      }),
    );
  }

  async chosen(box) {
    const boxes = [...byId("choices").querySelectorAll("input")];
    let wanted = boxes.filter((one) => one.checked).map((one) => Number(one.value));
    if (wanted.length > MOST_PANES) wanted = wanted.filter((i) => i !== this.panes[0].index);
    if (wanted.length) await this.show(wanted);
    else box.checked = true;
  }

  async show(places) {
    for (const i of places) {
      if (this.searches[i]) continue;
      const chunk = await unpack(byId(`picture-${i}`));
      this.searches[i] = new Search(this.index.pictures[i]);
      this.searches[i].append(chunk);
    }
    this.panes = places.map((i) => this.panes.find((p) => p.index === i) ?? new Pane(this, i, this.searches[i]));
    for (const box of byId("choices").querySelectorAll("input")) box.checked = places.includes(Number(box.value));
    this.place();
  }

  place() {
    byId("panes").replaceChildren(...this.panes.map((pane) => pane.element));
    byId("panes").dataset.count = this.panes.length;
    this.pane = null;
    this.activate(this.panes[0]);
    this.setTimeline();
    this.refresh();
    for (const pane of this.panes) if (!pane.frames) pane.home();
    requestAnimationFrame(() => {
      for (const pane of this.panes) pane.draw();
      this.ready ??= performance.now();
      document.documentElement.dataset.ready = this.ready.toFixed(0);
    });
  }

  activate(pane) {
    if (this.pane === pane) return;
    this.pane = pane;
    for (const one of this.panes) one.element.classList.toggle("active", one === pane && this.panes.length > 1);
    if (this.found.query) this.search(this.found.query, false);
    this.outline.refresh();
    showDetails(this, byId("details"));
  }

  /** Everything beside the canvases, and a frame of each of them. */
  refresh() {
    this.outline.refresh(this.pane.selected !== this.followed);
    this.followed = this.pane.selected;
    showDetails(this, byId("details"));
    byId("event").textContent = this.pane.replay.describe();
    for (const pane of this.panes) {
      pane.showState();
      pane.changed();
    }
    byId("missing").textContent = (this.pane.search.header.missing ?? []).join(" ");
  }

  // ---- the moment that is shown

  /** One search goes by its events; several go by the tokens that they had spent. */
  get single() {
    return this.panes.length === 1;
  }

  setTimeline() {
    const slider = byId("moment");
    const ends = this.panes.map(({ search }) => (this.single ? search.events.kinds : search.events.tokens).length);
    const most = this.single ? ends[0] : Math.max(...this.panes.map(({ search }) => search.events.tokens.at(-1) ?? 0));
    slider.max = most;
    slider.value = this.single ? this.panes[0].replay.at : most;
    slider.disabled = byId("play").disabled = !most;
    byId("moment-label").textContent = this.single ? "Event" : "Tokens spent";
  }

  goTo(moment) {
    for (const { replay, search } of this.panes) {
      replay.seek(this.single || moment >= Number(byId("moment").max) ? (this.single ? moment : replay.length) : placeIn(search.events.tokens, moment));
    }
    byId("moment").value = moment;
    byId("moment").setAttribute("aria-valuetext", this.pane.replay.describe());
    this.refresh();
  }

  play() {
    const slider = byId("moment");
    if (this.playing !== null) {
      this.pause();
      return;
    }
    const most = Number(slider.max);
    let from = Number(slider.value) >= most ? 0 : Number(slider.value);
    let start = performance.now();
    byId("play").textContent = "Pause";
    const frame = (now) => {
      const at = Math.min(most, Math.floor(from + ((now - start) / (1000 * PLAY_S)) * Math.max(most, 40)));
      if (at !== Number(slider.value)) this.goTo(at);
      if (at >= most) this.pause();
      else this.playing = requestAnimationFrame(frame);
    };
    this.playing = requestAnimationFrame(frame);
  }

  pause() {
    if (this.playing !== null) cancelAnimationFrame(this.playing);
    this.playing = null;
    byId("play").textContent = "Play";
  }

  // ---- finding steps

  search(query, jump = true) {
    const wanted = query.toLowerCase();
    const { search } = this.pane;
    const nodes = [];
    if (wanted) {
      for (let node = 0; node < search.count; node++) {
        const text = node ? search.texts[node] : search.header.question;
        const answer = search.answers.get(node);
        if (text.toLowerCase().includes(wanted) || answer?.toLowerCase().includes(wanted)) nodes.push(node);
      }
    }
    for (const pane of this.panes) pane.matches = new Set(pane === this.pane ? nodes : []);
    this.found = { query, nodes, at: -1 };
    byId("found").textContent = wanted ? plural(nodes.length, "match", "matches") : "";
    if (jump && nodes.length) this.nextFound(1);
    else this.refresh();
  }

  nextFound(step) {
    const { nodes } = this.found;
    if (!nodes.length) return;
    this.found.at = (this.found.at + step + nodes.length) % nodes.length;
    this.pane.select(nodes[this.found.at]);
    byId("found").textContent = `${this.found.at + 1} of ${plural(nodes.length, "match", "matches")}`;
    this.outline.refresh();
    this.refresh();
  }

  // ---- events of the page

  listen() {
    byId("moment").addEventListener("input", (event) => {
      this.pause();
      this.goTo(Number(event.target.value));
    });
    byId("play").addEventListener("click", () => this.play());
    const query = byId("query");
    query.addEventListener("input", () => this.search(query.value, false));
    query.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.nextFound(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape") this.search((query.value = ""));
      else return;
      event.preventDefault();
    });
    byId("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      this.retheme();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.retheme());
    document.addEventListener("keydown", (event) => {
      if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/") query.focus();
      else if (event.key === "n") this.nextFound(1);
      else if (event.key === "[") this.goTo(Math.max(0, Number(byId("moment").value) - 1));
      else if (event.key === "]") this.goTo(Math.min(Number(byId("moment").max), Number(byId("moment").value) + 1));
      else return;
      event.preventDefault();
    });
  }

  retheme() {
    this.theme = readTheme();
    for (const pane of this.panes) pane.changed();
  }

  // ---- live

  follow() {
    const source = new EventSource("events");
    byId("live").hidden = false;
    source.addEventListener("chunk", (event) => this.take(JSON.parse(event.data)));
    source.addEventListener("end", () => {
      source.close();
      byId("live").textContent = "ended";
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) byId("live").textContent = "connection lost";
    });
  }

  take(chunk) {
    if (chunk.from === 0) {
      this.searches[0] = new Search(this.index.pictures[0]);
      this.searches[0].append(chunk);
      this.panes = [new Pane(this, 0, this.searches[0])];
      this.panes[0].replay.live = chunk.live;
      this.place();
      return;
    }
    const [pane] = this.panes;
    const { search, replay, folding } = pane;
    const following = replay.atEnd;
    const before = search.count;
    search.append(chunk);
    replay.live = chunk.live;
    replay.preferred = null;
    if (following) replay.seek(replay.length);
    if (search.count <= SMALL) for (let node = before; node < search.count; node++) folding.unfolded.add(search.parents[node]);
    for (const node of [0, ...search.header.path.slice(0, 60)]) folding.unfolded.add(node);
    if (search.count > before) pane.relay(0);
    this.setTimeline();
    this.refresh();
  }
}

/** How many of an ascending column's entries are at most a number. */
function placeIn(column, most) {
  let [low, high] = [0, column.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] <= most) low = middle + 1;
    else high = middle;
  }
  return low;
}

window.bavt = new App();
window.bavt.begin().catch((error) => {
  byId("fault").hidden = false;
  byId("fault").textContent = `This page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
});
