// Queries that run, with a way to end them, and the last that have run; one query with its plan.

import { answer, ask, bytes, clock, count, el, plural, say, seconds } from "./tools.js";

const WORDS = { running: "running", done: "done", failed: "failed", cancelled: "cancelled" };

function title(query) {
  return (query.text || "(a plan)") + (query.steps ? `  … and ${plural(query.steps, "step")} more` : "");
}

function state(query) {
  return el("span", { class: "badge", "data-state": query.state }, el("span", { class: "dot", "aria-hidden": "true" }), WORDS[query.state]);
}

function skipped(query) {
  const all = query.tables.reduce((sum, table) => sum + table.chunks, 0), read = query.tables.reduce((sum, table) => sum + table.chunks_read, 0);
  return all ? `${count(read)} of ${count(all)}` : "–";
}

/** Return what part of the bytes read was read where it is, as "100 %" only where it was all. */
function locally({ read_bytes: read, local_bytes: local }) {
  if (!read) return "–";
  return local === read ? "100 %" : `${Math.min(99.9, (100 * local) / read).toFixed(1)} %`;
}

function cancelButton(shared, number) {
  if (shared.role !== "admin") return null;
  const button = el("button", { type: "button", class: "cancel", "aria-label": `Cancel query ${number}`, on: { click: async () => {
    button.disabled = true;
    say(button, "Cancelling");
    await answer(`queries/${number}/cancel`, { method: "POST" }).catch((error) => {
      if (error.status !== 404) throw error; // it has just ended by itself
    });
  } } }, "Cancel");
  return button;
}

export function queriesView(shared) {
  const running = el("ul", { class: "running" }), recent = el("tbody", {}), none = el("p", { class: "empty" }, "No query runs in this server.");
  const live = new Map(), never = el("p", { class: "empty" }, "None yet. Those that programs run by themselves are theirs.");
  let newest = "";
  const node = el("div", {},
    el("h1", {}, "Queries"),
    el("section", { "aria-label": "Running" }, el("h2", {}, "Running now"), none, running),
    el("section", { "aria-label": "Recent" }, el("h2", {}, "The last that have run"),
      never, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Recent queries" },
        el("table", { class: "recent cards" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Query"), el("th", { scope: "col" }, "State"),
          ...["Began", "Took", "Rows", "Chunks read", "Read locally", "Moved"].map((name) => el("th", { scope: "col", class: "right" }, name)))), recent))));

  function one(query) {
    const facts = el("span", { class: "quiet" }), button = cancelButton(shared, query.number);
    const line = el("li", {}, el("a", { class: "sql", href: `#/query/${query.number}` }, title(query)), el("span", { class: "row" }, state(query), facts, button));
    return { line, facts };
  }

  function row(query) {
    const cells = [["Began", clock(query.began)], ["Took", seconds(query.seconds)], ["Rows", count(query.rows)], ["Chunks read", skipped(query)], ["Read locally", locally(query)], ["Moved", bytes(query.moved_bytes)]];
    return el("tr", { "data-state": query.state },
      el("th", { scope: "row" }, el("a", { class: "sql", href: `#/query/${query.number}` }, title(query)), query.error ? el("span", { class: "note bad" }, query.error) : null),
      el("td", { "data-title": "State" }, state(query)), ...cells.map(([name, text]) => el("td", { class: "right", "data-title": name }, text)));
  }

  function queries(said) {
    const numbers = new Set(said.running.map((query) => query.number));
    for (const [number, { line }] of live) {
      if (!numbers.has(number)) {
        line.remove();
        live.delete(number);
      }
    }
    for (const query of said.running) {
      if (!live.has(query.number)) {
        live.set(query.number, one(query));
        running.append(live.get(query.number).line);
      }
      say(live.get(query.number).facts, `for ${seconds(query.seconds)}, ${plural(query.rows, "row")} given out, began ${clock(query.began)}`);
    }
    none.hidden = numbers.size > 0;
    never.hidden = said.recent.length > 0;
    never.nextSibling.hidden = said.recent.length === 0;
    const now = said.recent.map((query) => query.number).join();
    if (now !== newest) recent.replaceChildren(...said.recent.map(row));
    newest = now;
  }

  function who() {
    live.clear();
    running.replaceChildren();
    if (shared.queries) queries(shared.queries);
  }
  if (!shared.queries) ask("queries").then(queries);
  return { title: "Queries", node, queries, who };
}

export function queryView(shared, number) {
  const box = el("div", {}), node = el("div", {}, el("p", { class: "path" }, el("a", { href: "#/queries" }, "Queries"), " / "), el("h1", {}, `Query ${count(Number(number))}`), box);
  let over = false;

  async function look() {
    const query = await ask(`queries/${number}`);
    over = query.state !== "running";
    const facts = [`began ${clock(query.began)}`, `${over ? "took" : "runs for"} ${seconds(query.seconds)}`, plural(query.rows, "row")];
    if (query.read_bytes) facts.push(`${bytes(query.read_bytes)} read, ${locally(query)} of it where it is`);
    if (query.moved_bytes != null) facts.push(`${bytes(query.moved_bytes)} moved`);
    box.replaceChildren(
      el("p", { class: "row" }, state(query), el("span", { class: "quiet" }, facts.join(" · ")), over ? null : cancelButton(shared, query.number)),
      ...(query.error ? [el("p", { class: "bad" }, query.error)] : []),
      el("h2", {}, "Text"), code(title(query), "Text"),
      ...(query.tables.length ? [el("h2", {}, "What it read"), el("ul", {}, ...query.tables.map((table) =>
        el("li", {}, `${table.title}: ${count(table.chunks_read)} of ${plural(table.chunks, "chunk")}, ${bytes(table.bytes)}${table.bytes ? `, ${locally({ read_bytes: table.bytes, local_bytes: table.local_bytes })} where they are` : ""}`)))] : []),
      ...(query.moves ? [el("h2", {}, "What ran where"), code(query.moves, "What ran where")] : []),
      el("h2", {}, "Plan"), query.plan ? code(query.plan, "Plan") : el("p", { class: "quiet" }, "It was over in less than 50 ms: its plan was not kept."));
  }
  function fail(error) {
    over = true;
    box.replaceChildren(el("p", {}, error.status === 404 ? "It is not remembered any more: the last hundred are." : error.message));
  }
  look().catch(fail);
  return { title: `Query ${number}`, node, queries: () => {
    if (!over) look().catch(fail);
  } };
}

function code(text, title) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, el("pre", {}, text));
}
