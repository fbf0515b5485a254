// Performs scenarios with the `ai` package of npm, one for each line of standard input.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const need = createRequire(`${process.env.CLIENT_PACKAGES}/`);
const { generateText, isStepCount, streamText, tool } = need("ai");
const { createOpenAICompatible } = need("@ai-sdk/openai-compatible");
const { z } = need("zod");

const weather = tool({
  description: "Get the weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: () => "sunny",
});

const scenarios = {
  async talk(model, given) {
    const messages = [];
    const texts = [];
    for (const content of given.texts) {
      messages.push({ role: "user", content });
      const asked = { model, messages, instructions: given.system, tools: { weather }, stopWhen: isStepCount(9) };
      const result = given.stream ? streamText(asked) : await generateText(asked);
      if (given.stream) await result.consumeStream();
      messages.push(...(await result.responseMessages));
      texts.push(...(await result.steps).map((step) => step.text));
    }
    return texts;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { scenario, base_url, key, given } = JSON.parse(line);
  let answer;
  try {
    const headers = given.header ? { "X-Session-ID": given.header } : {};
    const provider = createOpenAICompatible({ name: "served", baseURL: base_url, apiKey: key, headers });
    answer = { seen: await scenarios[scenario](provider("any"), given) };
  } catch (error) {
    answer = { failed: error.stack };
  }
  console.log(JSON.stringify(answer));
}
