// The page of durable runs: a list with filters, and one run with what can be done about it.
// The address after # names the run, so that links, the back button and a reload work.

import { button, byId, element, labelled, say } from "./elements.js";
import { shown, shownJson } from "./json_text.js";

const ROOT = new URL(".", location.href);
const KEY = `runs ${ROOT.pathname} key`;
const PAGE = 50;
const FILTERS = ["status", "agent", "queue", "session"];

let key = "";
let offset = 0;
// Answers that come after the person went on are dropped.
let turn = 0;

try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // Storage is forbidden: the key is typed again after a reload.
}

class Refused extends Error {}

async function ask(path, body = null) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const sent = body && { method: "POST", body: JSON.stringify(body) };
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { headers, ...sent });
  } catch {
    throw new Error("The server cannot be reached");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) throw new Refused("This is not the key");
  if (!response.ok) throw new Error(answer.error?.message ?? `The server answered ${response.status}`);
  return answer;
}

function show(id) {
  for (const each of ["sign-in", "list", "run"]) byId(each).hidden = each !== id;
}

/** Do something, and show what goes wrong in an element; a refused key asks for another one. */
async function attempt(problem, work) {
  byId(problem).textContent = "";
  try {
    await work();
  } catch (error) {
    if (error instanceof Refused) signIn(key ? error.message : "");
    else byId(problem).textContent = shown(error.message);
  }
}

function signIn(problem) {
  show("sign-in");
  byId("sign-in-problem").textContent = problem;
  byId("key").focus();
}

byId("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  byId("key").value = "";
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // As above.
  }
  route();
});

function route() {
  const place = new URLSearchParams(location.hash.slice(1));
  if (place.get("id")) openRun(place.get("id"), place.get("agent") ?? "");
  else listRuns();
}

addEventListener("hashchange", route);

// - the list -

async function listRuns({ focus = true } = {}) {
  const mine = ++turn;
  await attempt("list-problem", async () => {
    const query = new URLSearchParams({ limit: PAGE, offset });
    for (const name of FILTERS) if (byId(name).value.trim()) query.set(name, byId(name).value.trim());
    const hours = Number(byId("since").value);
    if (hours) query.set("since", new Date(Date.now() - hours * 3_600_000).toISOString());
    const page = await ask(`api/runs?${query}`);
    if (mine !== turn) return;
    show("list");
    document.title = "Durable runs";
    byId("runs").replaceChildren(...page.data.map(row));
    const last = offset + page.data.length;
    const state = page.data.length ? `${offset + 1} to ${last} of ${page.total}` : `0 of ${page.total}`;
    byId("list-state").textContent = `Runs ${state}`;
    byId("previous").disabled = offset === 0;
    byId("next").disabled = last >= page.total;
    if (focus) byId("list-title").focus();
  });
}

function row(run) {
  const place = new URLSearchParams({ id: run.id, agent: run.agent });
  const cells = [run.status, run.agent, run.queue, run.session_id, time(run.created_at)];
  return element(
    "tr",
    {},
    element("td", {}, element("a", { href: `#${place}` }, shown(run.id))),
    ...cells.map((text) => element("td", {}, shown(text))),
  );
}

byId("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  offset = 0;
  listRuns({ focus: false });
});
byId("previous").addEventListener("click", () => {
  offset = Math.max(0, offset - PAGE);
  listRuns();
});
byId("next").addEventListener("click", () => {
  offset += PAGE;
  listRuns();
});

// - one run -

async function openRun(id, agent) {
  const mine = ++turn;
  show("run");
  byId("run-title").textContent = shown(id);
  byId("run-body").replaceChildren();
  byId("run-title").focus();
  await attempt("run-problem", async () => {
    const run = await ask(`api/run?${new URLSearchParams(agent ? { id, agent } : { id })}`);
    if (mine === turn) drawRun(run);
  });
}

function drawRun(run) {
  document.title = `Run ${shown(run.id)}`;
  byId("run-body").replaceChildren(
    ...[facts(run), actions(run), waiting(run), calls(run), messages(run)].filter(Boolean),
  );
}

