// Read server-sent events, by the HTML standard: bytes in any pieces become the data of events.

/** Give the data of each event of a response's body. */
export async function* eventData(body) {
  let data = [];
  for await (const line of linesOf(body)) {
    const [, name, value] = line.match(/^([^:]*):? ?(.*)$/s);
    if (line === "") {
      if (data.length) yield data.join("\n");
      data = [];
    } else if (name === "data") {
      data.push(value);
    }
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // an event without its blank line is none
      // A carriage return at the end may be the first half of a line's end.
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      yield* lines;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
