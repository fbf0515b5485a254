// Performs scenarios with the `openai` package of npm, one for each line of standard input.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const need = createRequire(`${process.env.CLIENT_PACKAGES}/`);
const OpenAI = need("openai").OpenAI;
const { zodResponseFormat } = need("openai/helpers/zod");
const { z } = need("zod");

const model = "any";
const stream_options = { include_usage: true };

const weather = {
  name: "weather",
  description: "Get the weather in a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const tools = [{ type: "function", function: weather }];

const headers = (given) => (given.header ? { headers: { "X-Session-ID": given.header } } : {});
const body = (given) => (given.body ? { session_id: given.body } : {});

const scenarios = {
  async plain(client, given) {
    const { data, response } = await client.chat.completions
      .create({ model, messages: given.messages, ...body(given) }, headers(given))
      .withResponse();
    return {
      text: data.choices[0].message.content,
      finish_reason: data.choices[0].finish_reason,
      tokens: data.usage.total_tokens,
      session: response.headers.get("x-session-id"),
      session_in_body: data.session_id,
    };
  },

  async streamed(client, given) {
    const asked = { model, messages: given.messages, stream: true, stream_options };
    const { data, response } = await client.chat.completions
      .create({ ...asked, ...body(given) }, headers(given))
      .withResponse();
    const chunks = [];
    for await (const chunk of data) chunks.push(chunk);
    const choices = chunks.flatMap((chunk) => chunk.choices);
    return {
      texts: choices.map((choice) => choice.delta.content).filter(Boolean),
      finish_reason: choices.at(-1).finish_reason,
      tokens: chunks.at(-1).usage.total_tokens,
      session: response.headers.get("x-session-id"),
    };
  },

  // `.stream()`, which checks and collects the chunks by itself.
  async helper(client, given) {
    const asked = { model, messages: given.messages, stream_options };
    const stream = client.chat.completions.stream(given.tools ? { ...asked, tools } : asked);
    const events = [];
    stream.on("content.delta", ({ delta }) => delta && events.push("content.delta"));
    stream.on("content.done", () => events.push("content.done"));
    stream.on("tool_calls.function.arguments.done", () => events.push("tool_call.done"));
    const completion = await stream.finalChatCompletion();
    const message = completion.choices[0].message;
    return {
      events,
      text: message.content,
      finish_reason: completion.choices[0].finish_reason,
      tokens: (await stream.totalUsage()).total_tokens,
      calls: (message.tool_calls ?? []).map(shown),
    };
  },

  async tools(client, given) {
    let messages = [...given.messages];
    const calls = [];
    const texts = [];
    for (;;) {
      const answer = await complete(client, given, messages);
      texts.push(answer.content ?? "");
      if (!answer.tool_calls?.length) return { calls, texts };
      messages = given.alone ? [] : [...messages, answer];
      for (const call of answer.tool_calls) {
        calls.push(shown(call));
        const content = `sunny in ${JSON.parse(call.function.arguments).city}`;
        messages.push({ role: "tool", tool_call_id: call.id, content });
      }
    }
  },

  // Says one thing after another, and sends the end of the history each time.
  async talk(client, given) {
    const lead = given.system ? [{ role: "system", content: given.system }] : [];
    const messages = [];
    const texts = [];
    for (const text of given.texts) {
      messages.push({ role: "user", content: text });
      for (;;) {
        const answer = await complete(client, given, [...lead, ...messages.slice(-given.last)]);
        messages.push(answer);
        texts.push(answer.content ?? "");
        if (!answer.tool_calls?.length) break;
        for (const call of answer.tool_calls) {
          messages.push({ role: "tool", tool_call_id: call.id, content: "sunny" });
        }
      }
    }
    return texts;
  },

  // `.runTools()`, which does the same by itself.
  async run_tools(client, given) {
    const calls = [];
    const run = ({ city }) => {
      calls.push(city);
      return `sunny in ${city}`;
    };
    const own = { type: "function", function: { ...weather, function: run, parse: JSON.parse } };
    const asked = { model, messages: given.messages, tools: [own], stream: given.stream };
    const runner = client.chat.completions.runTools(asked, headers(given));
    return { calls, text: await runner.finalContent() };
  },

  async parsed(client, given) {
    const response_format = zodResponseFormat(z.object({ city: z.string() }), "weather");
    const asked = { model, messages: given.messages, response_format };
    const completion = await client.chat.completions.parse(asked);
    return completion.choices[0].message.parsed.city;
  },

  async refused(client, given) {
    const asked = { model, messages: given.messages, ...given.fields };
    try {
      const answer = await client.chat.completions.create(asked, { maxRetries: given.retries ?? 0 });
      if (asked.stream) for await (const _ of answer);
    } catch (error) {
      if (!(error instanceof OpenAI.APIError)) throw error;
      return {
        class: error.constructor.name,
        status: error.status ?? null,
        text: error.message,
        message: error.error.message,
        details: error.error.details,
        type: error.type,
      };
    }
    return null;
  },
};

const shown = (call) => [call.id, call.function.name, JSON.parse(call.function.arguments).city];

async function complete(client, given, messages) {
  const asked = { model, messages, tools, ...body(given) };
  if (given.stream) {
    const stream = client.chat.completions.stream(asked, headers(given));
    return (await stream.finalChatCompletion()).choices[0].message;
  }
  return (await client.chat.completions.create(asked, headers(given))).choices[0].message;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { scenario, base_url, key, given } = JSON.parse(line);
  let answer;
  try {
    const client = new OpenAI({ baseURL: base_url, apiKey: key });
    answer = { seen: await scenarios[scenario](client, given) };
  } catch (error) {
    answer = { failed: error.stack };
  }
  console.log(JSON.stringify(answer));
}
