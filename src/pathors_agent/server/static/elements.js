// Make and find elements. Texts become text nodes here, never markup.

export const byId = (id) => document.getElementById(id);

/** Make an element; names that start with `on` are listeners, the others attributes. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function button(text, onclick, kind = "") {
  return element("button", { type: "button", class: kind, onclick }, text);
}

/**
 * Whether a key belongs to an input method. Safari ends the composition before the Enter that
 * ends it, and marks that key by its code alone.
 */
export const isComposing = (event) => event.isComposing || event.keyCode === 229;

// As long as "Copied" stands on the button.
const COPIED_MS = 2_000;

/** Make a button that copies what `text` returns, and says that it did; `name` is for screen readers. */
export function copyButton(label, text, name = label) {
  const made = button(label, async () => {
    const isCopied = await copy(text());
    made.textContent = isCopied ? "Copied" : "Not copied";
    say(made.textContent);
    setTimeout(() => (made.textContent = label), COPIED_MS);
  }, "quiet act");
  if (name !== label) made.setAttribute("title", name);
  return made;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text); // the clipboard is there under https only
  }
}

function copySelected(text) {
  const focused = document.activeElement;
  const box = element("textarea", { class: "unseen", "aria-hidden": "true", tabindex: "-1" });
  box.value = text;
  document.body.append(box);
  box.select();
  const isCopied = document.execCommand("copy");
  box.remove();
  focused?.focus();
  return isCopied;
}

let fields = 0;

/** Make a field with its label. */
export function labelled(text, field) {
  field.id = `field-${++fields}`;
  return element("div", { class: "field" }, element("label", { for: field.id }, text), field);
}

/** Let screen readers say something, once it is complete. */
export function say(text) {
  const log = byId("announcements");
  log.append(element("p", {}, text));
  while (log.childElementCount > 6) log.firstElementChild.remove();
}