/** Change the run, and show it as it is then. */
function act(run, action, fields, done) {
  return attempt("run-problem", async () => {
    const changed = await ask(`api/runs/${action}`, { id: run.id, agent: run.agent, ...fields });
    say(done);
    if (changed.deleted) location.hash = "";
    else await openRun(run.id, run.agent);
  });
}

function facts(run) {
  const values = {
    Status: run.status,
    Failure: run.failure,
    Agent: run.agent,
    Queue: run.queue,
    Session: run.session_id,
    Started: time(run.created_at),
    Ended: time(run.ended_at),
    Worker: run.worker,
    Version: run.version,
  };
  const pairs = Object.entries(values).filter(([, value]) => value);
  return element(
    "dl",
    {},
    ...pairs.flatMap(([name, value]) => [
      element("dt", {}, name),
      element("dd", { class: "words" }, shown(String(value))),
    ]),
  );
}

function actions(run) {
  const reload = button("Reload", () => openRun(run.id, run.agent));
  const resume = button("Resume", () => act(run, "resume", {}, "The run waits for a worker"), "primary");
  const cancel = button("Cancel the run", () => act(run, "cancel", {}, "The run is cancelled"), "danger");
  return element(
    "p",
    { class: "buttons" },
    reload,
    ["failed", "limit_reached"].includes(run.status) ? resume : null,
    ["queued", "running", "suspended"].includes(run.status) ? cancel : null,
  );
}

function waiting(run) {
  if (!run.waiting.length) return null;
  const cards = run.waiting.map((call) =>
    element(
      "li",
      { class: "waits" },
      element("h3", { class: "words" }, shown(call.tool)),
      element("pre", { class: "words" }, shownJson(call.arguments)),
      call.wants === "approval" ? decision(run, call) : result(run, call),
    ),
  );
  return section("Waiting calls", element("ul", { class: "cards" }, ...cards));
}

function decision(run, call) {
  const reason = element("input", { autocomplete: "off" });
  const digest = { digest: call.digest };
  return element(
    "form",
    { onsubmit: (event) => event.preventDefault() },
    labelled("Reason to deny, for the model", reason),
    button("Approve", () => act(run, "approve", digest, "The call is approved"), "primary"),
    button("Deny", () => act(run, "deny", { ...digest, reason: reason.value }, "The call is denied")),
  );
}

function result(run, call) {
  const text = element("input", { autocomplete: "off" });
  const answer = { call: call.call };
  const send = (event) => {
    event.preventDefault();
    act(run, "answer", { ...answer, result: text.value }, "The answer is sent");
  };
  return element(
    "form",
    { onsubmit: send },
    labelled("Result, for the model", text),
    element("button", { class: "primary" }, "Answer"),
  );
}

function calls(run) {
  const titles = ["Call", "Name", "Outcome", "Seconds", "Notes"];
  const rows = run.calls.map((call) =>
    element(
      "tr",
      {},
      ...[call.key, call.name, call.outcome, call.seconds?.toFixed(2) ?? "", call.notes.join(", ")].map(
        (text) => element("td", {}, shown(text)),
      ),
    ),
  );
  const head = element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
  const table = element(
    "table",
    { "aria-label": "Calls" },
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
  return section("Calls", element("div", { class: "scroll" }, table));
}

function messages(run) {
  const cards = run.messages.map((message) =>
    element(
      "li",
      {},
      element("p", { class: "muted small" }, shown(message.role)),
      element("p", { class: "words" }, shown(contents(message))),
      ...(message.tool_calls ?? []).map((call) =>
        element(
          "pre",
          { class: "words" },
          `${shown(call.function.name)} ${shownJson(call.function.arguments)}`,
        ),
      ),
    ),
  );
  return section("Messages", element("ol", { class: "cards" }, ...cards));
}

function contents({ content }) {
  if (typeof content === "string") return content;
  return content ? JSON.stringify(content, null, 2) : "";
}

function section(title, body) {
  return element("section", {}, element("h2", {}, title), body);
}

function time(text) {
  return text ? new Date(text).toLocaleString() : "";
}

route();
