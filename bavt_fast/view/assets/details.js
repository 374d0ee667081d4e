"use strict";
// All that is known of the selected node, and what the policy prefers at the moment that is shown.

const REFUSALS_SHOWN = 200;
const LONGEST = 200000; // characters of a step that are shown at once

function make(name, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function showDetails(app, element) {
  const { search, replay, selected: node } = app.pane;
  const residual = search.residual(node);
  const logProbability = search.logProbabilities[node];
  const rows = [
    ["V", number(search.values[node], 4)],
    ["Residual", node ? `${residual > 0 ? "+" : ""}${number(residual, 4)}` : null],
    ["Weight", replay.weightOf(node) === search.values[node] ? null : number(replay.weightOf(node), 4)],
    ["Visits", replay.visitsOf(node)],
    ["Tries", replay.triesOf(node)],
    ["Children", search.children[node]?.filter((child) => child < replay.nodesThere).length ?? 0],
    ["Tokens", node ? search.tokens[node] : null],
    ["Prompt tokens", search.promptTokens[node] || null],
    ["Log-probability", logProbability === null ? null : number(logProbability)],
    ["Depth", search.depths[node]],
    ["State", replay.statusOf(node)],
    ["Answer", search.answers.get(node) ?? null],
  ];
  const list = make("dl");
  for (const [name, value] of rows) {
    if (value === null) continue;
    list.append(make("dt", name), make("dd"));
    list.lastElementChild.append(make("bdi", String(value)));
  }
  const text = node ? search.texts[node] : search.header.question || "(question not known)";
  const whole = make("pre", text.slice(0, LONGEST), "step");
  whole.dir = "auto";
  whole.tabIndex = 0;
  whole.setAttribute("aria-label", node ? "Step" : "Question");
  const parts = [make("h3", node ? `Node ${node}` : "Question"), whole];
  if (text.length > LONGEST) parts.push(make("p", `${(text.length - LONGEST).toLocaleString("en")} characters more`));
  element.replaceChildren(...parts, list, ...refusals(app.pane, node), ...stepsTo(app, node), ...preferred(app));
}

function refusals(pane, node) {
  const { search, replay } = pane;
  const places = (search.refusedOf.get(node) ?? []).filter((place) => place < replay.refusedThere);
  if (!places.length) return [];
  const list = make("ul", undefined, "refused");
  const { reasons, texts, tokens } = search.refused;
  for (const place of places.slice(0, REFUSALS_SHOWN)) {
    const item = make("li");
    item.append(make("strong", REASONS[reasons[place]]), make("span", ` ${plural(tokens[place], "token")} `));
    const step = make("bdi", texts[place].slice(0, 2000).trim());
    item.append(step);
    list.append(item);
  }
  const hidden = places.length - REFUSALS_SHOWN;
  if (hidden > 0) list.append(make("li", `${hidden} more`));
  return [make("h3", `Refused (${places.length})`), list];
}

function stepsTo(app, node) {
  if (!node) return [];
  const { search } = app.pane;
  const line = [];
  for (let n = node; n > 0; n = search.parents[n]) line.push(n);
  const list = make("ol", undefined, "steps");
  for (const step of line.reverse().slice(0, 500)) list.append(nodeButton(app, step, search.label(step)));
  const part = make("details");
  part.append(make("summary", `Steps to here (${line.length})`), list);
  part.open = line.length <= 12;
  return [part];
}

function nodeButton(app, node, text, share) {
  const item = make("li");
  const button = make("button", undefined, "link");
  button.type = "button";
  if (share !== undefined) {
    const bar = make("span", undefined, "share");
    bar.style.width = `${100 * share}%`;
    item.append(bar);
    button.append(make("span", `${percent(share)} `));
  }
  button.append(make("bdi", text));
  button.addEventListener("click", () => {
    app.pane.select(node);
    app.refresh();
  });
  item.append(button);
  return item;
}

function preferred(app) {
  const { search, replay } = app.pane;
  const preference = replay.isFinal && search.header.stop_reason !== null ? null : replay.preference();
  if (!preference || !search.hasEvents) return [];
  const list = make("ol", undefined, "preferred");
  for (const node of preference.best) {
    list.append(nodeButton(app, node, search.label(node), preference.shares.get(node)));
  }
  const title = `Preferred by ${search.header.settings.policy} at r ${number(replay.left)}`;
  return [make("h3", title), preference.best.length ? list : make("p", "No node is open.")];
}
