// One run: what came of it on each node, and what it wrote there, as it is written.

import { answer, ask, bytes, count, el, plural, say, seconds } from "./tools.js";
import { badge, moment, outcome, who } from "./runs.js";

const FOLLOW_SECONDS = 1;
const TROUBLED_SECONDS = 5;
const OPEN_MAX = 8; // nodes whose output is shown at once; others are opened one by one
const STREAMS = [["out", "Standard output"], ["err", "Standard error"]];

export function runView(shared, id) {
  const facts = el("p", { class: "quiet" }), text = el("pre", {}), body = el("tbody", {}), missing = el("p", { class: "quiet", role: "status" }), note = el("p", { class: "quiet" });
  const title = el("h1", {}, "Run"), states = el("p", { class: "row" }), outputs = el("section", { "aria-label": "Output" }, el("h2", {}, "Output"), note);
  const node = el("div", {}, el("p", { class: "path" }, el("a", { href: "#/runs" }, "Runs"), " / "), title, states,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "What was run" }, text), facts,
    el("section", { "aria-label": "Each node" }, el("h2", {}, "Each node"), missing,
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Nodes" },
        el("table", { class: "recent cards" }, el("thead", {}, el("tr", {}, ...["Node", "What came of it", "Took", "Why"].map((head) => el("th", { scope: "col" }, head)))), body))),
    outputs);
  const shown = new Map();
  let timer = 0, over = false, last = "", cancel = null;

  async function look() {
    let pause = TROUBLED_SECONDS;
    try {
      const said = await ask(`runs/${encodeURIComponent(id)}`);
      show(said);
      if (!said.why) await Promise.all([...shown.values()].map((one) => one.look()));
      if (!said.running) over = over || [...shown.values()].every((one) => one.isDone());
      pause = FOLLOW_SECONDS;
    } catch (error) {
      if (error.status === 404 && !last) pause = FOLLOW_SECONDS; // it has just been begun
      say(missing, error.status === 404 && !last ? "It is not known yet, or not any more." : `${error.message}${error.hint ? `: ${error.hint}` : ""}`);
    }
    if (!over) timer = setTimeout(look, pause * 1000);
  }

  function show(said) {
    const now = JSON.stringify([said.nodes, said.running, said.failed]);
    say(note, said.why || (said.kind === "push" ? "Files were pushed: there is none." : ""));
    note.hidden = !note.textContent;
    if (now === last) return;
    last = now;
    say(title, `Run ${said.id}`);
    say(text, said.text);
    say(facts, [`by ${who(said)}`, `at ${moment(said.time)}`, `${said.kind}, SHA-256 ${said.sha256.slice(0, 12)}`].join(" · "));
    const bad = said.nodes.filter((one) => one.state && !(one.state === "ended" && one.code === 0));
    const word = new Set(bad.map(outcome)).size === 1 ? outcome(bad[0]) : "not well";
    const whole = said.running ? badge({}, "running") : bad.length ? badge(bad[0], `${word} on ${plural(bad.length, "node")}`) : badge({ state: "ended", code: 0 }, "done");
    if (said.running && !said.why) cancel ??= cancelButton(id);
    states.replaceChildren(...[whole, said.failed ? el("span", { class: "bad" }, said.failed) : null, said.running && !said.why ? cancel : null].filter(Boolean));
    say(missing, said.missing ? `Of ${plural(said.missing, "node")} that ${said.missing === 1 ? "was" : "were"} asked nothing is known: not begun there, or it does not answer.` : "");
    body.replaceChildren(...said.nodes.map((one) => el("tr", {},
      el("th", { scope: "row" }, el("a", { href: `#/node/${encodeURIComponent(one.node)}` }, one.node)),
      el("td", { "data-title": "What came of it" }, badge(one)), el("td", { "data-title": "Took" }, one.state ? seconds(one.seconds) : "–"), el("td", { "data-title": "Why" }, el("span", { class: "wraps" }, one.why || "–")))));
    if (said.why || said.kind === "push") return;
    const known = shown.size;
    for (const one of said.nodes) {
      if (!shown.has(one.node)) shown.set(one.node, output(id, one.node, shown.size < OPEN_MAX));
      shown.get(one.node).set(one);
    }
    if (shown.size > known) outputs.append(...said.nodes.map((one) => shown.get(one.node).node)); // in the order of the table
  }

  look();
  return { title: "Run", node, close: () => {
    over = true;
    clearTimeout(timer);
  } };
}

function cancelButton(id) {
  const button = el("button", { type: "button", class: "cancel", on: { click: async () => {
    button.disabled = true;
    say(button, "Cancelling");
    await answer(`runs/${encodeURIComponent(id)}/cancel`, { method: "POST" }).catch((error) => {
      button.disabled = false;
      say(button, "Cancel");
      throw error;
    });
  } } }, "Cancel");
  return button;
}

/** What a run has written on one node. */
function output(id, name, isOpen) {
  const streams = new Map(STREAMS.map(([stream, title]) => [stream, piece(name, title)]));
  const failed = el("p", { class: "bad", role: "status" }), mark = el("span", {});
  let done = false, state = null, looking = false;
  const node = el("details", { class: "output", open: isOpen }, el("summary", {}, el("h3", {}, name), " ", mark), failed, ...[...streams.values()].map((one) => one.node));
  node.addEventListener("toggle", () => look().catch(() => {}));

  async function look() {
    if (!node.open || done || looking) return;
    looking = true;
    try {
      const [out, err] = [streams.get("out").next, streams.get("err").next];
      const said = await ask(`runs/${encodeURIComponent(id)}/output?node=${encodeURIComponent(name)}&out=${out}&err=${err}`);
      for (const [stream] of STREAMS) streams.get(stream).add(said[stream]);
      done = Boolean(said.state);
      say(failed, "");
    } catch (error) {
      done = error.status === 404 || (error.status === 503 && Boolean(state)); // it is not asked again and again
      say(failed, `What it wrote there cannot be read: ${error.message}`);
    } finally {
      looking = false;
    }
  }
  return { node, look, isDone: () => done || !node.open, set: (one) => {
    state = one.state;
    mark.replaceChildren(badge(one));
  } };
}

function piece(name, title) {
  const text = el("pre", {}), gaps = el("p", { class: "note", role: "status" }), none = el("p", { class: "quiet" }, "nothing yet");
  const box = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${name}: ${title.toLowerCase()}`, hidden: true }, text);
  const made = { node: el("div", { class: "stream" }, el("h4", {}, title), none, box, gaps), next: 0, add };
  let left = 0;

  function gap(size) {
    left += size;
    text.append(el("span", { class: "gap" }, `\n[${count(size)} bytes were left out]\n`));
  }
  function add(said) {
    const follows = box.scrollTop + box.clientHeight >= box.scrollHeight - 4;
    for (const each of said.pieces) {
      if (each.start > made.next) gap(each.start - made.next);
      text.append(each.text);
      made.next = each.end;
    }
    if (said.total != null && said.total > made.next) {
      gap(said.total - made.next);
      made.next = said.total;
    }
    box.hidden = made.next === 0;
    say(none, said.total === 0 ? "nothing" : "nothing yet");
    none.hidden = made.next > 0;
    say(gaps, left ? `${bytes(left)} were left out: a node keeps how it began, and how it ended.` : "");
    if (follows) box.scrollTop = box.scrollHeight;
  }
  return made;
}
