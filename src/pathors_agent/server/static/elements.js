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
