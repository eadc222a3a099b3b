// The keys as a tree. What is under a prefix is asked for when it is opened, a page at a time.

import { again, ask, bytes, count, el, plain, plural, say } from "./tools.js";

const PAGE = 100;

export function keysView(_, prefix) {
  const body = el("tbody", {}), sum = el("p", { class: "quiet", role: "status" });
  const wanted = el("input", { type: "search", id: "prefix", value: prefix, placeholder: "all keys", spellcheck: "false", autocapitalize: "off" });
  const form = el("form", { class: "bar", on: { submit: (event) => {
    event.preventDefault();
    location.hash = `#/keys/${encodeURIComponent(wanted.value)}`;
  } } }, el("h1", {}, "Keys"), el("label", { for: "prefix" }, "that begin with"), wanted, el("button", { type: "submit" }, "Show"), sum);
  const node = el("div", {}, form,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Keys" },
      el("table", { class: "keys" },
        el("thead", {}, el("tr", {}, ...["Key", "Kind"].map((title) => el("th", { scope: "col" }, title)),
          ...["Rows", "Size", "Copies", "Version"].map((title) => el("th", { scope: "col", class: "right" }, title)))), body)));

  /** Add what is under `prefix` after the row `place` (at the end where there is none), in `depth`. */
  async function page(prefix, after, depth, place, made) {
    const said = await ask(`keys?prefix=${encodeURIComponent(prefix)}&after=${encodeURIComponent(after)}&limit=${PAGE}`);
    const rows = said.rows.map((row) => (row.prefix == null ? key(row, prefix, depth, said.copies) : group(row, prefix, depth, said.copies)));
    if (said.next) rows.push(more(said, depth, made));
    if (place) place.after(...rows);
    else body.append(...rows);
    made.push(...rows);
    if (depth === 0 && !after) {
      sum.textContent = said.keys ? `${plural(said.keys, "key")}` : prefix ? "no key begins so" : "the store is empty";
    }
    return rows;
  }

  function name(text, prefix, depth) {
    const cell = el("th", { scope: "row" });
    cell.style.setProperty("--depth", depth);
    return [cell, text.slice(prefix.length) || text];
  }

  function cells(kind, rows, size, copies, version) {
    return [el("td", {}, kind), ...[rows, size, copies, version].map((text) => el("td", { class: "right" }, text))];
  }

  function key(row, prefix, depth, copies) {
    const [cell, text] = name(row.key, prefix, depth), isFrame = row.kind === "frame" || row.kind === "file";
    cell.append(isFrame ? el("a", { href: `#/frame/${encodeURIComponent(row.key)}` }, text) : plain(text));
    return el("tr", {}, cell, ...cells(row.kind || "–", row.rows == null ? "" : count(row.rows), bytes(row.bytes), count(copies), count(row.version)));
  }

  function group(row, prefix, depth, copies) {
    const [cell, text] = name(row.prefix, prefix, depth), inside = [];
    const button = el("button", { type: "button", class: "open", "aria-expanded": "false" }, text);
    const size = row.bytes == null ? "–" : row.is_whole ? bytes(row.bytes) : `over ${bytes(row.bytes)}`;
    const line = el("tr", { class: "group" }, cell, ...cells(plural(row.keys, "key"), "", size, count(copies), ""));
    cell.append(button);
    button.addEventListener("click", async () => {
      const opens = button.getAttribute("aria-expanded") === "false";
      button.setAttribute("aria-expanded", String(opens));
      if (!opens) {
        const close = (rows) => rows.forEach((each) => {
          if (each.inside) close(each.inside.splice(0));
          each.remove();
        });
        close(inside.splice(0));
      } else if (!inside.length) {
        button.disabled = true;
        await page(row.prefix, "", depth + 1, line, inside).finally(() => (button.disabled = false));
        button.focus();
      }
    });
    line.inside = inside;
    return line;
  }

  function more(said, depth, made) {
    const cell = el("th", { colspan: 6, scope: "row" });
    cell.style.setProperty("--depth", depth);
    const line = el("tr", { class: "more" }, cell);
    cell.append(el("button", { type: "button", on: { click: async (event) => {
      event.target.disabled = true;
      const rows = await page(said.prefix, said.next, depth, line, made);
      line.remove();
      rows[0]?.querySelector("a, button")?.focus();
    } } }, `${count(Math.min(PAGE, said.left))} more of ${count(said.left)}`));
    return line;
  }

  const close = again(() => page(prefix, "", 0, null, []), () => null, (text) => text && say(sum, `${text}. It is asked again.`));
  return { title: "Keys", node, close };
}
