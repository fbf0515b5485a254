// Talks to a server with the `ai` package and with `@ag-ui/client`, and prints what each one holds.

import { createRequire } from "node:module";

const need = createRequire(`${process.env.CLIENT_PACKAGES}/`);
const [, , name, url, key] = process.argv;
const headers = key ? { Authorization: `Bearer ${key}` } : {};
const parameters = { type: "object", properties: { question: { type: "string" } } };
const ASK = { name: "ask_user", description: "Ask the user.", parameters };

// The class behind `useChat`, with a state that no page shows. `finished` waits for an answer; call it
// before what makes the chat send by itself.
function chatWith(id, messages = []) {
  const ai = need("ai");
  class Chat extends ai.AbstractChat {
    constructor(init) {
      const state = {
        status: "ready",
        error: undefined,
        messages,
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
    id,
    onFinish: () => finished(),
    transport: new ai.DefaultChatTransport({
      api: url,
      headers,
      body: key ? { tools: [{ type: "function", function: ASK }] } : {},
    }),
    sendAutomaticallyWhen: (given) =>
      ai.lastAssistantMessageIsCompleteWithToolCalls(given) ||
      ai.lastAssistantMessageIsCompleteWithApprovalResponses(given),
  });
  chat.nextAnswer = () => new Promise((done) => (finished = done));
  chat.seen = (until) => seen(() => chat.lastMessage?.role === "assistant" && chat.lastMessage.parts.some(until));
  return chat;
}

// Waits until a test of what a client holds is true.
async function seen(test) {
  while (!test()) await new Promise((done) => setTimeout(done, 5));
}

// Cuts a connection as a network does: the client gets an error that it did not ask for.
function cuttable() {
  const cut = new AbortController();
  const fetchCut = async (address, init) => {
    const response = await fetch(address, init);
    if (cut.signal.aborted || response.body === null) return response;
    const reader = response.body.getReader();
    cut.signal.addEventListener("abort", () => reader.cancel().catch(() => {}));
    const body = new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read();
        if (cut.signal.aborted) controller.error(new TypeError("network error"));
        else if (done) controller.close();
        else controller.enqueue(value);
      },
    });
    return new Response(body, { status: response.status, headers: response.headers });
  };
  return { fetch: fetchCut, cut: () => cut.abort() };
}

// Resumes the streams of chats, and lets the server's tool go on once all of them are connected.
async function resumed(...chats) {
  const streams = chats.map((chat) => chat.resumeStream());
  await seen(() => chats.every((chat) => chat.status === "streaming"));
  await go();
  await Promise.all(streams);
}

const shownParts = (chat) => structuredClone(chat.messages.map(({ role, parts }) => ({ role, parts })));

