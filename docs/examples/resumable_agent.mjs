import { HttpAgent, runHttpRequest, transformHttpEventStream } from "@ag-ui/client";

/** Goes on with the running turn of its thread: `await agent.connectAgent()`. */
export class ResumableAgent extends HttpAgent {
  constructor(config) {
    super(config);
    // A snapshot replaces all messages but reasoning, of which the rest of the turn brings its own.
    const withoutReasoning = (messages) => messages.filter(({ role }) => role !== "reasoning");
    this.subscribe({
      onMessagesSnapshotEvent: ({ messages }) => ({ messages: withoutReasoning(messages) }),
    });
  }

  connect({ threadId }) {
    const address = `${this.url}/${encodeURIComponent(threadId)}/stream`;
    const ask = async () => {
      const response = await this.fetch(address, { headers: this.headers });
      if (response.status === 204) throw new Error("No turn is running");
      return response;
    };
    return transformHttpEventStream(runHttpRequest(ask));
  }
}
