// Elements, numbers as people read them, and asking the server. What users wrote only ever becomes text, never markup.

const TOKEN = "eau2-token";
const AGAIN_SECONDS = 3;

// Characters that are not seen, or turn round those that follow: a key must not look like another.
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Return what `said` is as text that shows all of it: `\u202e` and the like for what would not be seen. */
export function plain(said) {
  return String(said).replace(UNSEEN, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Make an element: attributes by name, `on` for listeners, children as nodes or text. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null).map((child) => (typeof child === "string" ? plain(child) : child)));
  return made;
}

/** Set a text only where it differs: what stays the same is not laid out again. */
export function say(node, said) {
  const text = plain(said ?? "");
  if (node.textContent !== text) node.textContent = text;
}

// -- numbers --------------------------------------------------------------------------------------------------------

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value) {
  return value == null ? NONE : whole.format(value);
}

export function short(value) {
  if (value == null) return NONE;
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(value) >= size) return `${digits(value / (letter === "k" ? 1e3 : size))} ${letter}`;
  }
  return Math.abs(value) >= 100 || Number.isInteger(value) ? whole.format(value) : digits(value);
}

function digits(value) {
  const size = Math.abs(value);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size === 0 ? "0" : value.toFixed(2);
}

export function bytes(value) {
  if (value == null) return NONE;
  if (value < 1000) return `${Math.round(value)} B`;
  const power = Math.min(5, Math.floor((Math.floor(Math.log10(value)) + 1e-9) / 3));
  return `${digits(value / 1000 ** power)} ${["", "kB", "MB", "GB", "TB", "PB"][power]}`;
}

export function rate(value) {
  return value == null ? NONE : `${short(value)}/s`;
}

export function seconds(value) {
  if (value == null) return NONE;
  if (value < 1e-3) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${digits(value * 1e3)} ms`;
  if (value < 120) return `${digits(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${digits(value / 3600)} h`;
}

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString("en-GB");
}

export function amount(value, unit) {
  if (unit === "bytes") return bytes(value);
  if (unit === "seconds") return seconds(value);
  return short(value);
}

export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

// -- the server -----------------------------------------------------------------------------------------------------

export class Failure extends Error {
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

/** Do `act` every `pause()` seconds, and again soon after it has failed, until the function that this returns is called. What fails is `told`, and "" when it does not any more. */
export function again(act, pause, told) {
  let timer = 0, over = false;
  async function round() {
    let wait = AGAIN_SECONDS;
    try {
      await act();
      wait = pause();
      told("");
    } catch (error) {
      if (error instanceof Failure && error.status < 500) wait = null; // it would fail again
      told(`${error.message}${error.hint ? `: ${error.hint}` : ""}`);
    } finally {
      if (!over && wait != null) timer = setTimeout(round, wait * 1000);
    }
  }
  round();
  return () => {
    over = true;
    clearTimeout(timer);
  };
}

let entering = null; // the promise of a token, while the form is shown

/** Ask for a document under /monitor/. Shows the form for a token where one is wanted, and asks again. */
export async function ask(path, options = {}) {
  const response = await answer(path, options);
  return response.json();
}

export async function answer(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.ok) return response;
    const said = await response.json().catch(() => ({}));
    if (response.status !== 401) throw new Failure(response.status, said.message || response.statusText, said.hint);
    if (token === sessionStorage.getItem(TOKEN)) sessionStorage.removeItem(TOKEN);
    entering ??= enter(token ? said.message : "").finally(() => (entering = null));
    await entering;
  }
}

function enter(said) {
  const door = document.getElementById("door"), field = document.getElementById("token");
  say(document.getElementById("door-said"), said ? `${said}.` : "");
  field.value = "";
  if (!door.open) door.showModal();
  return new Promise((done) => {
    door.addEventListener("close", () => {
      if (field.value) sessionStorage.setItem(TOKEN, field.value.trim());
      field.value = "";
      done();
    }, { once: true });
  });
}

/** Read server-sent events until the stream ends. `heard(name, document)` is called for each. */
export async function listen(path, heard, signal) {
  const reader = (await answer(path, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (pending + value).split("\n\n");
    pending = events.pop();
    for (const event of events) {
      const name = /^event: (.*)$/m.exec(event), data = /^data: (.*)$/m.exec(event);
      if (name && data) heard(name[1], JSON.parse(data[1]));
    }
  }
}
