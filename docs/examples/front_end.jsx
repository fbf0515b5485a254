import { useChat } from "@ai-sdk/react";
import {
  DefaultChatTransport,
  getToolName,
  isToolUIPart,
  lastAssistantMessageIsCompleteWithApprovalResponses,
} from "ai";
import { createRoot } from "react-dom/client";

function Part({ part, decide }) {
  if (part.type === "text") return <p>{part.text}</p>;
  if (part.type === "reasoning") return <details><summary>Reasoning</summary>{part.text}</details>;
  if (!isToolUIPart(part)) return null;
  return (
    <p>
      {getToolName(part)} {JSON.stringify(part.input)}: {part.output ?? part.errorText ?? part.state}
      {part.state === "approval-requested" && (
        <>
          <button onClick={() => decide({ id: part.approval.id, approved: true })}>Approve</button>
          <button onClick={() => decide({ id: part.approval.id, approved: false })}>Deny</button>
        </>
      )}
    </p>
  );
}

function Chat() {
  const { messages, sendMessage, addToolApprovalResponse, error } = useChat({
    transport: new DefaultChatTransport({ api: "/chat" }),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
  });
  const submit = (event) => {
    event.preventDefault();
    sendMessage({ text: event.target.elements.text.value });
    event.target.reset();
  };
  return (
    <>
      <main aria-live="polite">
        {messages.map((message) => (
          <section key={message.id}>
            {message.parts.map((part, index) => <Part key={index} part={part} decide={addToolApprovalResponse} />)}
          </section>
        ))}
        {error && <p role="alert">{error.message}</p>}
      </main>
      <form onSubmit={submit}>
        <label>Message <input name="text" autoComplete="off" required /></label>
        <button>Send</button>
      </form>
    </>
  );
}

createRoot(document.getElementById("root")).render(<Chat />);
