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
  let begun = []; // the pieces of a line that has not ended
  let half = ""; // a carriage return may be the first half of a line's end
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // an event without its blank line is none
      const [, text, end] = (half + value).match(/^(.*?)(\r?)$/s);
      half = end;
      const [first, ...others] = text.split(/\r\n|\n|\r/);
      begun.push(first);
      if (!others.length) continue;
      yield begun.join("");
      begun = [others.pop()];
      yield* others;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
