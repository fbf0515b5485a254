// What this tab remembers until it is closed: in sessionStorage, under the page's own address.

const PLACE = `chat ${new URL(".", location.href).pathname} `;

/** Remember a value; null forgets it. */
export function keep(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(PLACE + name);
    else sessionStorage.setItem(PLACE + name, JSON.stringify(value));
  } catch {
    // Storage is forbidden or full: the page works on, and a reload starts anew.
  }
}

export function kept(name, otherwise = null) {
  try {
    return JSON.parse(sessionStorage.getItem(PLACE + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function forgetAll() {
  for (const name of ["account", "session", "draft", "tools", "titles"]) keep(name, null);
}
