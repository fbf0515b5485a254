// Images and files for the next message: chosen, dropped or pasted, and kept until it is sent.

import { isPicture, nameOf, textFilePart } from "./content.js";
import { button, byId, element, say } from "./elements.js";
import { shown } from "./json_text.js";

const MAX_FILES = 10;
// Of a request's size, what its text and the names of its fields need.
const SPARE_BYTES = 64 * 1024;

const PICTURES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const AUDIO = { "audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mpeg": "mp3" };

export class Attachments {
  #list = byId("attachments");
  #problem = byId("attachments-problem");
  #items = []; // { name, part, size }
  #reading = Promise.resolve();
  maxBytes = 0; // of a request

  constructor() {
    const chooser = byId("chooser");
    byId("attach").addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      this.add([...chooser.files]);
      chooser.value = "";
    });
    byId("prompt").addEventListener("paste", (event) => {
      const { files, types } = event.clipboardData;
      // Copied cells or paragraphs come with a picture of themselves.
      if (!files.length || types.includes("text/plain")) return;
      event.preventDefault();
      this.add([...files]);
    });
    this.#takeDrops(byId("chat"));
  }

  #takeDrops(place) {
    const drag = (event, isOver) => {
      if (!event.dataTransfer.types.includes("Files")) return false;
      event.preventDefault();
      place.classList.toggle("dropping", isOver);
      return true;
    };
    place.addEventListener("dragover", (event) => drag(event, true));
    place.addEventListener("dragleave", (event) => {
      if (!place.contains(event.relatedTarget)) drag(event, false);
    });
    place.addEventListener("drop", (event) => {
      if (drag(event, false)) this.add([...event.dataTransfer.files]);
    });
  }

  /** Read files one after another; a problem is shown, and the rest is read. */
  add(files) {
    this.#problem.textContent = "";
    this.#reading = files.reduce((before, file) => before.then(() => this.#read(file)), this.#reading);
    return this.#reading;
  }

  async #read(file) {
    try {
      if (this.#items.length >= MAX_FILES) throw new Error(`a message takes ${MAX_FILES} files at most`);
      this.#checkRoom(file.size);
      const part = await partOf(file);
      const size = new Blob([JSON.stringify(part)]).size;
      this.#checkRoom(size);
      this.#items.push({ name: file.name || nameOf(part), part, size });
      this.#show();
      say(`Attached ${shown(file.name)}`);
    } catch (error) {
      this.#problem.textContent = `${shown(file.name) || "The file"} is not attached: ${error.message}.`;
    }
  }

  #checkRoom(size) {
    const room = this.maxBytes - SPARE_BYTES;
    const used = this.#items.reduce((sum, item) => sum + item.size, 0);
    // In base64, three bytes take four.
    const most = Math.max(0, (room * 3) / 4 / 2 ** 20).toFixed(1);
    if (used + size > room) throw new Error(`the files of a message may have ${most} MB together`);
  }

  /** Return the parts once all files are read, and forget them. */
  async take() {
    await this.#reading;
    const parts = this.#items.map(({ part }) => part);
    this.clear();
    return parts;
  }

  /** Attach parts again that were sent. */
  restore(parts) {
    const items = parts.map((part) => ({ name: nameOf(part), part, size: new Blob([JSON.stringify(part)]).size }));
    this.#items = [...items, ...this.#items];
    this.#show();
  }

  clear() {
    this.#items = [];
    this.#problem.textContent = "";
    this.#show();
  }

  get isEmpty() {
    return this.#items.length === 0;
  }

  #show() {
    this.#list.hidden = this.isEmpty;
    this.#list.replaceChildren(...this.#items.map((item) => this.#chip(item)));
  }

  #chip(item) {
    const { part, name } = item;
    const remove = button("Remove", () => {
      this.#items = this.#items.filter((each) => each !== item);
      this.#show();
      byId("prompt").focus();
    }, "quiet act");
    remove.setAttribute("aria-label", `Remove ${shown(name)}`);
    const picture = isPicture(part) ? element("img", { src: part.image_url.url, alt: "" }) : null;
    return element("li", { class: "chip" }, picture, element("bdi", {}, shown(name)), remove);
  }
}

/** Return the content part of a file. */
async function partOf(file) {
  if (PICTURES.includes(file.type)) return { type: "image_url", image_url: { url: await dataURL(file) } };
  if (file.type in AUDIO) {
    const [, data] = (await dataURL(file)).split(",");
    return { type: "input_audio", input_audio: { data, format: AUDIO[file.type] } };
  }
  const text = file.type === "application/pdf" ? null : await textIn(file);
  if (text !== null) return textFilePart(file.name, text);
  return { type: "file", file: { filename: file.name, file_data: await dataURL(file) } };
}

/** Return the text of a file, or null if it holds none. */
async function textIn(file) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

function dataURL(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error("it cannot be read"));
    reader.readAsDataURL(file);
  });
}
