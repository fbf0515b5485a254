// One answer: reasoning, texts and tool calls in the order in which they come, and what can be done.

import { attachedTo, mediaBox } from "./content.js";
import { button, copyButton, element, say } from "./elements.js";
import { GrowingText, PlainText } from "./markdown.js";
import { ToolCard } from "./tool_card.js";

const ENDINGS = {
  length: "The answer stopped at its limit of length.",
  content_filter: "The answer was cut by a content filter.",
};

export class Answer {
  #view;
  #live; // not from an earlier session
  #body = element("div", { class: "body" });
  #texts = [];
  #text = null; // the one of them that grows
  #thoughts = null; // the reasoning that grows
  #cards = [];
  #waiting = new Map(); // the open calls that a person answers, by id
  #tokens = null;
  #reason = null;
  sessionId = null;

  constructor(view, live) {
    this.#view = view;
    this.#live = live;
    this.item = view.add("assistant", "Assistant", this.#body);
    this.item.classList.toggle("arriving", live);
  }

  /** Show what a chunk brings. */
  take({ choices = [], tool_activity: activity = {}, usage, session_id: sessionId }) {
    this.sessionId = sessionId ?? this.sessionId;
    if (usage) this.count(usage);
    const { delta = {}, finish_reason: reason } = choices[0] ?? {};
    this.#reason = reason ?? this.#reason;
    this.reason(delta.reasoning_content ?? "");
    this.text(delta.content || delta.refusal || "");
    for (const call of delta.tool_calls ?? []) this.#waiting.set(call.id, call);
    if (activity.parts) this.media(attachedTo(activity.parts));
    if (activity.call) this.call(activity.call);
    if (activity.result) this.#result(activity.result);
    if (activity.progress) this.#card(activity.progress)?.progress(activity.progress.value);
  }

  /** Show a piece of text, behind the piece before it. */
  text(text) {
    // An answer's texts are two lines apart; here each is a block.
    const piece = this.#text ? text : text.trimStart();
    if (!piece) return;
    if (!this.#text) {
      this.#thoughts = null;
      this.#text = new GrowingText(this.#view.markdown);
      this.#texts.push(this.#text);
      this.#body.append(this.#text.node);
    }
    this.#text.append(piece);
  }

  /** Show a piece of the model's reasoning, folded away. */
  reason(text) {
    const piece = this.#thoughts ? text : text.trimStart();
    if (!piece) return;
    if (!this.#thoughts) {
      this.endText();
      this.#thoughts = new PlainText();
      const box = element("div", { class: "thoughts", dir: "auto" }, this.#thoughts.node);
      this.#body.append(element("details", { class: "reasoning" }, element("summary", {}, "Reasoning"), box));
    }
    this.#thoughts.append(piece);
  }

  endText() {
    this.#text?.end();
    this.#text = this.#thoughts = null;
  }

  /** Show images and files of the answer. */
  media(parts) {
    if (parts.length) this.endText();
    this.#body.append(...[mediaBox(parts)].filter(Boolean));
  }

  call(call) {
    const card = new ToolCard(call, { open: this.#live });
    this.#view.cards.set(call.id, card);
    this.#cards.push(card);
    this.endText();
    this.#body.append(card.node);
    if (this.#live) say(`Calls the tool ${card.name}`);
    return card;
  }

  /** Add the tokens of a request or of a stored message. */
  count({ total_tokens: tokens }) {
    if (tokens > 0) this.#tokens = (this.#tokens ?? 0) + tokens;
  }

  /** End the answer, which took so many seconds; give the cards of the calls that wait for a person. */
  finish(seconds) {
    this.item.classList.remove("arriving");
    this.endText();
    const waiting = [...this.#waiting.values()].map((call) => {
      // The server may tell of a call for the first time here: when it repeats an answer.
      const card = this.#cards.find((each) => each.id === call.id) ?? this.call(call);
      return { card, approval: call.approval };
    });
    this.#note(ENDINGS[this.#reason]);
    this.addActions(seconds);
    if (this.#texts.length) say(`Assistant: ${this.#source("\n")}`);
    return waiting;
  }

  /** Add what can be done with a whole answer, and what it took. */
  addActions(seconds = null) {
    const amounts = [
      this.#tokens && `${this.#tokens.toLocaleString("en")} tokens`,
      seconds === null ? null : `${seconds.toFixed(1)} s`,
    ];
    const spent = amounts.filter(Boolean).join(" · ");
    this.#body.append(
      element(
        "div",
        { class: "actions" },
        this.#texts.length ? copyButton("Copy", () => this.#source("\n\n"), "Copy the answer") : null,
        button("Regenerate", () => this.#view.regenerate(), "quiet act regenerate"),
        spent ? element("span", { class: "spent muted small" }, spent) : null,
      ),
    );
  }

  breakOff(note) {
    this.item.classList.remove("arriving");
    this.endText();
    this.#cards.forEach((card) => card.breakOff());
    if (note) this.#note(note);
    else if (!this.#body.hasChildNodes()) this.item.remove();
  }

  #source(between) {
    return this.#texts.map(({ source }) => source.trim()).join(between);
  }

  #result(result) {
    const card = this.#card(result);
    if (card) say(`${card.name}: ${card.settle(result)}`);
    this.endText();
  }

  #card({ tool_call_id: id }) {
    return this.#view.cards.get(id);
  }

  #note(text) {
    if (text) this.#body.append(element("p", { class: "note muted small" }, text));
  }
}
