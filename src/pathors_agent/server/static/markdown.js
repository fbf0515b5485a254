// Show an answer's Markdown. The server makes HTML of it; its elements are copied one by one, and
// only those named here. While a text arrives, its last paragraph is plain.

import { copyButton, element } from "./elements.js";

// The bounds of a request to the server.
const MAX_CHARACTERS = 50_000;
const MAX_TEXTS = 100;
// Rendered together: each new paragraph costs a request with those of its section.
const SECTION_CHARACTERS = 20_000;
// With each piece, a browser lays out its box anew.
const BOX_CHARACTERS = 4_000;

/** Renders texts, one request at a time. */
export class Markdown {
  api = null;
  #queue = [];
  #isBusy = false;
  #isOff = false; // the server cannot render

  /** Return the elements of a text, or null if it stays plain. */
  render(text) {
    if (this.#isOff || text.length > MAX_CHARACTERS || !text.trim()) return Promise.resolve(null);
    return new Promise((done) => {
      this.#queue.push({ text, done });
      if (!this.#isBusy) this.#work();
    });
  }

  async #work() {
    this.#isBusy = true;
    while (this.#queue.length) {
      const batch = this.#batch();
      const { isOff, articles } = await this.api.articles(batch.map(({ text }) => text));
      this.#isOff ||= isOff;
      batch.forEach(({ done }, place) => {
        const blocks = [...(articles[place]?.children ?? [])];
        done(blocks.length ? blocks : null);
      });
    }
    this.#isBusy = false;
  }

  #batch() {
    let count = 0;
    let size = 0;
    for (const { text } of this.#queue.slice(0, MAX_TEXTS)) {
      size += text.length;
      if (count && size > MAX_CHARACTERS) break;
      count += 1;
    }
    return this.#queue.splice(0, count);
  }
}

/**
 * A text that grows: rendered up to its last whole paragraph, and plain from there on. A long text
 * is rendered in sections, so that no paragraph costs more than the one before it.
 */
export class GrowingText {
  #markdown;
  #rich; // the section that is rendered
  #blocks = []; // what is rendered of it, as the server sent it
  #start = 0; // where it begins in the source
  #rendered = 0; // the characters of the source that are rendered
  #paragraphs = new Paragraphs();
  #plain = new PlainText();
  #isBusy = false;
  #isWhole = false;
  source = "";

  constructor(markdown) {
    this.#markdown = markdown;
    this.node = element("div", { class: "text", dir: "auto" }, this.#plain.node);
    this.#beginSection();
  }

  append(piece) {
    this.source += piece;
    this.#plain.append(piece);
    if (this.#paragraphs.add(piece)) this.#render();
  }

  /** Render the rest: nothing more comes. */
  end() {
    this.#isWhole = true;
    return this.#render();
  }

  #beginSection() {
    this.#start = this.#rendered;
    this.#blocks = [];
    this.#rich = element("div", { class: "rich" });
    this.#plain.node.before(this.#rich);
  }

  async #render() {
    if (this.#isBusy) return;
    this.#isBusy = true;
    for (let end = this.#next(); end > this.#rendered; end = this.#next()) {
      const blocks = await this.#markdown.render(this.source.slice(this.#start, end));
      if (blocks === null) break;
      this.#show(blocks, end);
    }
    this.#isBusy = false;
  }

  /** Return where the next rendering ends; begin a section if the last one is full. */
  #next() {
    const whole = this.#isWhole ? this.source.length : 0;
    const end = this.#paragraphs.endWithin(this.#start + SECTION_CHARACTERS, this.#rendered, whole);
    if (end - this.#start > SECTION_CHARACTERS && this.#start < this.#rendered) this.#beginSection();
    return end;
  }

  /** Replace the blocks that changed: a selection in the others, or a focused button, stays. */
  #show(blocks, end) {
    const known = this.#blocks;
    const same = blocks.findIndex((block, place) => !known[place]?.isEqualNode(block));
    const first = same < 0 ? blocks.length : same;
    [...this.#rich.children].slice(first).forEach((node) => node.remove());
    this.#rich.append(...blocks.slice(first).map(copied));
    this.#blocks = blocks;
    this.#rendered = end;
    this.#plain.set(this.source.slice(end));
  }
}

/** Finds the paragraphs of a text that grows: each ends with a blank line outside of fenced code. */
class Paragraphs {
  #ends = [];
  #place = 0; // where the last line begins
  #line = "";
  #fence = null;

