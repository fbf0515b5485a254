// One tool call: its arguments, what it gave, and what a person has to say to it.

import { attachedTo, mediaBox, textOf } from "./content.js";
import { button, element, labelled } from "./elements.js";
import { isJson, shown, shownJson } from "./json_text.js";

const OUTCOMES = {
  value: "done",
  error: "failed",
  timeout: "timed out",
  cancelled: "cancelled",
  not_run: "not run",
  unknown: "outcome unknown",
};

// Characters of the arguments that stand beside the name; one line shows no more of them.
const PREVIEW = 200;
// Characters of arguments or of a result that are shown until a person asks for all: a browser takes
// seconds for a million.
const SHOWN = 50_000;

export class ToolCard {
  #call;
  #state = element("span", { class: "state" });
  #parts = element("div", { class: "parts" });
  #later = new Map(); // the boxes of parts that come after the arguments, by title
  #form = null;
  answer = null; // a person's answer: the tool message to send, and how the call ends by it

  constructor(call, { open = true } = {}) {
    this.#call = call;
    const { name, arguments: given } = call.function;
    const line = shown(given.slice(0, PREVIEW).replace(/\s+/g, " "));
    const preview = element("span", { class: "preview mono" }, line);
    const summary = element(
      "summary",
      {},
      element("span", { class: "mark", "aria-hidden": "true" }),
      element("span", { class: "tool-name mono" }, shown(name)),
      preview,
      this.#state,
    );
    this.node = element("details", { class: "tool", open }, summary, this.#parts);
    this.#parts.append(this.#part("Arguments", given));
    this.#become("running", "running");
  }

  get id() {
    return this.#call.id;
  }

  get name() {
    return shown(this.#call.function.name);
  }

  get isSettled() {
    return ["settled", "failed"].includes(this.node.dataset.state);
  }

  progress(value) {
    this.#setLater("Progress", value);
  }

  /** Show the result; give the word for how the call ended. */
  settle({ outcome = "value", content, parts = [] }) {
    const word = OUTCOMES[outcome] ?? outcome;
    const media = attachedTo(parts);
    const text = textOf(content);
    this.#form?.remove();
    if (text || !media.length) this.#setLater("Result", text);
    if (media.length) this.#parts.append(mediaBox(media));
    this.#become(outcome === "value" ? "settled" : "failed", word);
    return word;
  }

  /** Settle by what the person answered, where the server told of no result. */
  settleByAnswer() {
    if (this.isSettled) return;
    if (this.answer.result) this.settle(this.answer.result);
    else this.#become("settled", "approved");
  }

  /** Tell that the answer which made the call came to no end. */
  breakOff() {
    if (!this.isSettled) this.#become("failed", "broken off");
  }

  /** Ask the person for a decision or a result; `answered` is called once there is one. */
  ask(answered, approval = this.#call.approval) {
    this.#call = { ...this.#call, approval };
    this.answer = null;
    this.#later.forEach((part) => part.remove());
    this.#later.clear();
    this.#form?.remove();
    const settle = (content, word, result = { content }) => {
      this.answer = { message: { role: "tool", tool_call_id: this.id, content }, result };
      this.#form.remove();
      this.#become("answered", word);
      answered();
    };
    this.#form = approval ? this.#approvalForm(settle) : this.#resultForm(settle);
    this.node.append(this.#form);
    this.node.open = true;
    this.#become("waiting", approval ? "waits for your approval" : "waits for your result");
  }

  focus() {
    this.#form?.querySelector("button, textarea").focus();
  }

  #approvalForm(settle) {
    const { arguments: given } = this.#call.function;
    const text = shownJson(given);
    const edited = element("textarea", { class: "mono", rows: 4, spellcheck: "false" });
    edited.value = text;
    const reason = element("input", { autocomplete: "off" });
    const problem = element("p", { class: "problem", role: "alert" });
    const said = (approved, more) =>
      `{"approved":${approved},"digest":${JSON.stringify(this.#call.approval.digest)}${more}}`;
    const approve = () => {
      const isEdited = edited.value !== text;
      problem.textContent = isEdited && !isObject(edited.value) ? "Arguments must be a JSON object." : "";
      if (problem.textContent) return;
      settle(said(true, isEdited ? `,"arguments":${edited.value}` : ""), "approved", null);
    };
    const deny = () => {
      const why = reason.value.trim();
      const more = why ? `,"reason":${JSON.stringify(why)}` : "";
      settle(said(false, more), "denied", { outcome: "not_run", content: `Denied${why && `: ${why}`}` });
    };
    const more = element(
      "details",
      { class: "more" },
      element("summary", {}, "Change the arguments, or say why not"),
      labelled("Arguments to run it with", edited),
      labelled("Why not, for the assistant to read", reason),
    );
    const buttons = [button("Approve", approve, "primary"), button("Deny", deny)];
    return this.#group(`Approve ${this.name}?`, "May this run?", element("div", { class: "buttons" }, ...buttons), problem, more);
  }

  #resultForm(settle) {
    const result = element("textarea", { rows: 2 });
    const give = button("Give the result", () => settle(result.value, "answered"), "primary");
    const field = labelled(`What does ${this.name} give?`, result);
    return this.#group(`Result of ${this.name}`, field, element("div", { class: "buttons" }, give));
  }

  #group(label, ...children) {
    return element("div", { class: "ask", role: "group", "aria-label": label }, ...children);
  }

  #setLater(title, text) {
    const part = this.#part(title, text);
    if (this.#later.has(title)) this.#later.get(title).replaceWith(part);
    else this.#parts.append(part);
    this.#later.set(title, part);
  }

  #part(title, text) {
    const about = `${title} of ${this.name}`;
    const whole = shownJson(text);
    const box = element("pre", { tabindex: "0", role: "group", "aria-label": about }, whole.slice(0, SHOWN));
    const all = button(`Show all ${whole.length.toLocaleString("en")} characters`, () => {
      box.textContent = whole;
      all.remove();
      box.focus();
    }, "quiet act");
    return element("div", { class: "part" }, element("h3", {}, title), box, whole.length > SHOWN ? all : null);
  }

  #become(state, word) {
    this.node.dataset.state = state;
    this.#state.textContent = word;
  }
}

const isObject = (text) => isJson(text) && text.trimStart().startsWith("{");
