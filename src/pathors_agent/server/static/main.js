// The page: who signs in, and what the buttons and keys do.

import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId, isComposing } from "./elements.js";
import { shown } from "./json_text.js";
import { forgetAll, keep, kept, whenAccountChanges } from "./kept.js";
import { setUpOwnTools } from "./own_tools.js";
import { SessionList } from "./session_list.js";

const HINT = byId("hint").textContent;

const composer = new Composer({
  maySend: () => !chat.isRunning && !chat.openCalls,
  send: (content) => chat.send(content),
});
const sessions = new SessionList({ chosen: (id) => openSession(id), loaded: () => showTitle() });
const chat = new Chat(composer);

// - signing in -

function askForKey(problem = "", key = "") {
  byId("key").value = key;
  byId("sign-in-problem").textContent = problem;
  byId("chat").hidden = true;
  byId("sign-in").hidden = false;
  document.title = "Chat";
  byId("key").focus();
}

async function signIn(key) {
  const api = await Api.open(key);
  await sessions.start(api);
  if (kept("project", api.project) !== api.project) chat.startNew();
  chat.api = api;
  composer.attachments.maxBytes = api.maxBodyBytes;
  keep("account", { key });
  keep("project", api.project);
  byId("sign-in").hidden = true;
  byId("chat").hidden = false;
  byId("project-name").textContent = api.project;
  showTitle();
  composer.focus();
  const session = kept("session");
  if (session && session !== chat.session) await openSession(session);
}

byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("sign-in-problem").textContent = wrongWith(key);
  if (wrongWith(key)) return;
  try {
    await signIn(key);
  } catch (error) {
    byId("sign-in-problem").textContent = inWords(error);
  }
});

function wrongWith(key) {
  if (!key) return "Enter a key.";
  return /^[!-~]+$/.test(key) ? "" : "The key has characters that no key has.";
}

const inWords = (error) => (error.status === 401 ? "The server does not know this key." : `${error.message}.`);

function leave() {
  chat.startNew();
  composer.clear();
  forgetAll();
  askForKey();
}

/** Sign in with the key that is remembered, or ask for one. Any other problem passes: the key stays in its field. */
function start() {
  const key = kept("account")?.key;
  if (key) signIn(key).catch((error) => askForKey(inWords(error), error.status === 401 ? "" : key));
  else askForKey();
}

byId("sign-out").addEventListener("click", leave);
chat.addEventListener("refused", () => {
  keep("account", null);
  askForKey("The key is no longer valid. Enter another one.");
});
whenAccountChanges(() => {
  if (kept("account") === null) leave();
  else if (byId("chat").hidden) start();
});

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
  byId("rename").hidden = byId("end").hidden = chat.session === null;
  byId("session-name").textContent = chat.session ?? "New session";
  showTitle();
  byId("hint").textContent = chat.openCalls ? "Answer the open calls above, then go on." : HINT;
  byId("hint").classList.toggle("keys", !chat.openCalls);
  sessions.mark(chat.session);
});

/** Show the title of the session, or the project of a new one. */
function showTitle() {
  if (!chat.api) return;
  const { project } = chat.api;
  const title = shown(sessions.title(chat.session)) || project;
  byId("title").textContent = title;
  document.title = title === project ? `${project} · Chat` : `${title} · ${project}`;
}

byId("rename").addEventListener("click", () => {
  byId("new-title").value = sessions.title(chat.session);
  byId("renaming-problem").textContent = "";
  byId("renaming").showModal();
  byId("new-title").select();
});
byId("renaming-no").addEventListener("click", () => byId("renaming").close());
byId("renaming-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const title = byId("new-title").value.trim();
  byId("renaming-problem").textContent = title ? "" : "Enter a title.";
  if (!title) return;
  try {
    await chat.api.rename(chat.session, title);
    byId("renaming").close();
    sessions.refresh();
  } catch (error) {
    byId("renaming-problem").textContent = inWords(error);
  }
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
  if (event.key !== "Escape" || isComposing(event) || document.querySelector("dialog[open]")) return;
  if (event.target === byId("search") && byId("search").value) return; // which it clears
  if (byId("chat").classList.contains("sidebar-shown")) showSidebar(false);
  else chat.stop();
});

// - the start -

setUpOwnTools();
start();
