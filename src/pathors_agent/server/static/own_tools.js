// The dialog with the tools that the person answers.

import { byId } from "./elements.js";
import { keep, kept } from "./kept.js";

export function setUpOwnTools() {
  const [dialog, field, problem] = ["settings", "tools", "tools-problem"].map(byId);
  byId("open-settings").addEventListener("click", () => {
    field.value = written(kept("tools", []));
    problem.textContent = "";
    dialog.showModal();
  });
  byId("cancel-settings").addEventListener("click", () => dialog.close());
  byId("example-tools").addEventListener("click", () => {
    field.value = byId("tools-example").textContent;
  });
  byId("settings-form").addEventListener("submit", (event) => {
    event.preventDefault();
    problem.textContent = wrongWith(field.value);
    if (problem.textContent) return;
    keep("tools", JSON.parse(field.value.trim() || "[]"));
    dialog.close();
  });
}

const written = (tools) => (tools.length ? JSON.stringify(tools, null, 2) : "");

function wrongWith(text) {
  try {
    const tools = JSON.parse(text.trim() || "[]");
    if (!Array.isArray(tools)) return "This must be a JSON list: [ … ]";
    const nameless = tools.findIndex((tool) => typeof tool?.function?.name !== "string");
    return nameless < 0 ? "" : `Tool ${nameless + 1} has no function with a name.`;
  } catch (error) {
    return `This is not JSON: ${error.message}`;
  }
}
