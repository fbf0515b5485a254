// The session that is open: send, stop, send again, answer calls, take up another one.

import { ApiError } from "./api.js";
import { attachedTo, comparedText, contentOf, textOf } from "./content.js";
import { Conversation, errorNotice } from "./conversation.js";
import { say } from "./elements.js";
import { keep, kept } from "./kept.js";

/** Tells by events: `change` of what can be done, `turn` when one ended, `refused` for the key. */
export class Chat extends EventTarget {
  session = null;
  #api = null;
  #view = new Conversation({
    edit: (item, text) => this.#rewind(item, text),
    regenerate: () => this.#rewind(this.#view.lastUser),
  });
  #composer;
  #running = null; // the AbortController of the answer that is arriving
  #open = []; // the cards that wait for a person
  #failed = []; // what is shown of a turn that failed and may be sent again
  #unsent = null; // the content that a person wrote for a turn that is not stored yet
  #cut = []; // what a turn that is not stored yet replaces
  #wanted = null; // the session that was asked for last

  /** `composer.give(content)` puts a message back into the box. */
  constructor(composer) {
    super();
    this.#composer = composer;
  }

  get api() {
    return this.#api;
  }

  set api(api) {
    this.#api = this.#view.markdown.api = api;
  }

  get isRunning() {
    return this.#running !== null;
  }

  get openCalls() {
    return this.#open.length;
  }

  send(content) {
    this.#clear();
    const item = this.#view.user(content);
    this.#view.follow();
    this.#run({
      request: this.#request([{ role: "user", content }]),
      items: [item],
      written: content,
    });
  }

  /**
   * Ask again from a message of the user on, or from another `text` in its place. The server replaces
   * what follows.
   */
  async #rewind(item, text = null) {
    if (this.isRunning || item === null) return;
    this.#clear();
    const session = this.session;
    try {
      const { data } = await this.api.session(session);
      if (this.session !== session || this.isRunning) return;
      const users = data.messages.filter(isUsers);
      if (!this.#view.showsUsers(users)) {
        await this.open(session);
        this.tell(new ApiError("The session went on elsewhere. This is how it is stored"));
        return;
      }
      const at = data.messages.indexOf(users[this.#view.placeOf(item)]);
      const before = data.messages.slice(0, at).map(known).filter(Boolean);
      const message = { role: "user", content: edited(data.messages[at].content, text) };
      this.#replace(item, [...before, message], text);
    } catch (error) {
      this.tell(error);
    }
  }

  #replace(item, messages, text) {
    const { content } = messages.at(-1);
    this.#cut = this.#view.from(item);
    this.#cut.forEach((each) => (each.hidden = true));
    this.#open = [];
    const shown = this.#view.user(content);
    this.#view.follow();
    this.#composer.focus();
    const request = this.#request(messages, { rewind: true });
    this.#run({
      request,
      items: [shown],
      written: text === null ? null : content,
      after: () => {
        if (!request.rewound) this.#showStored(); // the server read it as a new turn
      },
    });
  }

  stop() {
    this.#running?.abort();
  }

  startNew() {
    this.#leave();
    this.#view.clear();
    this.#become(null);
  }

  /** Show a session as it is stored, and go on with it. */
  async open(id) {
    this.#wanted = id;
    const { data } = await this.api.session(id);
    if (this.#wanted !== id) return;
    if (id === this.session && this.#holds(data.messages)) {
      this.#unsent = null;
      this.#composer.stored();
    }
    this.#leave();
    const waiting = this.#view.show(data.messages);
    this.#become(id);
    this.#ask(waiting.map((card) => ({ card })));
  }

  /** Tell of an error that belongs to no turn. */
  tell(error) {
    if (error.status === 401) this.dispatchEvent(new Event("refused"));
    const notice = errorNotice(this.#view, error, [["Close", () => notice.remove()]]);
    this.#failed.push(notice);
  }

  #request(messages, { rewind = false } = {}) {
    return this.api.request(messages, { session: this.session, tools: kept("tools", []), rewind });
  }

  /**
   * Run a turn: its `request`, the `items` that show it, the content that a person has `written` for
   * it, `undo` for one that came to nothing, what is `done` once it is stored, and what comes `after`.
   */
  async #run(turn) {
    const running = new AbortController();
    this.#wanted = null;
    this.#unsent = turn.written;
    this.#become(this.session, running);
    const answer = this.#view.answer();
    const start = performance.now();
    let problem = null;
    try {
      for await (const chunk of this.api.answer(turn.request, running.signal)) answer.take(chunk);
    } catch (error) {
      if (!running.signal.aborted && !(error instanceof ApiError)) throw error;
      problem = error;
    } finally {
      if (this.#running === running) this.#become(this.session);
      else problem = "left";
    }
    if (problem === null) this.#finish(turn, answer, (performance.now() - start) / 1000);
    else if (problem !== "left") this.#breakOff(turn, answer, running.signal.aborted ? null : problem);
  }

  #finish(turn, answer, seconds) {
    this.#cut.forEach((item) => item.remove());
    this.#cut = [];
    this.#unsent = null;
    turn.items.forEach((item) => this.#view.allowEdit(item));
    turn.done?.();
    this.#become(answer.sessionId);
    this.#ask(answer.finish(seconds));
    turn.after?.();
    this.dispatchEvent(new Event("turn"));
    // An answer that was there already comes without the tool calls behind it.
    if (turn.isRepeated) this.#showStored();
  }

  #breakOff(turn, answer, error) {
    const shown = [...turn.items, answer.item];
    answer.breakOff(error ? null : "Stopped. This is not part of the session.");
    if (error === null) say("Stopped");
    if (error?.status === 401) this.dispatchEvent(new Event("refused"));
    if (error) shown.push(errorNotice(this.#view, error, this.#ways(turn, answer, error, shown)));
    this.#failed = shown;
    if (!error?.mayPass) this.#undo(turn);
  }

  /** What a person can do about an error. */
  #ways(turn, answer, error, shown) {
    const again = () => {
      this.#failed = [];
      shown.filter((item) => !turn.items.includes(item)).forEach((item) => item.remove());
      this.#composer.focus();
      this.#run({ ...turn, isRepeated: true });
    };
    const back = () => {
      this.#undo(turn);
      shown.at(-1).remove();
    };
    const ways = error.mayPass ? [["Send again", again], ["Take back", back]] : [];
    const stored = ["Show the session as it is stored", () => this.#showStored()];
    return this.session ? [...ways, stored] : ways;
  }

  #showStored() {
    this.open(this.session).catch((error) => this.tell(error));
  }

  #undo(turn) {
    this.#uncut();
    this.#failed.forEach((item) => item.classList.add("dropped"));
    this.#giveBack();
    turn.undo?.();
  }

  /** Let a person answer the open calls; once all are answered, send that. */
  #ask(waiting) {
    const cards = waiting.map(({ card }) => card);
    const answered = () => {
      const next = cards.find((card) => card.answer === null);
      if (next) next.focus();
      else this.#sendAnswers(cards);
    };
    this.#open = cards;
    for (const { card, approval } of waiting) {
      card.ask(answered, approval);
      say(`${card.name} waits for your answer`);
    }
    this.#changed();
  }

  #sendAnswers(cards) {
    this.#clear();
    this.#open = [];
    this.#composer.focus();
    this.#view.follow();
    this.#run({
      request: this.#request(cards.map((card) => card.answer.message)),
      items: [],
      written: null,
      undo: () => this.#ask(cards.map((card) => ({ card }))),
      done: () => cards.forEach((card) => card.settleByAnswer()),
    });
  }

  /** Remove what is no part of the session, and show what is. */
  #clear() {
    this.#failed.forEach((item) => item.remove());
    this.#failed = [];
    this.#uncut();
  }

  #uncut() {
    this.#cut.forEach((item) => (item.hidden = false));
    this.#cut = [];
  }

  /** Whether the last turn was stored, although its answer did not arrive. */
  #holds(messages) {
    return this.#unsent !== null && textOf(messages.findLast(isUsers)?.content) === textOf(this.#unsent);
  }

  /** Put what a person wrote back into the box: nothing of it is stored. */
  #giveBack() {
    if (this.#unsent !== null) this.#composer.give(this.#unsent);
    this.#unsent = null;
  }

  #leave() {
    this.stop();
    this.#giveBack();
    this.#wanted = null;
    this.#running = null;
    this.#failed = [];
    this.#cut = [];
    this.#open = [];
  }

  #become(session, running = null) {
    this.session = session;
    this.#running = running;
    keep("session", session);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

// - a session's messages, sent again -

/** Whether a message is the user's own: the library writes in the user's place, too. */
const isUsers = ({ role, feedback }) => role === "user" && !feedback;

/** Return what the server compares of a stored message, or null if that is nothing. */
function known({ role, content, refusal, tool_calls: calls, tool_call_id: answers }) {
  const text = comparedText(content) || refusal || "";
  if (role === "assistant") return text || calls ? { role, content: text || null, ...(calls && { tool_calls: calls }) } : null;
  return answers ? { role, content: text, tool_call_id: answers } : { role, content: text };
}

/** Return a content with another text; images and files stay. */
const edited = (content, text) => (text === null ? content : contentOf(attachedTo(content), text));
