// The box for the next message, and what is attached to it.

import { Attachments } from "./attachments.js";
import { attachedTo, contentOf, textOf } from "./content.js";
import { byId, isComposing } from "./elements.js";
import { keep, kept } from "./kept.js";

export class Composer {
  #box = byId("prompt");
  #sent = null; // the text that was sent last, until it is stored
  #isReading = false; // the files of the message that is about to be sent
  attachments = new Attachments();

  /** `send(content)` returns false if nothing can be sent now; `maySend()` tells beforehand. */
  constructor({ maySend, send }) {
    this.#box.value = kept("draft", "");
    this.#box.addEventListener("input", () => this.#remember());
    this.#box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
      event.preventDefault();
      byId("composer").requestSubmit();
    });
    byId("composer").addEventListener("submit", async (event) => {
      event.preventDefault();
      const text = this.#box.value;
      if (!maySend() || this.#isReading || (!text.trim() && this.attachments.isEmpty)) return;
      this.#sent = text;
      this.#box.value = "";
      this.#remember();
      this.#isReading = true;
      const parts = await this.attachments.take();
      this.#isReading = false;
      send(contentOf(parts, text.trim() && text));
      this.focus();
    });
  }

  /** Put a content back into the box, before what was written meanwhile. */
  give(content) {
    this.#box.value = [textOf(content), this.#box.value].filter(Boolean).join("\n\n");
    this.attachments.restore(attachedTo(content));
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
    this.attachments.clear();
    this.stored();
  }

  focus() {
    this.#box.focus();
  }

  #remember() {
    keep("draft", [this.#sent, this.#box.value].filter(Boolean).join("\n\n") || null);
  }
}