const scenarios = {
  async ai() {
    const chat = chatWith("chat");
    const parts = () => chat.messages.at(-1).parts;
    const seen = [];
    const note = () => seen.push({ status: chat.status, parts: structuredClone(parts()) });

    await chat.sendMessage({ text: "Pay Ann." });
    note();
    const decided = chat.nextAnswer();
    for (const part of parts().filter((each) => each.state === "approval-requested")) {
      const approved = part.input.amount === 5;
      await chat.addToolApprovalResponse({ id: part.approval.id, approved, reason: approved ? undefined : "too much" });
    }
    await decided;
    note();
    const asked = parts().find((part) => part.state === "input-available");
    const answered = chat.nextAnswer();
    await chat.addToolOutput({ tool: "ask_user", toolCallId: asked.toolCallId, output: { color: "red" } });
    await answered;
    note();
    await chat.sendMessage({ text: "Again." });
    return { seen, error: chat.error?.message };
  },

  // The last answer is regenerated, then the first message is edited, then its answer regenerated.
  async ai_edits() {
    const chat = chatWith("chat");
    await chat.sendMessage({ text: "One" });
    await chat.sendMessage({ text: "Two" });
    await chat.regenerate();
    const regenerated = shownParts(chat);
    await chat.sendMessage({ text: "Other", messageId: chat.messages[0].id });
    await chat.regenerate();
    return { regenerated, edited: shownParts(chat), error: chat.error?.message };
  },

  async ai_breaks() {
    const chat = chatWith("chat");
    await chat.sendMessage({ text: "Hi" });
    const half = { parts: structuredClone(chat.lastMessage.parts), error: chat.error?.message };
    await chat.regenerate();
    return { half, parts: chat.lastMessage.parts, error: chat.error?.message };
  },

  // The client reads until a tool is called, and loses its connection.
  async ai_resumes() {
    const chat = chatWith("chat");
    const { fetch: fetchCut, cut } = cuttable();
    chat.transport.fetch = fetchCut;
    const isWaiting = (part) => part.type === "tool-wait" && part.state === "input-available";
    const lost = chat.nextAnswer();
    const sent = chat.sendMessage({ text: "Hi" });
    await chat.seen(isWaiting);
    cut();
    await Promise.all([sent, lost]);
    const broken = { status: chat.status, parts: structuredClone(chat.lastMessage.parts) };
    const reloaded = chatWith("chat", structuredClone(chat.messages.slice(0, 1)));
    await resumed(chat, reloaded);
    await chat.resumeStream(); // nothing runs now
    return { broken, resumed: shownParts(chat), reloaded: shownParts(reloaded), status: chat.status };
  },

  // The connection is lost after an approval: the answer goes on with an earlier message.
  async ai_resumes_approval() {
    const chat = chatWith("chat");
    await chat.sendMessage({ text: "Pay Ann." });
    const { fetch: fetchCut, cut } = cuttable();
    chat.transport.fetch = fetchCut;
    const asked = chat.lastMessage.parts.find((part) => part.state === "approval-requested");
    const lost = chat.nextAnswer();
    await chat.addToolApprovalResponse({ id: asked.approval.id, approved: true });
    await chat.seen((part) => part.type === "tool-wait" && part.state === "input-available");
    const stored = structuredClone(chat.messages);
    cut();
    await lost;
    const reloaded = chatWith("chat", stored);
    await resumed(chat, reloaded);
    return { resumed: shownParts(chat), reloaded: shownParts(reloaded) };
  },

  async agui() {
    const { HttpAgent } = need("@ag-ui/client");
    const agent = new HttpAgent({ url, headers, threadId: "thread" });
    const ends = [];
    const errors = [];
    const run = (more = {}) =>
      agent.runAgent({ tools: [ASK], ...more }, {
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
    let refused = null;
    await run().catch((error) => (refused = error.message));
    return { messages, ends, errors, refused };
  },

  async agui_changes() {
    const { HttpAgent } = need("@ag-ui/client");
    const agent = new HttpAgent({ url, headers, threadId: "thread" });
    let end;
    const run = (more = {}) => agent.runAgent(more, { onRunFinishedEvent: ({ event }) => void (end = event.outcome) });
    agent.addMessage({ id: "1", role: "user", content: "Pay Ann." });
    await run();
    const payload = { approved: true, arguments: { to: "Ann", amount: 1 } };
    await run({ resume: [{ interruptId: end.interrupts[0].id, status: "resolved", payload }] });
    const paid = structuredClone(agent.messages);
    agent.setMessages(agent.messages.slice(0, 1));
    await run({ forwardedProps: { rewind: true } });
    const regenerated = structuredClone(agent.messages);
    agent.setMessages([{ id: "4", role: "user", content: "Break." }]);
    const errors = [];
    await agent
      .runAgent({}, { onRunErrorEvent: ({ event }) => void errors.push(event.message) })
      .catch(() => {});
    return { paid, regenerated, errors };
  },

  async agui_resumes() {
    process.on("unhandledRejection", () => {}); // the client closes a stream that is broken
    const { ResumableAgent } = await import(process.env.RESUMABLE_AGENT);
    const agent = new ResumableAgent({ url, headers, threadId: "thread" });
    agent.addMessage({ id: "1", role: "user", content: "Hi" });
    const { fetch: fetchCut, cut } = cuttable();
    agent.fetch = fetchCut;
    const lost = agent.runAgent().catch((error) => error.message);
    await seen(() => agent.messages.at(-1).toolCalls?.length === 1);
    const other = new ResumableAgent({ url, headers, threadId: "thread" });
    cut();
    const error = await lost;
    const called = [];
    const back = [agent, other].map((each) => each.connectAgent({}, { onToolCallEndEvent: () => void called.push(each) }));
    await seen(() => called.length === 2);
    await go();
    await Promise.all(back);
    const idle = await agent.connectAgent().then(() => null, ({ message }) => message);
    return { error, resumed: agent.messages, other: other.messages, idle };
  },
};

// Lets the server's tool go on.
const go = () => fetch(`${new URL(url).origin}/go`, { method: "POST" });

console.log(JSON.stringify(await scenarios[name]()));
process.exit(0);
