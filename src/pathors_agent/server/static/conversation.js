// What is said, on the page: messages, answers that are still arriving, and notices.

import { Answer } from "./answer.js";
import { attachedTo, mediaBox, textOf } from "./content.js";
import { button, byId, element, isComposing, labelled } from "./elements.js";
import { Markdown } from "./markdown.js";

// As close to the end as this, the page goes along with what is added.
const END_PIXELS = 60;

export class Conversation {
  #list = byId("conversation");
  #scroller = byId("scroller");
  #latest = byId("latest");
  #follows = true;
  #top = 0;
  cards = new Map();
  markdown = new Markdown();
  #edit;
  regenerate;

  /** `edit(item, text)` is called for a message of the user that is to be another one. */
  constructor({ edit, regenerate }) {
    this.#edit = edit;
    this.regenerate = regenerate;
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

  user(content) {
    const text = element("p", { class: "text", dir: "auto" }, textOf(content));
    text.hidden = !text.textContent;
    return this.add("user", "You", mediaBox(attachedTo(content)), text);
  }

  /** Let a person edit a message that is stored. */
  allowEdit(item) {
    const edit = button("Edit", () => this.#showEditor(item), "quiet act");
    item.append(element("div", { class: "actions" }, edit));
  }

  #showEditor(item) {
    const box = element("textarea", { rows: 3 });
    box.value = item.querySelector(".text").textContent;
    const close = () => {
      form.remove();
      item.classList.remove("edited");
    };
    const cancel = button("Cancel", () => {
      close();
      item.querySelector(".actions button").focus();
    });
    const send = button("Replace", () => {
      if (!box.value.trim()) return;
      close();
      this.#edit(item, box.value);
    }, "primary");
    const buttons = element("div", { class: "buttons" }, cancel, send);
    const form = element("div", { class: "editor", role: "group", "aria-label": "Edit your message" });
    form.append(labelled("Your message; what follows it is replaced", box), buttons);
    form.addEventListener("keydown", (event) => {
      if (isComposing(event)) return;
      if (event.key === "Escape") cancel.click();
      else if (event.key === "Enter" && event.target === box && !event.shiftKey) send.click();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    item.append(form);
    item.classList.add("edited");
    box.focus();
  }

  /** Return the place of a message among the user's. */
  placeOf(item) {
    return this.#users().indexOf(item);
  }

  /** Return whether these messages of the user are shown, and no others. */
  showsUsers(messages) {
    const texts = this.#users().map((item) => item.querySelector(".text").textContent);
    return texts.length === messages.length && messages.every(({ content }, place) => textOf(content) === texts[place]);
  }

  get lastUser() {
    return this.#users().at(-1) ?? null;
  }

  /** Return an item and all that follows it. */
  from(item) {
    const items = [...this.#list.children];
    return items.slice(items.indexOf(item));
  }

  #users() {
    return [...this.#list.querySelectorAll("li.user")];
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

  /** Show a session's messages; give the cards of the calls that are still open. */
  show(messages) {
    this.clear();
    let answer = null;
    for (const message of messages) {
      // What the library wrote in the user's place is no message of theirs.
      if (message.feedback) continue;
      if (message.role === "assistant") {
        answer ??= this.answer({ live: false });
        this.#showAnswer(answer, message);
      } else if (message.role === "tool") {
        this.cards.get(message.tool_call_id)?.settle({ ...message, parts: message.content });
      } else {
        answer?.addActions();
        answer = null;
        this.#showOther(message);
      }
    }
    answer?.addActions();
    this.follow();
    return [...this.cards.values()].filter((card) => !card.isSettled);
  }

  #showAnswer(answer, message) {
    answer.reason(message.reasoning ?? "");
    answer.text(textOf(message.content) || message.refusal || "");
    answer.endText();
    const { content_parts: parts, images } = message.extra ?? {};
    answer.media([message.content, parts, images].flatMap(attachedTo));
    for (const call of message.tool_calls ?? []) answer.call(call);
    answer.count(message.usage ?? {});
  }

  #showOther({ role, content }) {
    if (role === "user") this.allowEdit(this.user(content));
    else this.add("system", "Instructions", element("p", { class: "text", dir: "auto" }, textOf(content)));
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
