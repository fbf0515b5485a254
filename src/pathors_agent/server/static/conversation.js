// What is said, on the page: messages, answers that are still arriving, and notices.

import { button, byId, element, say } from "./elements.js";
import { ToolCard } from "./tool_card.js";

// As close to the end as this, the page goes along with what is added.
const END_PIXELS = 60;
const ENDINGS = {
  length: "The answer stopped at its limit of length.",
  content_filter: "The answer was cut by a content filter.",
};

export class Conversation {
  #list = byId("conversation");
  #scroller = byId("scroller");
  #latest = byId("latest");
  #follows = true;
  #top = 0;
  cards = new Map();

  constructor() {
    this.#scroller.addEventListener("scroll", () => this.#look());
    this.#latest.addEventListener("click", () => this.follow());
    new ResizeObserver(() => this.#follows && this.#toEnd()).observe(this.#list);
    new ResizeObserver(() => this.#follows && this.#toEnd()).observe(this.#scroller);
  }

  clear() {
    this.#list.replaceChildren();
    this.cards.clear();
    this.#welcome();
  }

  /** Show the end, and go along with it. */
  follow() {
    this.#follows = true;
    this.#toEnd();
    this.#look();
  }

  user(text) {
    return this.add("user", "You", element("p", { class: "text", dir: "auto" }, text));
  }

  answer({ live = true } = {}) {
    return new Answer(this, live);
  }

  notice(...children) {
    return this.add("notice", null, element("div", { role: "alert" }, ...children));
  }

  add(kind, speaker, ...children) {
    const heading = speaker && element("h2", { class: "unseen" }, speaker);
    const item = element("li", { class: kind }, heading, ...children);
    this.#list.append(item);
    this.#welcome();
    return item;
  }

  firstText(messages) {
    return textOf(messages.find((message) => message.role === "user")?.content);
  }

  /** Show a session's messages; give the cards of the calls that are still open. */
  show(messages) {
    this.clear();
    let answer = null;
    for (const message of messages) {
      if (message.role === "assistant") {
        answer ??= this.answer({ live: false });
        answer.text(textOf(message.content) || message.refusal || "", { apart: true });
        for (const call of message.tool_calls ?? []) answer.call(call);
      } else if (message.role === "tool") {
        this.cards.get(message.tool_call_id)?.settle({ ...message, content: textOf(message.content) });
      } else {
        answer = null;
        const text = textOf(message.content);
        if (message.role === "user") this.user(text);
        else this.add("system", "Instructions", element("p", { class: "text", dir: "auto" }, text));
      }
    }
    this.follow();
    return [...this.cards.values()].filter((card) => !card.isSettled);
  }

  #welcome() {
    byId("welcome").hidden = this.#list.childElementCount > 0;
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    // Only a person scrolls back; what is added makes the end go away.
    if (scrollHeight - scrollTop - clientHeight < END_PIXELS) this.#follows = true;
    else if (scrollTop < this.#top) this.#follows = false;
    this.#top = scrollTop;
    this.#latest.hidden = this.#follows;
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}

/** One answer: texts and tool calls, in the order in which they come. */
class Answer {
  #view;
  #live; // not from an earlier session
  #body = element("div", { class: "body" });
  #text = null; // the text node that grows
  #cards = [];
  #waiting = new Map(); // the open calls that a person answers, by id
  #usage = null;
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
    this.#usage = usage ?? this.#usage;
    const { delta = {}, finish_reason: reason } = choices[0] ?? {};
    this.#reason = reason ?? this.#reason;
    this.text(delta.content || delta.refusal || "");
    for (const call of delta.tool_calls ?? []) this.#waiting.set(call.id, call);
    if (activity.call) this.call(activity.call);
    if (activity.result) this.#result(activity.result);
    if (activity.progress) this.#card(activity.progress)?.progress(activity.progress.value);
  }

  text(text, { apart = false } = {}) {
    if (apart) this.#text = null;
    // An answer's texts are two lines apart; here each is a paragraph.
    const piece = this.#text ? text : text.trimStart();
    if (!piece) return;
    if (this.#text) {
      this.#text.appendData(piece);
      return;
    }
    this.#text = document.createTextNode(piece);
    this.#body.append(element("p", { class: "text", dir: "auto" }, this.#text));
  }

  call(call) {
    const card = new ToolCard(call, { open: this.#live });
    this.#view.cards.set(call.id, card);
    this.#cards.push(card);
    this.#body.append(card.node);
    this.#text = null;
    if (this.#live) say(`Calls the tool ${card.name}`);
    return card;
  }

  /** End the answer; give the cards of the calls that wait for a person. */
  finish() {
    this.item.classList.remove("arriving");
    const waiting = [...this.#waiting.values()].map((call) => {
      // The server may tell of a call for the first time here: when it repeats an answer.
      const card = this.#cards.find((each) => each.id === call.id) ?? this.call(call);
      return { card, approval: call.approval };
    });
    this.#note(ENDINGS[this.#reason]);
    const tokens = this.#usage?.total_tokens ?? -1;
    if (tokens > 0) this.#note(`${tokens.toLocaleString("en")} tokens`);
    const texts = [...this.#body.querySelectorAll(".text")].map((part) => part.textContent);
    if (texts.length) say(`Assistant: ${texts.join("\n")}`);
    return waiting;
  }

  breakOff(note) {
    this.item.classList.remove("arriving");
    this.#cards.forEach((card) => card.breakOff());
    if (note) this.#note(note);
    else if (!this.#body.hasChildNodes()) this.item.remove();
  }

  #result(result) {
    const card = this.#card(result);
    if (card) say(`${card.name}: ${card.settle(result)}`);
    this.#text = null;
  }

  #card({ tool_call_id: id }) {
    return this.#view.cards.get(id);
  }

  #note(text) {
    if (text) this.#body.append(element("p", { class: "note muted small" }, text));
  }
}

function textOf(content) {
  if (!Array.isArray(content)) return content ?? "";
  return content.map((part) => part.text ?? `[${part.type}]`).join("\n");
}

/** Tell of an error in words, with what can be done. */
export function errorNotice(view, error, actions) {
  const wait = error.retryAfter && `The server asks to wait ${error.retryAfter} s.`;
  const about = [error.status && `Status ${error.status}`, error.code].filter(Boolean).join(", ");
  const lines = [...error.details, wait].filter(Boolean).map((line) => element("li", {}, line));
  return view.notice(
    element("p", { class: "strong" }, error.message),
    lines.length ? element("ul", {}, ...lines) : null,
    about ? element("p", { class: "muted small" }, about) : null,
    element("div", { class: "buttons" }, ...actions.map(([text, act]) => button(text, act))),
  );
}
