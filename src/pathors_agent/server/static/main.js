// The page: who signs in, and what the buttons and keys do.

import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId } from "./elements.js";
import { forgetAll, keep, kept } from "./kept.js";
import { setUpOwnTools } from "./own_tools.js";
import { SessionList } from "./session_list.js";

const HINT = byId("hint").textContent;

const composer = new Composer((text) => {
  if (chat.isRunning || chat.openCalls) return false;
  chat.send(text);
  return true;
});
const chat = new Chat(composer);
const sessions = new SessionList((id) => openSession(id));

// - signing in -

function askForKey(problem = "") {
  const account = kept("account", {});
  byId("project").value = account.project ?? "";
  byId("key").value = account.key ?? "";
  byId("sign-in-problem").textContent = problem;
  byId("chat").hidden = true;
  byId("sign-in").hidden = false;
  byId(account.project ? "key" : "project").focus();
}

async function signIn(account) {
  const api = new Api(account);
  await sessions.start(api);
  if (kept("account", account).project !== account.project) chat.startNew();
  chat.api = api;
  keep("account", account);
  byId("sign-in").hidden = true;
  byId("chat").hidden = false;
  byId("title").textContent = account.project;
  document.title = `${account.project} · Chat`;
  composer.focus();
  const session = kept("session");
  if (session && session !== chat.session) await openSession(session);
}

byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const account = { project: byId("project").value.trim(), key: byId("key").value.trim() };
  byId("sign-in-problem").textContent = wrongWith(account);
  if (wrongWith(account)) return;
  try {
    await signIn(account);
  } catch (error) {
    byId("sign-in-problem").textContent = inWords(error);
  }
});

function wrongWith({ project, key }) {
  if (!project || !key) return "Both the project and its key are needed.";
  return /^[!-~]+$/.test(key) ? "" : "The key has characters that no key has.";
}

const inWords = (error) =>
  error.status === 401 ? "This project does not know this key." : `${error.message}.`;

byId("sign-out").addEventListener("click", () => {
  chat.startNew();
  composer.clear();
  forgetAll();
  askForKey();
});
chat.addEventListener("refused", () => askForKey("The key is not taken any longer. Give one that is."));

// - sessions -

async function openSession(id) {
  showSidebar(false);
  try {
    await chat.open(id);
  } catch (error) {
    if (error.status === 404) chat.startNew();
    chat.tell(error);
  }
  composer.focus();
}

byId("new").addEventListener("click", () => {
  showSidebar(false);
  chat.startNew();
  composer.focus();
});

chat.addEventListener("turn", () => {
  composer.stored();
  sessions.refresh();
});
chat.addEventListener("change", () => {
  byId("chat").classList.toggle("running", chat.isRunning);
  byId("send").hidden = chat.isRunning;
  byId("stop").hidden = !chat.isRunning;
  byId("send").disabled = chat.openCalls > 0;
  byId("end").hidden = chat.session === null;
  byId("session-name").textContent = chat.session ?? "New session";
  byId("hint").textContent = chat.openCalls ? "Answer the open calls above, then go on." : HINT;
  sessions.mark(chat.session);
});

byId("end").addEventListener("click", () => {
  byId("confirm-problem").textContent = "";
  byId("confirm").showModal();
});
byId("confirm-no").addEventListener("click", () => byId("confirm").close());
byId("confirm-yes").addEventListener("click", async () => {
  try {
    await chat.api.end(chat.session);
    byId("confirm").close();
    chat.startNew();
    sessions.refresh();
    composer.focus();
  } catch (error) {
    byId("confirm-problem").textContent = inWords(error);
  }
});

// - keys, and the list on narrow screens -

function showSidebar(isShown) {
  const was = byId("chat").classList.contains("sidebar-shown");
  byId("chat").classList.toggle("sidebar-shown", isShown);
  byId("open-sidebar").setAttribute("aria-expanded", String(isShown));
  if (isShown) byId("close-sidebar").focus();
  else if (was) byId("open-sidebar").focus();
}

byId("open-sidebar").addEventListener("click", () => showSidebar(true));
byId("close-sidebar").addEventListener("click", () => showSidebar(false));
byId("stop").addEventListener("click", () => chat.stop());
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  composer.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]")) return;
  if (byId("chat").classList.contains("sidebar-shown")) showSidebar(false);
  else chat.stop();
});

// - the start -

setUpOwnTools();
const account = kept("account");
if (account) signIn(account).catch((error) => askForKey(inWords(error)));
else askForKey();
