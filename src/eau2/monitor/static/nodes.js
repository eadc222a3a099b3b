// All nodes, and one node with all its figures.

import { chart, spark } from "./charts.js";
import { again, amount, ask, bytes, clock, count, el, plural, rate, say, seconds, short } from "./tools.js";

const SPARKS_SECONDS = 20;
const FIRST_SECONDS = 2;
const NODE_SECONDS = 10;
const WORDS = { live: "live", joining: "joining", suspected: "not responding", dead: "dead", returning: "returning", leaving: "leaving", left: "left" };
const WORST_FIRST = ["dead", "suspected", "returning", "joining", "leaving", "live", "left"];
const COLUMNS = [
  ["operations", "Operations", rate],
  ["latency_p50", "Half within", seconds],
  ["latency_p99", "99 % within", seconds],
  ["load", "Load", short],
  ["memory", "Memory", bytes],
  ["stored", "Stored", bytes],
  ["disk_free", "Disk free", bytes],
  ["chunks", "Chunks", count],
  ["keys", "Keys", count],
  ["missing", "Copies missing", count],
];

function since(unix) {
  const date = new Date(unix * 1000), today = new Date().toDateString() === date.toDateString();
  return `since ${today ? "" : `${date.toLocaleDateString("en-GB")} `}${clock(unix)}`;
}

function badge() {
  const word = el("span", {}), node = el("span", { class: "badge" }, el("span", { class: "dot", "aria-hidden": "true" }), word);
  return { node, set(state) {
    node.dataset.state = state;
    say(word, WORDS[state] ?? state);
  } };
}

function fact(title, note = "") {
  const value = el("dd", {}), small = el("dd", { class: "note" }, note);
  return { node: el("div", { class: "fact" }, el("dt", {}, title), value, small), set(text, more) {
    say(value, text);
    if (more != null) say(small, more);
  } };
}

// -- all nodes ------------------------------------------------------------------------------------------------------

