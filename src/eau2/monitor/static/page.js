// The page: which view is shown, and what the server says every few seconds.

import { frameView } from "./frame.js";
import { keysView } from "./keys.js";
import { nodeView, nodesView } from "./nodes.js";
import { queriesView, queryView } from "./queries.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { Failure, ask, clock, el, listen, plain, say, seconds } from "./tools.js";

const AGAIN_SECONDS = 2;
const SILENT_SECONDS = 20; // the server says something every 15 at least, unless looking takes it long

const main = document.getElementById("main");
const views = [
  [/^\/$/, "nodes", nodesView],
  [/^\/node\/(.*)$/, "nodes", nodeView],
  [/^\/keys(?:\/(.*))?$/, "keys", keysView],
  [/^\/frame\/(.*)$/, "keys", frameView],
  [/^\/queries$/, "queries", queriesView],
  [/^\/query\/(\d+)$/, "queries", queryView],
  [/^\/runs$/, "runs", runsView],
  [/^\/run\/(.+)$/, "runs", runView],
];

/** What all views share: the last documents, and what the client may do. */
const state = { overview: null, queries: null, role: "read", store: "" };
let view = null, heardAt = 0;

// -- views ----------------------------------------------------------------------------------------------------------

/** Return what a part of an address says; as it stands where somebody has typed what encodes nothing. */
function decoded(part = "") {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function route() {
  const path = location.hash.slice(1) || "/";
  const [, name, make, ...given] = views.map(([form, ...rest]) => [form.exec(path), ...rest])
    .filter(([found]) => found).map(([found, name, make]) => [found, name, make, ...found.slice(1).map(decoded)])[0] ?? [];
  view?.close?.();
  view = null;
  trouble("");
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!make) {
    main.replaceChildren(el("h1", {}, "There is no such view"), el("p", {}, el("a", { href: "#/" }, "All nodes")));
    return;
  }
  try {
    view = make(state, ...given);
  } catch (error) {
    fail(error);
    return;
  }
  main.replaceChildren(view.node);
  document.title = plain(`${view.title} · eau2`);
  for (const each of ["overview", "queries"]) if (state[each]) view[each]?.(state[each]);
  window.scrollTo(0, 0);
}

function fail(error) {
  trouble(error instanceof Failure ? `${error.message}${error.hint ? `: ${error.hint}` : ""}` : `This page has failed: ${error}`);
}

function trouble(text, kind = "") {
  const box = document.getElementById("trouble");
  box.dataset.kind = kind;
  say(box, text);
  box.hidden = !text;
}

// -- what the server says -------------------------------------------------------------------------------------------

function heard(name, said) {
  heardAt = performance.now();
  if (said.error) {
    const last = state.overview && `What is shown is of ${clock(state.overview.time)}. `;
    trouble(`${last ?? ""}The store cannot be looked at: ${said.error}`);
    return;
  }
  if (name === "overview") trouble(said.troubles.length ? `Not everything is of now: ${said.troubles.join("; ")}.` : "", "old");
  state[name] = said;
  if (name === "overview") {
    const running = said.queries.running, box = document.getElementById("running");
    say(box, String(running));
    box.hidden = running === 0;
    box.title = running === 1 ? "1 query runs" : `${running} queries run`;
  }
  view?.[name]?.(said);
}

function tick() {
  const status = document.getElementById("heard"), age = (performance.now() - heardAt) / 1000;
  const silent = heardAt === 0 || age > SILENT_SECONDS;
  status.dataset.state = silent ? "silent" : "live";
  say(document.getElementById("heard-text"), heardAt === 0 ? "connecting" : silent ? `nothing heard for ${seconds(Math.round(age))}` : "live");
}

async function follow() {
  for (;;) {
    try {
      await listen("events", heard);
    } catch (error) {
      if (error instanceof Failure) fail(error);
    }
    await new Promise((done) => setTimeout(done, AGAIN_SECONDS * 1000));
  }
}

async function begin() {
  window.addEventListener("hashchange", () => {
    route();
    main.focus({ preventScroll: true });
  });
  window.addEventListener("unhandledrejection", (event) => fail(event.reason));
  setInterval(tick, 1000);
  route();
  follow();
  const who = await ask("who");
  state.role = who.role;
  state.store = who.store;
  say(document.getElementById("store"), who.store);
  view?.who?.();
}

begin();
