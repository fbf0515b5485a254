// The list of a project's sessions, newest first, with a search and further pages.

import { byId, element } from "./elements.js";
import { shown } from "./json_text.js";

const PAGE_SIZE = 20;
// The server lists no more at once.
const MAX_LISTED = 200;

// Long enough for the next letter to be typed.
const TYPING_MS = 250;

export class SessionList {
  #list = byId("sessions");
  #state = byId("sessions-state");
  #more = byId("more");
  #chosen;
  #loaded;
  #page = 1;
  #titles = new Map(); // by the ids of the sessions that were loaded
  #ended = 0; // sessions in the list that have ended, and are not shown
  #asked = 0;
  #current = null; // the id of the session that is open
  #timer = 0;
  api = null;

  /** `chosen(id)` is called for the session that a person wants, `loaded()` for new titles. */
  constructor({ chosen, loaded }) {
    this.#chosen = chosen;
    this.#loaded = loaded;
    this.#more.addEventListener("click", () => this.#load(this.#page + 1));
    byId("search").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#load(1), TYPING_MS);
    });
  }

  /** Load the list anew, as far as it is shown; an error is told in its place. */
  refresh() {
    return this.#load(1, Math.min(this.#page, MAX_LISTED / PAGE_SIZE));
  }

  /** Show the first page of sessions; errors are the caller's. */
  async start(api) {
    this.api = api;
    byId("search").value = "";
    this.#show(await api.sessions(1, "", PAGE_SIZE), 1, 1);
  }

  /** Return a session's title, or "" if it has none or is not known. */
  title(session) {
    return this.#titles.get(session) ?? "";
  }

  mark(session) {
    this.#current = session;
    for (const choice of this.#list.querySelectorAll("button")) {
      if (choice.dataset.session === session) choice.setAttribute("aria-current", "true");
      else choice.removeAttribute("aria-current");
    }
  }

  /** Load pages; several of them are the first ones. */
  async #load(page, last = page) {
    const asked = ++this.#asked;
    try {
      const size = PAGE_SIZE * (last - page + 1);
      const found = await this.api.sessions(page, byId("search").value, size);
      if (asked === this.#asked) this.#show(found, page, last);
    } catch (error) {
      if (asked === this.#asked) this.#state.textContent = error.message;
    }
  }

  #show({ data, pagination }, page, last) {
    this.#page = last;
    if (page === 1) {
      this.#list.replaceChildren();
      this.#ended = 0;
    }
    const live = data.filter(({ endTime }) => !endTime);
    this.#ended += data.length - live.length;
    for (const { sessionId, title } of live) this.#titles.set(sessionId, title);
    // A new session moves those before it to the next page.
    const known = new Set([...this.#list.querySelectorAll("button")].map(({ dataset }) => dataset.session));
    const others = live.filter(({ sessionId }) => !known.has(sessionId));
    this.#list.append(...others.map((session) => this.#line(session)));
    const hasMore = last * PAGE_SIZE < pagination.total;
    this.#more.hidden = !hasMore;
    // A page of sessions that have all ended shows nothing.
    if (hasMore && !live.length) this.#load(last + 1);
    this.#tellCount(pagination.total - this.#ended);
    this.mark(this.#current);
    this.#loaded();
  }

  #tellCount(count) {
    const none = byId("search").value === "" ? "No sessions yet" : "Nothing found";
    this.#state.textContent = count ? `${count} ${count === 1 ? "session" : "sessions"}` : none;
  }

  #line({ sessionId, title, startTime, messageCount }) {
    const count = `${messageCount} ${messageCount === 1 ? "message" : "messages"}`;
    const texts = [
      element("span", { class: "session-title", dir: "auto" }, shown(title || sessionId)),
      element("span", { class: "muted small" }, `${time(startTime)} · ${count}`),
    ];
    const onclick = () => this.#chosen(sessionId);
    const attributes = { class: "session", "data-session": sessionId, title: shown(title), onclick };
    return element("li", {}, element("button", attributes, ...texts));
  }
}

function time(text) {
  const date = new Date(text);
  const isToday = date.toDateString() === new Date().toDateString();
  const day = isToday ? "Today" : date.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
  return `${day}, ${date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`;
}
