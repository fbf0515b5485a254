// The list of a project's sessions, newest first, with a search and further pages.

import { byId, element } from "./elements.js";
import { kept } from "./kept.js";

// Long enough for the next letter to be typed.
const TYPING_MS = 250;

export class SessionList {
  #list = byId("sessions");
  #state = byId("sessions-state");
  #more = byId("more");
  #chosen;
  #page = 1;
  #asked = 0;
  #timer = 0;
  api = null;

  /** `chosen(id)` is called for the session that a person wants. */
  constructor(chosen) {
    this.#chosen = chosen;
    this.#more.addEventListener("click", () => this.#load(this.#page + 1));
    byId("search").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.refresh(), TYPING_MS);
    });
  }

  /** Load the list anew; an error is told in its place. */
  refresh() {
    return this.#load(1);
  }

  /** Show the first page of sessions; errors are the caller's. */
  async start(api) {
    this.api = api;
    byId("search").value = "";
    this.#show(await api.sessions(1, ""), 1);
  }

  mark(session) {
    for (const choice of this.#list.querySelectorAll("button")) {
      if (choice.dataset.session === session) choice.setAttribute("aria-current", "true");
      else choice.removeAttribute("aria-current");
    }
  }

  async #load(page) {
    const asked = ++this.#asked;
    try {
      const found = await this.api.sessions(page, byId("search").value);
      if (asked === this.#asked) this.#show(found, page);
    } catch (error) {
      if (asked === this.#asked) this.#state.textContent = error.message;
    }
  }

  #show({ data, pagination }, page) {
    this.#page = page;
    const lines = data.map((session) => this.#line(session));
    if (page === 1) this.#list.replaceChildren(...lines);
    else this.#list.append(...lines);
    this.#more.hidden = page >= pagination.totalPages;
    const isSearch = byId("search").value !== "";
    const none = isSearch ? "Nothing found" : "No sessions yet";
    const some = `${pagination.total} ${pagination.total === 1 ? "session" : "sessions"}`;
    this.#state.textContent = data.length || page > 1 ? some : none;
    this.mark(kept("session"));
  }

  #line({ sessionId, startTime, endTime, messageCount }) {
    const title = kept("titles", {})[sessionId] || sessionId;
    const count = `${messageCount} ${messageCount === 1 ? "message" : "messages"}`;
    const about = `${time(startTime)} · ${endTime ? "ended" : count}`;
    const texts = [
      element("span", { class: "session-title", dir: "auto" }, title),
      element("span", { class: "muted small" }, about),
    ];
    // An ended session has no messages left to show.
    if (endTime) return element("li", { class: "ended" }, ...texts);
    const onclick = () => this.#chosen(sessionId);
    return element("li", {}, element("button", { class: "session", "data-session": sessionId, onclick }, ...texts));
  }
}

function time(text) {
  const date = new Date(text);
  const isToday = date.toDateString() === new Date().toDateString();
  const day = isToday ? "Today" : date.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
  return `${day}, ${date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`;
}
