// One frame: columns, first rows, and its chunks with where they are.

import { again, ask, bytes, count, el, plural, say } from "./tools.js";

const UNNAMED = "(no name)"; // a column may be called so

export function frameView(_, key) {
  const box = el("div", {}), node = el("div", {}, path(key), el("h1", {}, key), box);
  const failed = el("p", { class: "bad", role: "status" });
  let live = null, close = look();
  node.append(failed);

  function look() {
    return again(show, () => null, (text) => say(failed, text));
  }

  /** Who has the chunks is asked again when others are live than before. */
  function overview(said) {
    const now = said.nodes.filter((each) => each.state === "live").map((each) => each.name).sort().join("\n");
    if (live != null && now !== live) {
      close();
      close = look();
    }
    live = now;
  }

  async function show() {
    const said = await ask(`frame?key=${encodeURIComponent(key)}`), shown = said.chunks ? await chunks(said) : [];
    box.replaceChildren(
      el("p", { class: "quiet" }, [plural(said.rows, "row"), plural(said.columns.length, "column"), plural(said.chunks, "chunk"), bytes(said.bytes),
        said.copies && (said.copies === 1 ? "1 copy" : `${count(said.copies)} copies`), `version ${count(said.version)}`].filter(Boolean).join(" · ")),
      section("First rows", preview(said)), ...shown);
  }
  return { title: key, node, overview, close: () => close() };

  function preview(said) {
    const shown = said.columns.slice(0, said.preview.length), count = said.preview[0]?.length ?? 0;
    const table = el("table", { class: "rows" },
      el("thead", {}, el("tr", {}, ...shown.map((column) => el("th", { scope: "col", class: right(column.type) }, column.name || UNNAMED, el("small", {}, column.type))))),
      el("tbody", {}, ...Array.from({ length: count }, (_, row) =>
        el("tr", {}, ...said.preview.map((column, at) => el("td", { class: right(shown[at].type) }, column[row]))))));
    const rest = said.columns.slice(shown.length).map((column) => `${column.name || UNNAMED} ${column.type}`).join(", ");
    return [scroll(table, "First rows"), rest ? el("p", { class: "quiet" }, `Further columns: ${rest}`) : null];
  }

  async function chunks(said) {
    const body = el("tbody", {}), map = el("div", {}), found = [];
    let column = 0, next = 0;
    const choose = el("select", { id: "column", on: { change: () => {
      column = Number(choose.value);
      fill();
    } } }, ...said.preview.map((_, at) => el("option", { value: at }, said.columns[at].name || UNNAMED)));
    const more = el("button", { type: "button", on: { click: load } }, "More chunks");

    function fill() {
      body.replaceChildren(...found.map((chunk) => {
        const [nulls, least, most] = chunk.columns[column] ?? [null, "", ""];
        return el("tr", {}, el("th", { scope: "row", title: chunk.id }, `${count(chunk.index)} `, el("code", {}, chunk.id.slice(0, 8))),
          ...[count(chunk.rows), bytes(chunk.bytes), least, most, count(nulls)].map((text) => el("td", { class: "right" }, text)),
          el("td", {}, chunk.homes.join(", ") || "here"), el("td", {}, chunk.place || "here"));
      }));
    }
    async function load() {
      more.disabled = true;
      const page = await ask(`chunks?key=${encodeURIComponent(key)}&first=${next}`);
      found.push(...page.chunks);
      next = page.first + page.chunks.length;
      more.hidden = next >= page.count;
      more.disabled = false;
      map.replaceChildren(chunkMap(found, said.nodes, page.count));
      fill();
    }
    await load();
    const titles = ["Chunk", "Rows", "Size", "Least", "Greatest", "Missing"].map((title, at) => el("th", { scope: "col", class: at ? "right" : "" }, title));
    const table = el("table", { class: "chunks" }, el("thead", {}, el("tr", {}, ...titles, el("th", { scope: "col" }, "Kept on"), el("th", { scope: "col" }, "Read from"))), body);
    return [section("Where its chunks are", [map]),
      section("Each chunk", [el("div", { class: "bar" }, el("label", { for: "column" }, "Least and greatest of"), choose), scroll(table, "Chunks"), more])];
  }
}

/** A square for each chunk on each node that has it: filled where it is read now. */
function chunkMap(chunks, nodes, total) {
  if (nodes.length < 2) return el("p", {}, `${total === 1 ? "The chunk is" : `All ${count(total)} chunks are`} on ${nodes[0]?.name ?? "this node"}.`);
  const rows = nodes.filter((node) => chunks.some((chunk) => chunk.place === node.name || chunk.homes.includes(node.name)));
  const lines = rows.map((node) => el("tr", {},
    el("th", { scope: "row", class: node.live ? "" : "bad" }, el("a", { href: `#/node/${encodeURIComponent(node.name)}` }, node.name)),
    el("td", {}, el("div", { class: "squares", "aria-hidden": "true" }, ...chunks.map((chunk) => {
      const kind = chunk.place === node.name ? "read" : chunk.homes.includes(node.name) ? "copy" : "none";
      return el("i", { class: kind, title: kind === "none" ? null : `chunk ${chunk.index}, ${kind === "read" ? "read here" : "a copy"}` });
    }))),
    el("td", { class: "right" }, `${count(node.read)} read, ${count(node.held)} kept`)));
  return el("div", {}, scroll(el("table", { class: "map" }, el("tbody", {}, ...lines)), "Chunks and nodes"),
    el("p", { class: "quiet key-of-map", "aria-hidden": "true" }, el("i", { class: "read" }), " read from here now ", el("i", { class: "copy" }), " a copy",
      chunks.length < total ? ` · the first ${count(chunks.length)} of ${count(total)} chunks` : ""));
}

function path(key) {
  const parts = key.split("/"), links = [el("a", { href: "#/keys/" }, "Keys"), " / "];
  for (let at = 1; at < parts.length; at += 1) {
    links.push(el("a", { href: `#/keys/${encodeURIComponent(`${parts.slice(0, at).join("/")}/`)}` }, parts[at - 1] || "(empty)"), " / ");
  }
  return el("p", { class: "path" }, ...links);
}

function section(title, children) {
  return el("section", {}, el("h2", {}, title), ...children);
}

function scroll(table, title) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, table);
}

function right(type) {
  return /^(u?int|float|double|half|decimal)/.test(type) ? "right" : "";
}
