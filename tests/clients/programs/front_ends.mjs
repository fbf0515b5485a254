// Talks to a server with the `ai` package and with `@ag-ui/client`, and prints what each one holds.

import { createRequire } from "node:module";

const need = createRequire(`${process.env.CLIENT_PACKAGES}/`);
const [, , name, url] = process.argv;

const scenarios = {
  // The class behind `useChat`, with a state that no page shows.
  async ai() {
    const ai = need("ai");
    class Chat extends ai.AbstractChat {
      constructor(init) {
        const state = {
          status: "ready",
          error: undefined,
          messages: [],
          pushMessage: (message) => state.messages.push(message),
          popMessage: () => state.messages.pop(),
          replaceMessage: (index, message) => (state.messages[index] = message),
          snapshot: (value) => structuredClone(value),
        };
        super({ ...init, state });
      }
    }
    let finished = () => {};
    const chat = new Chat({
      onFinish: () => finished(),
      transport: new ai.DefaultChatTransport({ api: url }),
      sendAutomaticallyWhen: (given) =>
        ai.lastAssistantMessageIsCompleteWithToolCalls(given) ||
        ai.lastAssistantMessageIsCompleteWithApprovalResponses(given),
    });
    const parts = () => chat.messages.at(-1).parts;
    const seen = [];
    const note = () => seen.push({ status: chat.status, parts: structuredClone(parts()) });
    // Call it before what makes the chat send by itself.
    const nextAnswer = () => new Promise((done) => (finished = done));

    await chat.sendMessage({ text: "Pay Ann." });
    note();
    const decided = nextAnswer();
    for (const part of parts().filter((each) => each.state === "approval-requested")) {
      const approved = part.input.amount === 5;
      await chat.addToolApprovalResponse({ id: part.approval.id, approved, reason: approved ? undefined : "too much" });
    }
    await decided;
    note();
    const asked = parts().find((part) => part.state === "input-available");
    const answered = nextAnswer();
    await chat.addToolOutput({ tool: "ask_user", toolCallId: asked.toolCallId, output: { color: "red" } });
    await answered;
    note();
    await chat.sendMessage({ text: "Again." });
    return { seen, error: chat.error?.message };
  },

  async agui() {
    const { HttpAgent } = need("@ag-ui/client");
    const agent = new HttpAgent({ url, threadId: "thread" });
    const parameters = { type: "object", properties: { question: { type: "string" } } };
    const tools = [{ name: "ask_user", description: "Ask the user.", parameters }];
    const ends = [];
    const errors = [];
    const run = (more = {}) =>
      agent.runAgent({ tools, ...more }, {
        onRunFinishedEvent: ({ event }) => void ends.push(event.outcome ?? null),
        onRunErrorEvent: ({ event }) => void errors.push(event.message),
      });

    agent.addMessage({ id: "1", role: "user", content: "Pay Ann." });
    await run();
    const resume = ends[0].interrupts.map((each, index) => ({
      interruptId: each.id,
      status: "resolved",
      payload: index === 0 ? { approved: true } : { approved: false, reason: "too much" },
    }));
    await run({ resume });
    agent.addMessage({ id: "2", role: "tool", toolCallId: ends[1].pendingToolCallIds[0], content: "red" });
    await run();
    const messages = structuredClone(agent.messages);
    agent.addMessage({ id: "3", role: "user", content: "Again." });
    await run().catch(() => {});
    return { messages, ends, errors };
  },
};

console.log(JSON.stringify(await scenarios[name]()));
process.exit(0);
