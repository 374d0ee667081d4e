"use strict";
// A search as it stood after each of its events, made again from them:
//   ask     a try of the node; a visit of it and of all above
//   admit   answered; with no step at all the try and the visits are taken back, and the node is closed
//   grow    the asking visit goes, each child brings one
//   cancel  as if not asked
//   stop    nothing: a driver cancels what is out, and by hand it may still be answered

class Replay {
  constructor(search) {
    this.search = search;
    this.live = false; // whether more events may come
    this.reset();
    this.seek(this.length);
  }

  get length() {
    return this.search.hasEvents ? this.search.events.kinds.length : 0;
  }

  get atEnd() {
    return this.at >= this.length;
  }

  reset() {
    this.at = 0;
    this.born = 1;
    this.refused = 0;
    this.tokens = 0;
    this.seconds = 0;
    this.left = 1;
    this.asked = []; // nodes, in the order of the asks
    this.visits = [0];
    this.tries = [0];
    this.tried = [0]; // probability of the steps that came back, where they tell theirs
    this.refusedTried = new Map(); // node: how many of its refused steps are in it
    this.flying = new Map(); // node: asks that are out
    this.fruitless = new Map();
    this.closed = new Set();
    this.preferred = null;
  }

  /** Goes to the state after so many events. */
  seek(at) {
    const target = Math.max(0, Math.min(at, this.length));
    if (target < this.at) this.reset();
    while (this.at < target) this.step();
    this.preferred = null;
  }

  step() {
    const events = this.search.events;
    const e = this.at++;
    const node = events.nodes[e];
    this.tokens = events.tokens[e];
    this.seconds = events.seconds[e];
    switch (events.kinds[e]) {
      case ASK:
        this.asked.push(node);
        this.flying.set(node, (this.flying.get(node) || 0) + 1);
        this.tries[node]++;
        this.visit(node, 1);
        break;
      case ADMIT:
        this.admit(node, events.counts[e], events.news[e]);
        break;
      case GROW:
        this.visit(node, events.counts[e] - (events.counts[e] ? 1 : 0));
        for (let i = 0; i < events.counts[e]; i++) {
          this.visits[this.born] = 1;
          this.tried[node] += probability(this.search.logProbabilities[this.born]);
          this.tried[this.born] = 0;
          this.tries[this.born++] = 0;
        }
        this.countRefused(node, 0);
        this.land(node);
        this.bear(node, events.counts[e]);
        break;
      case CANCEL:
        if (node < this.asked.length) this.undo(this.asked[node]);
    }
    if (events.kinds[e] !== ASK) this.left = Number(events.left[e]);
  }

  admit(node, steps, fresh) {
    this.refused += steps - fresh;
    this.countRefused(node, steps - fresh);
    if (!steps) {
      this.undo(node);
      this.closed.add(node);
    } else if (!fresh && this.endsHere(node)) {
      this.land(node);
      this.bear(node, 0);
    }
  }

  /** So many more of its steps were refused as they came, and perhaps some refuted before or after. */
  countRefused(node, steps) {
    const { reasons, logProbabilities } = this.search.refused;
    const places = this.search.refusedOf.get(node) ?? [];
    let next = this.refusedTried.get(node) ?? 0;
    for (; next < places.length; next++) {
      if (REASONS[reasons[places[next]]] !== "refuted" && --steps < 0) break;
      this.tried[node] += probability(logProbabilities[places[next]]);
    }
    this.refusedTried.set(node, next);
  }

  /** Whether no "grow" of this answer follows: nothing in it was new. Where all was refuted, one does. */
  endsHere(node) {
    const events = this.search.events;
    for (let e = this.at; e < Math.min(this.length, this.at + 600); e++) {
      const kind = events.kinds[e];
      if (kind === GROW && events.nodes[e] === node && !events.counts[e]) return false;
      if (kind === ASK || kind === STOP) break;
    }
    return true;
  }

  bear(node, count) {
    const fruitless = count ? 0 : (this.fruitless.get(node) || 0) + 1;
    this.fruitless.set(node, fruitless);
    if (fruitless >= (this.search.header.settings?.patience ?? Infinity)) this.closed.add(node);
  }

  land(node) {
    const out = (this.flying.get(node) || 0) - 1;
    if (out > 0) this.flying.set(node, out);
    else this.flying.delete(node);
  }

  undo(node) {
    this.land(node);
    this.tries[node]--;
    this.visit(node, -1);
  }

  visit(node, change) {
    if (!change) return;
    for (let n = node; n >= 0; n = this.search.parents[n]) this.visits[n] += change;
  }