export function nodesView(shared) {
  const facts = {
    nodes: fact("Nodes"), stored: fact("Stored"), keys: fact("Keys"), copies: fact("Copies"),
    answer: fact("Answers in", "a look-up by this server"), server: fact(el("a", { href: "#/node/" }, "This server")),
  };
  const total = chart("Operations of all nodes", "operations", { perSecond: true, tall: true });
  const late = chart("99 % of requests at the slowest door answered within", "seconds");
  late.node.hidden = true;
  const repair = el("p", { class: "repair", role: "status" });
  const whose = el("p", { class: "note", hidden: true }, "Operations, requests and what was read are those of this server: other processes that have the directory open count for themselves.");
  const changed = el("ul", { class: "changes", tabindex: 0, "aria-label": "Changes, the latest first" }), changes = el("section", { hidden: true, "aria-label": "Changes of members" }, el("h2", {}, "Who came and went"), changed);
  const rows = new Map(), body = el("tbody", {}), heads = new Map();
  const filter = el("input", { type: "search", id: "filter", placeholder: "name or state", on: { input: () => arrange(true) } });
  const shown = el("p", { class: "quiet", role: "status" });
  let order = ["state", 1], last = null, sparks = null, arranged = "";

  const head = el("tr", {}, sorter("state", "Node"), el("th", { scope: "col", class: "chart-head" }, "Last hour"),
    ...COLUMNS.map(([name, title]) => sorter(name, title, true)));
  const node = el("div", {},
    el("h1", { class: "unseen" }, "Nodes"),
    el("section", { class: "top", "aria-label": "All together" }, el("dl", { class: "facts" }, ...Object.values(facts).map((each) => each.node)),
      el("div", { class: "hour" }, total.node, late.node)),
    repair,
    el("section", { "aria-label": "Each node" },
      el("div", { class: "bar" }, el("h2", {}, "Each node"), el("label", { for: "filter" }, "Find"), filter, shown),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of nodes" },
        el("table", { class: "nodes cards" }, el("thead", {}, head), body)), whose),
    changes);

  function sorter(name, title, right = false) {
    const button = el("button", { type: "button", on: { click: () => {
      order = order[0] === name ? [name, -order[1]] : [name, name === "state" ? 1 : -1];
      arrange(true);
    } } }, title);
    const cell = el("th", { scope: "col", class: right ? "right" : "" }, button);
    heads.set(name, cell);
    return cell;
  }

  function row(name) {
    const mark = badge(), small = spark(), note = el("span", { class: "note" });
    const cells = COLUMNS.map(([, title]) => el("td", { class: "right", "data-title": title }));
    const line = el("tr", {},
      el("th", { scope: "row" }, el("a", { href: `#/node/${encodeURIComponent(name)}` }, name), mark.node, note),
      el("td", { class: "chart-cell" }, small.node), ...cells);
    return { line, mark, small, note, cells, said: null };
  }

  function fill(each, columns) {
    const found = rows.get(each.name);
    found.said = each;
    found.mark.set(each.state);
    found.line.dataset.state = each.state;
    say(found.note, each.state === "live" ? (each.age > 10 ? `said ${seconds(each.age)} ago` : "") : `${each.state === "dead" ? "not responding " : ""}${since(each.since)}`);
    found.note.title = each.source;
    COLUMNS.forEach(([name, , text], at) => {
      const index = columns.indexOf(name), value = each.values?.[index];
      say(found.cells[at], text(value));
      found.cells[at].classList.toggle("bad", name === "missing" && value > 0);
    });
  }

  function value(said) {
    const [name] = order;
    if (name === "state") return WORST_FIRST.indexOf(said.state);
    return said.values?.[last.figures.indexOf(name)] ?? -1;
  }

  function arrange(always = false) {
    if (!last) return;
    const wanted = filter.value.trim().toLowerCase();
    const list = last.nodes.map((each, at) => [each, at])
      .filter(([each]) => !wanted || `${each.name} ${WORDS[each.state] ?? each.state}`.toLowerCase().includes(wanted))
      .sort(([one, first], [other, second]) => order[1] * (value(one) - value(other)) || first - second).map(([each]) => each.name);
    for (const [name, cell] of heads) {
      if (name === order[0]) cell.setAttribute("aria-sort", order[1] > 0 ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
    say(shown, wanted ? `${count(list.length)} of ${plural(last.nodes.length, "node")}` : "");
    const now = list.join("\n");
    if (always || now !== arranged) body.replaceChildren(...list.map((name) => rows.get(name).line));
    arranged = now;
  }

  function overview(said) {
    last = said;
    const names = new Set(said.nodes.map((each) => each.name));
    for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
    for (const each of said.nodes) {
      if (!rows.has(each.name)) {
        rows.set(each.name, row(each.name));
        rows.get(each.name).small.draw(sparks?.nodes[each.name] ?? []);
      }
      fill(each, said.figures);
    }
    COLUMNS.forEach(([name], at) => {
      const index = said.figures.indexOf(name), empty = at > 0 && said.nodes.every((each) => each.values?.[index] == null);
      heads.get(name).hidden = empty;
      for (const { cells } of rows.values()) cells[at].hidden = empty;
    });
    const live = said.nodes.filter((each) => each.state === "live").length, totals = said.totals, server = said.server;
    facts.nodes.set(`${count(live)} live`, live === said.nodes.length ? "all that are known" : `of ${count(said.nodes.length)} that are known`);
    facts.nodes.node.classList.toggle("bad", live < said.nodes.length);
    facts.stored.set(bytes((totals.chunk_bytes ?? 0) + (totals.value_bytes ?? 0)), `${plural(totals.chunks, "chunk")}`);
    facts.keys.set(count(totals.keys), `${count(totals.frames)} of them frames`);
    facts.copies.set(said.repair.missing ? `${count(said.repair.missing)} missing` : said.repair.counting ? "being counted" : "all there", `${count(said.repair.copied)} repaired so far`);
    facts.copies.node.classList.toggle("bad", said.repair.missing > 0);
    if (totals.latency_p99 == null) facts.answer.set(seconds(server.answer));
    else facts.answer.set(`99 % in ${seconds(totals.latency_p99)}`, `half in ${seconds(totals.latency_p50)}, at the slowest door; a look-up by this server in ${seconds(server.answer)}`);
    facts.server.set(`load ${short(server.load)}`, `${bytes(server.memory)} of memory in use${server.disk_free == null ? "" : `, ${bytes(server.disk_free)} of disk free`}`);
    say(repair, said.repair.missing ? `Repair: ${said.repair.missing === 1 ? "1 copy" : `${count(said.repair.missing)} copies`} missing, ${bytes(said.repair.copied_bytes)} copied${said.repair.bytes_per_second == null ? "" : `, now ${bytes(said.repair.bytes_per_second)}/s`}.` : "");
    repair.hidden = !said.repair.missing;
    whose.hidden = !said.counted_here;
    changes.hidden = said.changes.length === 0;
    const newest = said.changes.at(-1)?.time ?? 0;
    if (changed.dataset.newest !== String(newest)) {
      changed.dataset.newest = newest;
      changed.replaceChildren(...said.changes.toReversed().map((change) => el("li", {}, el("time", {}, clock(change.time)), ` ${change.why}`)));
    }
    arrange();
  }

  async function hour() {
    sparks = await ask("sparks");
    if (sparks.nodes) {
      for (const [name, found] of rows) found.small.draw(sparks.nodes[name] ?? []);
      total.draw(sparks.total.operations, sparks.total.step, sparks.end);
      late.draw(sparks.total.latency_p99, sparks.total.step, sparks.end);
      late.node.hidden = late.isFlat();
    }
  }
  function isKnown() {
    return sparks.total?.operations.some((value) => value != null); // not before the server has looked twice
  }
  const close = again(hour, () => (isKnown() ? SPARKS_SECONDS : FIRST_SECONDS), () => {}); // what fails is said above
  return { title: "Nodes", node, overview, close };
}

// -- one node -------------------------------------------------------------------------------------------------------

export function nodeView(_, name) {
  const mark = badge(), note = el("p", { class: "quiet" }), grid = el("div", { class: "charts" }), charts = new Map();
  const zero = el("ul", { class: "zero" }), still = el("section", { hidden: true, "aria-label": "Nothing in the last hour" }, el("h2", {}, "Nothing in the last hour"), zero);
  const failed = el("p", { class: "bad", role: "status" });
  const node = el("div", {}, el("p", { class: "path" }, el("a", { href: "#/" }, "Nodes"), " / "),
    el("h1", {}, name || "This server", " ", mark.node), note, failed, grid, still);

  async function look() {
    const said = await ask(`node?name=${encodeURIComponent(name)}`);
    mark.set(said.state);
    if (name) say(note, said.state === "live" ? `${since(said.since)}; ${said.source}` : `${WORDS[said.state] ?? said.state} ${since(said.since)}; ${said.source}`);
    for (const metric of said.metrics) {
      const counts = metric.kind === "counter";
      if (!charts.has(metric.name)) {
        const made = { ...chart(metric.name.replaceAll("_", " "), metric.unit, { perSecond: counts }), help: el("p", { class: "note" }) };
        made.node.append(made.help);
        charts.set(metric.name, made);
        grid.append(made.node);
      }
      const found = charts.get(metric.name);
      found.draw(metric.history, said.step, said.end);
      say(found.help, counts ? `${metric.help} ${amount(metric.value, metric.unit)} in all.` : metric.help);
      found.node.hidden = found.isFlat();
      found.line ??= el("li", { title: metric.help });
      say(found.line, `${metric.name.replaceAll("_", " ")}${counts ? `, ${amount(metric.value, metric.unit)} in all` : ""}`);
    }
    const flat = [...charts.values()].filter((found) => found.isFlat());
    if (zero.childElementCount !== flat.length) zero.replaceChildren(...flat.map((found) => found.line));
    still.hidden = flat.length === 0;
  }
  const close = again(look, () => NODE_SECONDS, (text) => say(failed, text));
  return { title: name || "This server", node, close };
}
