// What the page remembers under its own address: the account in every tab, until a person signs out;
// anything else in this tab, until it is closed.

const PLACE = `chat ${new URL(".", location.href).pathname} `;
const SHARED = ["account"];

const unstored = new Map(); // values where storage is forbidden or full: until the page is loaded anew

const storeOf = (name) => (SHARED.includes(name) ? localStorage : sessionStorage);

/** Remember a value; null forgets it. */
export function keep(name, value) {
  unstored.delete(name);
  try {
    if (value === null) storeOf(name).removeItem(PLACE + name);
    else storeOf(name).setItem(PLACE + name, JSON.stringify(value));
  } catch {
    unstored.set(name, value);
  }
}

export function kept(name, otherwise = null) {
  if (unstored.has(name)) return unstored.get(name) ?? otherwise;
  try {
    return JSON.parse(storeOf(name).getItem(PLACE + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function forgetAll() {
  for (const name of ["account", "project", "session", "draft", "tools"]) keep(name, null);
}

/** Call `changed()` when another tab signs in or out. */
export function whenAccountChanges(changed) {
  addEventListener("storage", ({ key }) => {
    if (key === null || key === `${PLACE}account`) changed();
  });
}
