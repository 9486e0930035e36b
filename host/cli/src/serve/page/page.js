"use strict";
// Everything that comes from outside is put in as text, never as markup.

const $ = (id) => document.getElementById(id);

/** An element with these properties and children; children that are text stay text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replaceAll(",", "\u202f");
/** The beginning of a key or digest, without the name of what it is of. */
function short(digest) {
  const value = digest.slice(digest.indexOf(":") + 1);
  return make("span", { className: "digest", title: digest }, value.length > 16 ? `${value.slice(0, 12)}…` : value);
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// --- Asking the server -------------------------------------------------------------------------------------------------------------

const KEY = "ostrakon-key";

/** Asks; what the server says is wrong is thrown, in its words. */
async function ask(path, { body, signal, accept } = {}) {
  const headers = { Accept: accept ?? "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  const error = new Error(said?.error?.message ?? `the server answered ${response.status}`);
  error.status = response.status;
  if (response.status === 401) askForKey(key ? error.message : "");
  throw error;
}

/** The events of a stream, one by one. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the answer broke off");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

function askForKey(wrong) {
  $("key-wrong").textContent = wrong;
  $("key-wrong").hidden = !wrong;
  $("key-button").hidden = false;
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

// --- What is served ----------------------------------------------------------------------------------------------------------------

function choose(select, models) {
  select.replaceChildren(...models.map((model) => make("option", { value: model.id, title: model.package }, model.id)));
  select.disabled = models.length < 2;
}

async function begin() {
  notice("");
  let models;
  try {
    models = (await (await ask("/v1/models")).json()).data;
  } catch (error) {
    if (error.status !== 401) notice(`The models cannot be listed: ${error.message}`);
    return;
  }
  const of = (task) => models.filter((model) => model.task === task);
  const [writers, embedders] = [of("generation"), of("embedding")];
  choose($("chat-model"), writers);
  choose($("embedding-model"), embedders);
  document.querySelector(".tabs").hidden = !(writers.length && embedders.length);
  show(writers.length ? "chat" : "similarity");
}

function show(name) {
  for (const tab of ["chat", "similarity"]) {
    const chosen = tab === name;
    $(tab).hidden = !chosen;
    $(`${tab}-tab`).setAttribute("aria-selected", chosen);
    $(`${tab}-tab`).tabIndex = chosen ? 0 : -1;
  }
  $(name === "chat" ? "message" : "texts").focus({ preventScroll: true });
}

// --- Conversation ------------------------------------------------------------------------------------------------------------------

let messages = [];
let running = null;

function fit() {
  const field = $("message");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

const atEnd = () => innerHeight + scrollY >= document.body.scrollHeight - 80;
const toEnd = () => scrollTo(0, document.body.scrollHeight);

function busy(controller) {
  running = controller;
  $("send").hidden = !!controller;
  $("stop").hidden = !controller;
  $("clear").hidden = !!controller || !messages.length;
}

function request() {
  const body = { model: $("chat-model").value, messages, stream: true, stream_options: { include_usage: true } };
  const setting = (id) => ($(id).value.trim() === "" ? undefined : Number($(id).value));
  return { ...body, temperature: setting("temperature"), max_tokens: setting("tokens"), seed: setting("seed") };
}

async function say(text) {
  notice("");
  $("empty").hidden = true;
  messages.push({ role: "user", content: text });
  const words = make("div", { className: "text" });
  const facts = make("div", { className: "facts" });
  const article = make("article", { className: "assistant busy", "aria-busy": "true", "aria-label": "Answer" }, words, facts);
  $("log").append(make("article", { className: "user", "aria-label": "You" }, make("div", { className: "text" }, text)), article);
  toEnd();
  const controller = new AbortController();
  busy(controller);
  let answer = "", end = null, receipt = null, seed = null, first = 0, last = 0, usage = null;
  try {
    const response = await ask("/v1/chat/completions", { body: request(), signal: controller.signal, accept: "text/event-stream" });
    for await (const event of events(response)) {
      seed = event.seed ?? seed;
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      const piece = choice?.delta?.content;
      if (piece) {
        const follow = atEnd();
        first ||= performance.now();
        last = performance.now();
        answer += piece;
        words.append(piece);
        if (follow) toEnd();
      }
      end = choice?.finish_reason ?? end;
      receipt = choice?.ostrakon?.receipt ?? receipt;
    }
  } catch (error) {
    if (error.name === "AbortError") end = "stopped";
    else article.insertBefore(make("p", { className: "wrong", role: "alert" }, `No answer: ${error.message}`), facts);
  }
  article.classList.remove("busy");
  article.removeAttribute("aria-busy");
  if (answer) {
    messages.push({ role: "assistant", content: answer });
  } else {
    // What was not answered is not part of the conversation; it can be sent again.
    messages.pop();
    if (end !== "stop" && end !== "length") {
      $("message").value ||= text;
      fit();
    }
  }
  busy(null);
  describe(facts, article, { end, receipt, seed, usage, seconds: (last - first) / 1000 });
  if (atEnd()) toEnd();
  $("message").focus({ preventScroll: true });
}

function describe(facts, article, { end, receipt, seed, usage, seconds }) {
  const tokens = usage?.completion_tokens;
  const fact = (text) => facts.append(make("span", {}, text));
  if (tokens) fact(`${number(tokens)} tokens`);
  if (tokens > 2 && seconds > 0) fact(`${number((tokens - 1) / seconds, 1)} tokens/s`);
  if (seed !== null) fact(`seed ${seed}`);
  if (end === "length") fact("cut at the most tokens");
  if (end === "stopped") fact("stopped: no receipt");
  if (receipt) {
    const button = make("button", { type: "button", className: "small", "aria-expanded": "false" }, "Receipt");
    button.addEventListener("click", () => openReceipt(button, article, receipt));
    facts.append(button);
  }
}

// --- Receipts ----------------------------------------------------------------------------------------------------------------------

async function openReceipt(button, article, id) {
  const open = article.querySelector(".receipt");
  if (open) {
    open.hidden = !open.hidden;
    button.setAttribute("aria-expanded", !open.hidden);
    return;
  }
  button.disabled = true;
  button.textContent = "Making it…";
  article.querySelector(".facts + .wrong")?.remove();
  try {
    const bytes = await (await ask(`/v1/receipts/${encodeURIComponent(id)}`, { accept: "application/cbor" })).blob();
    const summary = await (await ask(`/v1/receipts/${encodeURIComponent(id)}/summary`)).json();
    article.append(panel(summary, bytes));
    button.setAttribute("aria-expanded", "true");
  } catch (error) {
    article.append(make("p", { className: "wrong", role: "alert" }, `No receipt: ${error.message}`));
  }
  button.disabled = false;
  button.textContent = "Receipt";
}

const signed = (valid, what = "") => make("span", { className: valid ? "good" : "bad" }, valid ? `✓ ${what}holds` : `✗ ${what}is wrong`);

function table(head, rows) {
  const cells = (row, tag) => make("tr", {}, ...row.map((cell) => make(tag, tag === "th" ? { scope: "col" } : {}, cell)));
  return make("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Who computed what" },
    make("table", {}, make("thead", {}, cells(head, "th")), make("tbody", {}, ...rows.map((row) => cells(row, "td")))));
}

function span(blocks) {
  const [first, last] = [blocks[0], blocks[blocks.length - 1]];
  return blocks.length === 1 ? first : `${first} … ${last} (${blocks.length})`;
}

function panel(summary, bytes) {
  const entries = make("dl");
  const entry = (name, ...value) => entries.append(make("dt", {}, name), make("dd", {}, ...value));
  entry("Receipt", short(summary.digest), `, ${number(bytes.size)} bytes`);
  entry("Signed by", make("span", { className: "digest" }, summary.issuer), " ", signed(summary.signed, "signature "));
  entry("Package", short(summary.package), ` ${summary.model}, tier ${summary.tier}`);
  if (summary.generated) {
    const { prompt_tokens, answer_tokens, temperature, seed } = summary.generated;
    entry("Answer", `${answer_tokens} tokens after ${prompt_tokens} of the prompt, temperature ${number(temperature, 2)}, seed ${seed}`);
  }
  const rows = summary.legs.flatMap((leg) => leg.shards.map((shard) => [
    shard.name ?? "–", span(shard.blocks), short(leg.node), leg.backend, signed(leg.signed),
  ]));
  const save = make("button", { type: "button", className: "small" }, "Save receipt");
  save.addEventListener("click", () => {
    const address = URL.createObjectURL(bytes);
    make("a", { href: address, download: `${summary.id}.receipt` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  });
  const verdict = make("div", { "aria-live": "polite" });
  const audits = [["Audit by replay", "replay"], ["Audit by Freivalds", "freivalds"]].map(([name, method]) => {
    const button = make("button", { type: "button", className: "small" }, name);
    button.addEventListener("click", () => audit(summary.id, method, audits, verdict));
    return button;
  });
  return make("section", { className: "receipt", "aria-label": "Receipt" },
    make("h2", {}, "Receipt"), entries, table(["Shard", "Blocks", "Node", "Backend", "Signature"], rows),
    make("div", { className: "row" }, save, ...audits), verdict);
}

async function audit(id, method, buttons, place) {
  for (const button of buttons) button.disabled = true;
  place.replaceChildren(make("p", { className: "small" }, "Every block is computed again…"));
  try {
    const report = await (await ask(`/v1/receipts/${encodeURIComponent(id)}/audit`, { body: { method } })).json();
    place.replaceChildren(verdictOf(report));
  } catch (error) {
    place.replaceChildren(make("p", { className: "wrong" }, `No verdict: ${error.message}`));
  }
  for (const button of buttons) button.disabled = false;
}

function verdictOf(report) {
  const [kind, title] = { accept: ["good", "✓ accept"], reject: ["bad", "✗ reject"] }[report.verdict] ?? ["doubt", "? indeterminate"];
  const entries = make("dl");
  const entry = (name, value) => entries.append(make("dt", {}, name), make("dd", {}, value));
  entry("Checked", `${report.looked_at} of ${report.steps} blocks, ${report.method === "replay" ? "run again" : "against a transcript that this server made"}`);
  if (report.products) {
    entry("Products", `${number(report.products)}: ${number(report.checking_multiply_adds)} multiply-adds to check ${number(report.multiply_adds)}`);
  }
  entry("Error bound", report.error_bound);
  const { load, audit, audit_cpu } = report.timing_ms;
  entry("Cost", `${number(audit)} ms (${number(audit_cpu)} ms of processors), ${number(load)} ms to load the model`);
  for (const reason of report.reasons) entry("Because", reason);
  if (report.accused) entry("Who", report.accused.node);
  for (const note of report.notes) entry("Note", note);
  return make("div", { className: "verdict" },
    make("strong", { className: kind }, title), entries,
    make("p", { className: "small" }, "Checked by the server that computed it. To check for yourself, save the receipt and run: ",
      make("code", {}, `ostrakon audit ${report.id}.receipt`)));
}

// --- Similarity --------------------------------------------------------------------------------------------------------------------

const MOST_TEXTS = 32;

function cosine(a, b) {
  let [ab, aa, bb] = [0, 0, 0];
  for (let at = 0; at < a.length; at++) {
    ab += a[at] * b[at];
    aa += a[at] * a[at];
    bb += b[at] * b[at];
  }
  return ab / Math.sqrt(aa * bb);
}

async function compare() {
  const texts = $("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const tell = (text) => $("matrix").replaceChildren(make("p", { className: "wrong" }, text));
  if (texts.length < 2 || texts.length > MOST_TEXTS) return tell(`Give 2 to ${MOST_TEXTS} texts, one a line: these are ${texts.length}.`);
  const button = $("compare").querySelector("[type=submit]");
  button.disabled = true;
  try {
    const began = performance.now();
    const answer = await (await ask("/v1/embeddings", { body: { model: $("embedding-model").value, input: texts } })).json();
    const took = performance.now() - began;
    const vectors = answer.data.map((one) => one.embedding);
    const head = make("tr", {}, make("td"), ...texts.map((text, at) => make("th", { scope: "col", title: text }, String(at + 1))));
    const rows = texts.map((text, row) => make("tr", {}, make("th", { scope: "row" }, `${row + 1}  ${text}`),
      ...vectors.map((vector) => {
        const value = cosine(vectors[row], vector);
        const cell = make("td", {}, number(value, 2));
        cell.style.setProperty("--heat", Math.min(1, Math.abs(value)).toFixed(3));
        if (value < 0) cell.style.setProperty("--hue", "var(--cold)");
        return cell;
      })));
    $("matrix").replaceChildren(
      make("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Similarities" },
        make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))),
      make("p", { className: "small" }, `Cosines: 1 means the same direction. ${answer.usage.total_tokens} tokens in ${number(took)} ms.`));
  } catch (error) {
    tell(`No vectors: ${error.message}`);
  }
  button.disabled = false;
}

// --- What people do ----------------------------------------------------------------------------------------------------------------

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || running) return;
  $("message").value = "";
  fit();
  say(text);
});
$("message").addEventListener("input", fit);
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  messages = [];
  $("log").replaceChildren();
  $("empty").hidden = false;
  busy(null);
  $("message").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("compare").addEventListener("submit", (event) => {
  event.preventDefault();
  compare();
});
const tabs = ["chat", "similarity"];
for (const [at, tab] of tabs.entries()) {
  $(`${tab}-tab`).addEventListener("click", () => show(tab));
  $(`${tab}-tab`).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = tabs[(at + 1) % tabs.length];
    show(other);
    $(`${other}-tab`).focus();
  });
}
$("key-button").addEventListener("click", () => askForKey(""));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  $("key-dialog").close();
  begin();
});
begin();
