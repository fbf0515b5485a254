// The session that is open: send, stop, send again, answer calls, take up another one.

import { ApiError } from "./api.js";
import { Conversation, errorNotice } from "./conversation.js";
import { say } from "./elements.js";
import { keep, kept } from "./kept.js";

const TITLE_CHARACTERS = 80;
const TITLES = 100;

/** Tells by events: `change` of what can be done, `turn` when one ended, `refused` for the key. */
export class Chat extends EventTarget {
  session = null;
  #api = null;
  #view = new Conversation();
  #composer;
  #running = null; // the AbortController of the answer that is arriving
  #open = []; // the cards that wait for a person
  #failed = []; // what is shown of a turn that failed and may be sent again
  #title = "";
  #wanted = null; // the session that was asked for last

  /** `composer.give(text)` puts a text back into the box. */
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

  send(text) {
    this.#clear();
    if (this.session === null) this.#title = text;
    const item = this.#view.user(text);
    this.#view.follow();
    this.#run({
      request: this.#request([{ role: "user", content: text }]),
      items: [item],
      undo: () => this.#composer.give(text),
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
    this.#leave();
    this.#title = this.#view.firstText(data.messages);
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

  #request(messages) {
    return this.api.request(messages, { session: this.session, tools: kept("tools", []) });
  }

  /**
   * Run a turn: its `request`, the `items` that show it, `undo` for one that came to nothing, and
   * what is `done` once it is stored.
   */
  async #run(turn) {
    const running = new AbortController();
    this.#become(this.session, running);
    const answer = this.#view.answer();
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
    if (problem === null) this.#finish(turn, answer);
    else if (problem !== "left") this.#breakOff(turn, answer, running.signal.aborted ? null : problem);
  }

  #finish(turn, answer) {
    turn.done?.();
    this.#become(answer.sessionId);
    this.#ask(answer.finish());
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
    this.#failed.forEach((item) => item.classList.add("dropped"));
    turn.undo();
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
      undo: () => this.#ask(cards.map((card) => ({ card }))),
      done: () => cards.forEach((card) => card.settleByAnswer()),
    });
  }

  /** Remove what is no part of the session. */
  #clear() {
    this.#failed.forEach((item) => item.remove());
    this.#failed = [];
  }

  #leave() {
    this.stop();
    this.#running = null;
    this.#failed = [];
    this.#open = [];
  }

  #become(session, running = null) {
    this.session = session;
    this.#running = running;
    keep("session", session);
    if (session !== null && this.#title) this.#remember(session, this.#title);
    this.#changed();
  }

  /** Remember how a session began: the list of sessions has no more than ids. */
  #remember(session, title) {
    const others = Object.entries(kept("titles", {})).filter(([id]) => id !== session);
    const entry = [session, title.slice(0, TITLE_CHARACTERS)];
    keep("titles", Object.fromEntries([...others.slice(1 - TITLES), entry]));
    this.#title = "";
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
