// The box for the next message.

import { byId } from "./elements.js";
import { keep, kept } from "./kept.js";

export class Composer {
  #box = byId("prompt");
  #sent = null; // what was sent last, until it is stored

  constructor(send) {
    this.#box.value = kept("draft", "");
    this.#box.addEventListener("input", () => this.#remember());
    this.#box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("composer").requestSubmit();
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.#box.value;
      if (!text.trim() || !send(text)) return;
      this.#sent = text;
      this.#box.value = "";
      this.#remember();
      this.focus();
    });
  }

  /** Put a text back into the box, before what was written meanwhile. */
  give(text) {
    this.#box.value = [text, this.#box.value].filter(Boolean).join("\n\n");
    this.stored();
    this.focus();
  }

  /** What was sent last needs no longer to be remembered. */
  stored() {
    this.#sent = null;
    this.#remember();
  }

  clear() {
    this.#box.value = "";
    this.stored();
  }

  focus() {
    this.#box.focus();
  }

  #remember() {
    keep("draft", [this.#sent, this.#box.value].filter(Boolean).join("\n\n") || null);
  }
}