  // ---- reading: where nothing is to be replayed, and at the end, what the search itself says

  get isFinal() {
    return !this.live && this.atEnd;
  }

  get nodesThere() {
    return this.search.hasEvents && !this.isFinal ? this.born : this.search.count;
  }

  get refusedThere() {
    return this.search.hasEvents && !this.isFinal ? this.refused : this.search.refused.nodes.length;
  }

  visitsOf(node) {
    return (this.isFinal && this.search.visits.length ? this.search.visits : this.visits)[node] ?? 0;
  }

  triesOf(node) {
    return (this.isFinal && this.search.tries.length ? this.search.tries : this.tries)[node] ?? 0;
  }

  /** What the policy chooses by, before the decay. */
  weightOf(node) {
    if (this.isFinal || !this.search.hasEvents) return this.search.lastWeights[node];
    return this.search.weights[node] * untried(this.tried[node] ?? 0) ** this.search.triedExponent;
  }

  statusOf(node) {
    const last = STATUSES[this.search.statuses[node] ?? 0];
    if (this.isFinal || last === "answer" || last === "verified") return last;
    return this.closed.has(node) ? "closed" : "open";
  }

  /** The last event as (kind, node), or null. */
  get last() {
    if (!this.at) return null;
    const events = this.search.events;
    const kind = events.kinds[this.at - 1];
    return { kind, node: kind === ASK || kind === ADMIT || kind === GROW ? events.nodes[this.at - 1] : -1 };
  }

  /** What the policy prefers here: {shares: node -> P, best: nodes, the largest first}; null where that is not known.
   *
   * After an ask it is what the ask was drawn from. "power": P in proportion to weight ** (1 / r), where weight falls by
   * `decay` with every try, and with the probability of what was tried. "best_first": the heaviest.
   */
  preference() {
    if (this.preferred) return this.preferred;
    const settings = this.search.header.settings;
    if (!settings || !["power", "best_first"].includes(settings.policy)) return null;
    const last = this.last;
    const asked = last && last.kind === ASK ? last.node : -1;
    const power = settings.policy === "best_first" || this.left <= 0 ? Infinity : 1 / this.left;
    const nodes = [];
    const logs = [];
    let most = -Infinity;
    for (let node = 0; node < this.nodesThere; node++) {
      if (this.statusOf(node) !== "open") continue;
      const tries = Math.min(255, this.triesOf(node) - (node === asked ? 1 : 0));
      const log = Math.log(this.weightOf(node)) + tries * Math.log(settings.decay);
      if (!(log > -Infinity)) continue;
      nodes.push(node);
      logs.push(log);
      most = Math.max(most, log);
    }
    const shares = new Map();
    let sum = 0;
    for (let i = 0; i < nodes.length; i++) {
      const share = logs[i] === most ? 1 : Math.exp((logs[i] - most) * power);
      if (share > 1e-9) shares.set(nodes[i], share);
      sum += share;
    }
    for (const [node, share] of shares) shares.set(node, share / sum);
    const best = [...shares.keys()].sort((a, b) => shares.get(b) - shares.get(a) || a - b).slice(0, 8);
    return (this.preferred = { shares, best, most: best.length ? shares.get(best[0]) : 0 });
  }

  /** The last event in words. */
  describe() {
    if (!this.search.hasEvents) return "The search kept no events: there is no replay. Search with record=True.";
    if (!this.at) return "Before the first ask";
    const e = this.at - 1;
    const { kinds, nodes, counts, news } = this.search.events;
    const node = nodes[e];
    const share = kinds[e] === ASK ? this.preference()?.shares.get(node) : undefined;
    const words = [
      () => `node ${node} was asked for a step` + (share === undefined ? "" : ` (preferred with ${percent(share)})`),
      () => `node ${node} answered with ${plural(counts[e], "step")}, ${news[e]} of them new`,
      () => `node ${node} got ${plural(counts[e], "child", "children")}`,
      () => `an ask of node ${this.asked[node] ?? "?"} was cancelled`,
      () => `stopped: ${node}`,
    ];
    return `${this.at} of ${this.length}: ${words[kinds[e]]()}`;
  }
}

/** Of a step that tells the logarithm of its own, else 0. */
function probability(logarithm) {
  return logarithm === null || logarithm === undefined ? 0 : Math.min(1, Math.exp(logarithm));
}

function untried(probability) {
  return Math.max(1 - probability, 1e-3); // as csrc/engine/question.cpp has it
}

function percent(share) {
  return share >= 0.0995 ? `${(100 * share).toFixed(0)}%` : `${(100 * share).toPrecision(2)}%`;
}

function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}