  /** Add a piece; return whether a paragraph ended. */
  add(piece) {
    this.#line += piece;
    if (!piece.includes("\n")) return false;
    const lines = this.#line.split("\n");
    this.#line = lines.pop();
    const count = this.#ends.length;
    lines.forEach((line) => this.#addLine(line));
    return this.#ends.length > count;
  }

  #addLine(line) {
    const [, mark] = line.match(/^\s*(`{3,}|~{3,})/) ?? [];
    this.#place += line.length + 1;
    if (this.#fence === null && mark) this.#fence = mark;
    else if (this.#fence !== null && mark?.startsWith(this.#fence)) this.#fence = null;
    if (this.#fence === null && !line.trim()) this.#ends.push(this.#place);
  }

  /**
   * Return the last end up to a place, or else the first one behind it, of those after `begin`; 0 if
   * there is none. `whole` is the end of a text that is whole, or 0.
   */
  endWithin(place, begin, whole) {
    while (this.#ends[0] <= begin) this.#ends.shift();
    const ends = whole > begin ? [...this.#ends, whole] : this.#ends;
    return ends.findLast((end) => end <= place) ?? ends[0] ?? 0;
  }
}

/** A text that is shown as it is; a browser lays out each of its boxes once. */
export class PlainText {
  node = element("div", { class: "plain" });
  #last = null; // the text node that grows

  append(text) {
    for (let rest = text; rest; ) {
      if (this.#last === null) this.#begin();
      // A line break at the end of a box is not shown.
      const cut = this.#last.length > BOX_CHARACTERS ? rest.indexOf("\n") + 1 : 0;
      const end = cut || Math.min(rest.length, BOX_CHARACTERS);
      this.#last.appendData(rest.slice(0, end));
      if (cut) this.#last = null;
      rest = rest.slice(end);
    }
  }

  set(text) {
    this.node.replaceChildren();
    this.#last = null;
    this.append(text);
  }

  #begin() {
    this.#last = document.createTextNode("");
    this.node.append(element("p", {}, this.#last));
  }
}

// - copying -

const BLOCKS = new Set(["blockquote", "h3", "h4", "h5", "h6", "li", "ol", "p", "td", "th", "ul"]);
const OTHERS = new Set(["br", "code", "em", "hr", "s", "strong", "tbody", "thead", "tr"]);

/** Return a copy of a node for this page; an element that is not known becomes its text. */
function copied(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return document.createTextNode(node.data ?? "");
  const { localName: name } = node;
  if (name === "pre") return codeBlock(node);
  const children = [...node.childNodes].map(copied);
  if (name === "a") return link(node, children);
  if (name === "table") return table(children);
  if (OTHERS.has(name)) return element(name, {}, ...children);
  if (!BLOCKS.has(name)) return document.createTextNode(node.textContent);
  const made = element(name, { dir: "auto" }, ...children);
  if (/^\d{1,9}$/.test(node.getAttribute("start") ?? "")) made.start = node.getAttribute("start");
  if (["center", "right"].includes(node.getAttribute("align"))) made.classList.add(node.getAttribute("align"));
  return made;
}

/** Make a link that shows where it leads, and opens apart. */
function link(node, children) {
  const url = webAddress(node.getAttribute("href"));
  if (url === null) return element("span", {}, ...children);
  const place = url.host || url.pathname;
  const isShown = [place, url.href, node.getAttribute("href")].includes(node.textContent.trim());
  return element(
    "a",
    { href: url.href, target: "_blank", rel: "noopener noreferrer", title: url.href },
    element("bdi", {}, ...children),
    isShown ? null : element("span", { class: "place" }, " (", element("bdi", {}, place), ")"),
    element("span", { class: "unseen" }, " opens in a new tab"),
  );
}

function webAddress(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url : null;
  } catch {
    return null;
  }
}

function codeBlock(node) {
  const code = node.firstElementChild;
  const [, language = ""] = (code?.getAttribute("class") ?? "").match(/^language-([\w+#.-]{1,30})$/) ?? [];
  const text = node.textContent.replace(/\n$/, "");
  const name = language ? `Code in ${language}` : "Code";
  return element(
    "div",
    { class: "code" },
    element("div", { class: "code-bar" }, element("span", {}, language), copyButton("Copy code", () => text)),
    element("pre", { tabindex: "0", role: "group", "aria-label": name, dir: "ltr" }, element("code", {}, text)),
  );
}

function table(children) {
  const made = element("table", {}, ...children);
  return element("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, made);
}
