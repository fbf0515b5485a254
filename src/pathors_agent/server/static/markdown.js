// Show an answer's Markdown. The server makes HTML of it; its elements are copied one by one, and
// only those named here. While a text arrives, its last paragraph is plain.

import { copyButton, element } from "./elements.js";

// The bounds of a request to the server.
const MAX_CHARACTERS = 50_000;
const MAX_TEXTS = 100;

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

/** A text that grows: rendered up to its last whole paragraph, and plain from there on. */
export class GrowingText {
  #markdown;
  #rich = element("div", { class: "rich" });
  #plain = document.createTextNode("");
  #blocks = []; // what is rendered, as the server sent it
  #rendered = 0; // the characters of it
  #isBusy = false;
  #isWhole = false;
  source = "";

  constructor(markdown) {
    this.#markdown = markdown;
    const plain = element("p", { class: "plain" }, this.#plain);
    this.node = element("div", { class: "text", dir: "auto" }, this.#rich, plain);
  }

  append(piece) {
    this.source += piece;
    this.#plain.appendData(piece);
    if (piece.includes("\n")) this.#render();
  }

  /** Render the rest: nothing more comes. */
  end() {
    this.#isWhole = true;
    return this.#render();
  }

  async #render() {
    if (this.#isBusy) return;
    this.#isBusy = true;
    for (let end = this.#end(); end > this.#rendered; end = this.#end()) {
      const blocks = await this.#markdown.render(this.source.slice(0, end));
      if (blocks === null) break;
      this.#show(blocks, end);
    }
    this.#isBusy = false;
  }

  #end() {
    return this.#isWhole ? this.source.length : endOfParagraphs(this.source);
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
    this.#plain.data = this.source.slice(end);
  }
}

/** Return where the last blank line ends that is outside of a fenced block of code. */
function endOfParagraphs(text) {
  let place = 0;
  let end = 0;
  let fence = null;
  const lines = text.split("\n");
  for (const line of lines.slice(0, -1)) {
    const [, mark] = line.match(/^\s*(`{3,}|~{3,})/) ?? [];
    place += line.length + 1;
    if (fence === null && mark) fence = mark;
    else if (fence !== null && mark?.startsWith(fence)) fence = null;
    if (fence === null && !line.trim()) end = place;
  }
  return end;
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
