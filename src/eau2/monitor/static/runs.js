// What was run on the nodes, and a form to run more.

import { ask, clock, count, el, plural, say, seconds } from "./tools.js";

const LIST_SECONDS = 3;
const WORDS = {
  deadline: "ended at the deadline", cancelled: "cancelled", failed: "failed", lost: "lost", refused: "refused", unreached: "not reached", skipped: "skipped",
};
const LOOKS = { deadline: "failed", lost: "failed", unreached: "failed", refused: "failed", skipped: "cancelled" };

/** What came of a run on a node, as one reads it. */
export function outcome(one) {
  if (!one.state) return "running";
  if (one.state !== "ended") return WORDS[one.state] ?? one.state;
  return one.code < 0 ? `ended by signal ${-one.code}` : `ended with ${one.code}`;
}

/** A word for what came of it, with a dot whose look says how it is. */
export function badge(one, text = outcome(one)) {
  const look = !one.state ? "running" : one.state === "ended" ? (one.code === 0 ? "done" : "failed") : LOOKS[one.state] ?? one.state;
  return el("span", { class: "badge", "data-state": look }, el("span", { class: "dot", "aria-hidden": "true" }), text);
}

/** A moment: the time, and the day unless it is today. */
export function moment(unix) {
  const date = new Date(unix * 1000), today = new Date().toDateString() === date.toDateString();
  return `${today ? "" : `${date.toLocaleDateString("en-GB")} `}${clock(unix)}`;
}

export function who(run) {
  return [run.user, run.host].filter(Boolean).join("@");
}

export function runsView() {
  const body = el("tbody", {}), refused = el("tbody", {}), note = el("p", { class: "quiet", role: "status" }), none = el("p", { class: "quiet" });
  const started = form();
  const list = table("runs", "What was run", ["What", "Who", "When", "Nodes", "What came of it"], body);
  const attempts = el("section", { hidden: true, "aria-label": "Refused" }, el("h2", {}, "Refused"),
    table("runs", "Refused attempts", ["What", "Who", "When", "Why"], refused));
  const node = el("div", {}, el("h1", {}, "Runs"), note, started.node,
    el("section", { "aria-label": "Runs" }, el("h2", {}, "What was run"), none, list), attempts);
  let timer = 0, over = false, shown = "";

  async function look() {
    try {
      show(await ask("runs"));
    } catch (error) {
      say(note, `${error.message}${error.hint ? `: ${error.hint}` : ""}`);
    }
    if (!over) timer = setTimeout(look, LIST_SECONDS * 1000);
  }

  function show(said) {
    say(note, said.why);
    note.hidden = !said.why;
    started.set(said);
    say(none, said.cluster ? "Nothing was run on these nodes." : "");
    none.hidden = said.runs.length > 0 || !said.cluster;
    list.hidden = said.runs.length === 0;
    attempts.hidden = said.refused.length === 0;
    const now = JSON.stringify([said.runs, said.refused]);
    if (now === shown) return; // a reader may be amid it
    shown = now;
    const at = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    body.replaceChildren(...said.runs.map(row));
    if (at) body.querySelector(`a[href="${CSS.escape(at)}"]`)?.focus();
    refused.replaceChildren(...said.refused.map(attempt));
  }

  look();
  return { title: "Runs", node, close: () => {
    over = true;
    clearTimeout(timer);
  } };
}

function table(name, title, heads, body) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
    el("table", { class: `${name} recent cards` }, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), body));
}

function row(run) {
  const outcomes = run.outcomes.map((one) => el("li", {}, badge(one), el("span", { class: "note" },
    run.outcomes.length > 1 || one.count === 1 ? ` ${one.nodes.join(", ")}${one.count > one.nodes.length ? ` and ${count(one.count - one.nodes.length)} more` : ""}` : ` on all ${count(one.count)}`)));
  return el("tr", {},
    el("th", { scope: "row" }, el("a", { class: "sql", href: `#/run/${encodeURIComponent(run.id)}` }, run.text || run.kind),
      el("span", { class: "note" }, run.id)),
    cell("Who", who(run)), cell("When", moment(run.time), `${run.running ? "runs" : "took"} ${run.running ? "" : seconds(run.seconds)}`.trim()),
    cell("Nodes", `${count(run.begun)} of ${count(run.asked)}`), el("td", { "data-title": "What came of it" }, el("ul", { class: "outcomes" }, ...outcomes)));
}

function attempt(one) {
  return el("tr", {}, el("th", { scope: "row" }, el("span", { class: "sql" }, one.text || "(refused before it was read)")),
    cell("Who", who(one)), cell("When", moment(one.time)), cell("Why", one.why));
}

function cell(title, text, more) {
  return el("td", { "data-title": title }, el("span", { class: title === "Who" || title === "Why" ? "wraps" : "" }, text), more ? el("span", { class: "note" }, more) : null);
}

// -- the form -------------------------------------------------------------------------------------------------------

function form() {
  const script = el("textarea", { id: "script", name: "script", rows: 6, spellcheck: "false", autocapitalize: "off", autocomplete: "off", required: true, placeholder: "uptime", "aria-describedby": "script-note" });
  const nodes = el("input", { id: "run-nodes", name: "nodes", spellcheck: "false", autocapitalize: "off", autocomplete: "off", placeholder: "all" });
  const deadline = el("input", { id: "run-deadline", name: "deadline", type: "number", min: "0.1", step: "any", placeholder: "none", inputmode: "decimal" });
  const rolling = el("input", { id: "run-rolling", name: "rolling", type: "checkbox" });
  const button = el("button", { type: "submit", class: "main" }, "Run"), failed = el("p", { class: "bad", role: "alert" });
  const known = el("p", { class: "note", id: "script-note" });
  const node = el("section", { hidden: true, "aria-label": "Run a script" }, el("h2", {}, "Run a script on the nodes"),
    el("form", { class: "run", on: { submit: (event) => {
      event.preventDefault();
      begin().catch((error) => say(failed, `${error.message}${error.hint ? `: ${error.hint}` : ""}`)).finally(() => (button.disabled = false));
    } } },
    el("label", { for: "script" }, "Script, for /bin/sh or what its first line says"), script, known,
    el("div", { class: "fields" },
      el("div", {}, el("label", { for: "run-nodes" }, "Nodes"), nodes),
      el("div", {}, el("label", { for: "run-deadline" }, "Deadline in seconds"), deadline),
      el("div", { class: "check" }, rolling, el("label", { for: "run-rolling" }, "One node after the other")),
      button),
    failed));

  async function begin() {
    say(failed, "");
    button.disabled = true;
    const asked = { script: script.value, nodes: nodes.value.split(/[\s,]+/).filter(Boolean), rolling: rolling.checked };
    if (deadline.value) asked.deadline_seconds = Number(deadline.value);
    const said = await ask("runs", { method: "POST", body: JSON.stringify(asked) });
    location.hash = `#/run/${encodeURIComponent(said.run)}`;
  }
  function set(said) {
    node.hidden = !said.cluster || Boolean(said.why);
    const names = said.nodes.slice(0, 8).join(", ");
    say(known, `It runs once on each of ${plural(said.nodes.length, "node")} (${names}${said.nodes.length > 8 ? ", …" : ""}), as the user that they run as.`);
  }
  return { node, set };
}
