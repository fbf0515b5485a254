// Show the JSON text of arguments and results as it is: long numbers, names that occur twice, and
// characters that would hide what a person is about to approve.

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[[\]{},:]|[^\s"[\]{},:]+/gs;

// What turns the direction of a text, has no width, or controls a terminal.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]|[\u{e0000}-\u{e007f}]/gu;

export function shown(text) {
  return text.replace(HIDDEN, escaped);
}

function escaped(character) {
  const units = Array.from({ length: character.length }, (_, i) => character.charCodeAt(i));
  return units.map((unit) => `\\u${unit.toString(16).padStart(4, "0")}`).join("");
}

// A JSON text as short as this is read on one line.
const SHORT = 72;
// A longer text, or one that is nested deeper, is not indented: no person reads it, and the spaces
// of a deep one are more than a browser holds.
const LONG = 100_000;
const MAX_DEPTH = 64;

/** Give a text for people: JSON that is longer on lines of its own, anything else as it is. */
export function shownJson(text) {
  const isRead = text.length > SHORT && text.length <= LONG && isJson(text);
  return shown((isRead && indented(text)) || text);
}

export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Indent a JSON text without reading its values: a parser would round numbers. Null if it is too deep. */
function indented(text) {
  const tokens = text.match(TOKEN);
  if (depthOf(tokens) > MAX_DEPTH) return null;
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  const written = tokens.map((token, place) => {
    switch (token) {
      case "{":
      case "[":
        if ("}]".includes(tokens[place + 1])) return token;
        depth += 1;
        return token + line();
      case "}":
      case "]":
        if ("{[".includes(tokens[place - 1])) return token;
        depth -= 1;
        return line() + token;
      case ",":
        return token + line();
      case ":":
        return ": ";
      default:
        return token;
    }
  });
  return written.join("");
}

function depthOf(tokens) {
  let depth = 0;
  return tokens.reduce((most, token) => {
    if ("{[".includes(token)) depth += 1;
    else if ("}]".includes(token)) depth -= 1;
    return Math.max(most, depth);
  }, 0);
}
