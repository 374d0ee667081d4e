"use strict";
// A search as columns: entry i of each is about node i. They grow while a search is live.

const STATUSES = ["open", "closed", "pruned", "answer", "verified"];
const REASONS = ["invalid", "duplicate", "refuted", "limit", "deadline"];
const [ASK, ADMIT, GROW, CANCEL, STOP] = [0, 1, 2, 3, 4];

class Search {
  constructor(name) {
    this.name = name;
    this.header = {};
    this.parents = [];
    this.children = []; // undefined where there are none
    this.depths = [];
    this.texts = [];
    this.values = [];
    this.lastWeights = []; // as the search has them
    this.weights = []; // that the nodes were born with
    this.tokens = [];
    this.promptTokens = [];
    this.logProbabilities = [];
    this.answers = new Map();
    this.visits = []; // these three as they are at the end
    this.tries = [];
    this.statuses = [];
    this.refused = { nodes: [], reasons: [], texts: [], tokens: [], logProbabilities: [] };
    this.refusedOf = new Map(); // node: places in `refused`
    this.events = { kinds: [], seconds: [], tokens: [], left: [], nodes: [], counts: [], news: [] };
    this.hasEvents = false;
    this.labels = [];
  }

  get count() {
    return this.parents.length;
  }

  /** Adds a part of a search, as Python made it (`page.chunk_of`). */
  append(chunk) {
    this.header = chunk.header;
    const nodes = chunk.nodes;
    const first = this.count;
    for (let i = 0; i < nodes.parents.length; i++) {
      const parent = nodes.parents[i];
      const node = first + i;
      this.parents.push(parent);
      this.depths.push(parent < 0 ? 0 : this.depths[parent] + 1);
      this.children.push(undefined);
      if (parent >= 0) (this.children[parent] ??= []).push(node);
      this.texts.push(nodes.texts[i]);
      this.values.push(Number(nodes.values[i]));
      this.lastWeights.push(Number(nodes.weights ? nodes.weights[i] : nodes.values[i]));
      this.tokens.push(nodes.tokens[i]);
      this.promptTokens.push(nodes.prompt_tokens ? nodes.prompt_tokens[i] : 0);
      const said = nodes.log_probabilities ? nodes.log_probabilities[i] : null;
      this.logProbabilities.push(said === null ? null : Number(said));
    }
    for (const [node, answer] of nodes.answers) this.answers.set(node, answer);
    for (const name of ["visits", "tries", "statuses"]) {
      if (nodes[name]) this[name] = nodes[name];
    }
    this.appendRefused(chunk.refused);
    this.forgetTries(first);
    if (chunk.events) this.appendEvents(chunk.events);
  }

  /** The weights that new nodes were born with: without what was tried there since. */
  forgetTries(first) {
    const exponent = this.triedExponent;
    for (let node = first; node < this.count; node++) {
      const steps = (this.children[node] ?? []).map((child) => this.logProbabilities[child]);
      for (const place of this.refusedOf.get(node) ?? []) steps.push(this.refused.logProbabilities[place]);
      const tried = steps.reduce((sum, logarithm) => sum + probability(logarithm), 0);
      this.weights[node] = this.lastWeights[node] / untried(tried) ** exponent;
    }
  }

  get triedExponent() {
    return this.header?.settings?.tried_exponent ?? 0;
  }

  appendRefused(rows) {
    const own = this.refused;
    for (let i = 0; i < rows.nodes.length; i++) {
      const node = rows.nodes[i];
      if (!this.refusedOf.has(node)) this.refusedOf.set(node, []);
      this.refusedOf.get(node).push(own.nodes.length);
      own.nodes.push(node);
      own.reasons.push(rows.reasons[i]);
      own.texts.push(rows.texts[i]);
      own.tokens.push(rows.tokens[i]);
      own.logProbabilities.push(rows.log_probabilities[i]);
    }
  }

  appendEvents(rows) {
    this.hasEvents = true;
    for (const name of Object.keys(this.events)) {
      for (const entry of rows[name]) this.events[name].push(entry);
    }
  }

  /** What a node is called: the beginning of its step as one line. */
  label(node) {
    return (this.labels[node] ??= oneLine(node ? this.texts[node] : this.header.question || "(question not known)"));
  }

  residual(node) {
    return node ? this.values[node] - this.values[this.parents[node]] : NaN;
  }

  isAncestor(ancestor, node) {
    while (node > ancestor) node = this.parents[node];
    return node === ancestor;
  }
}

/** The beginning of a text as one line, without signs that turn the direction of writing. */
function oneLine(text) {
  const line = text.slice(0, 240).replace(/[\u0000-\u001f\u007f-\u009f\s]+/g, " ").trim();
  return line.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd") || "(empty)";
}

function number(value, digits = 3) {
  return Number.isNaN(value) ? "NaN" : Number.isFinite(value) ? value.toFixed(digits) : value > 0 ? "∞" : "−∞";
}

/** The JSON that a script element holds, compressed and in base64. */
async function unpack(element) {
  const text = element.textContent.trim();
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
