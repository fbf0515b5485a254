// Speak to the API of the server that gave this page.

import { eventData } from "./event_stream.js";

const ROOT = new URL(".", location.href);
const LOST = "The connection to the server was lost";
// Of an answer that is no JSON, as from a proxy.
const SHOWN_CHARACTERS = 300;

/** What went wrong, in words; `status` is 0 where no whole answer came. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, details = [], retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, details, retryAfter });
  }

  /** Whether the same request may be answered another time. */
  get mayPass() {
    return [0, 408, 409, 429].includes(this.status) || this.status >= 500;
  }
}

export class Api {
  /** Return the API for a key, which names its project. */
  static async open(key) {
    const response = await ask("GET", "page/account", key);
    const { project, maxBodyBytes } = await whole(response);
    return new Api(key, project, maxBodyBytes);
  }

  constructor(key, project, maxBodyBytes) {
    Object.assign(this, { key, project, maxBodyBytes });
  }

  sessions(page, search, pageSize) {
    return this.#json("GET", `sessions?${new URLSearchParams({ page, pageSize, search })}`);
  }

  session(id) {
    return this.#json("GET", `sessions/${encodeURIComponent(id)}`);
  }

  rename(id, title) {
    return this.#json("PATCH", `sessions/${encodeURIComponent(id)}`, JSON.stringify({ title }));
  }

  end(id) {
    return this.#json("DELETE", "sessions", JSON.stringify({ session_id: id }));
  }

  /**
   * Ask for the HTML of texts: an `article` for each. The browser parses it into a document of its
   * own, where nothing runs or loads.
   */
  articles(texts) {
    return new Promise((done) => {
      const asked = new XMLHttpRequest();
      asked.open("POST", new URL(`page/${encodeURIComponent(this.project)}/markdown`, ROOT));
      asked.responseType = "document";
      asked.setRequestHeader("Authorization", `Bearer ${this.key}`);
      asked.setRequestHeader("Content-Type", "application/json");
      asked.onloadend = () => {
        const articles = asked.status === 200 ? asked.responseXML?.querySelectorAll("body > article") : null;
        done({ isOff: asked.status === 204, articles: articles ?? [] });
      };
      asked.send(JSON.stringify({ texts }));
    });
  }

  /** Make a request for an answer. Sent again as it is, it is answered once all the same. */
  request(messages, { session, tools, rewind }) {
    const fields = {
      messages,
      stream: true,
      stream_options: { include_usage: true, include_reasoning: true, include_tool_activity: true },
    };
    if (tools.length) fields.tools = tools;
    if (rewind) fields.rewind = true;
    return { body: JSON.stringify(fields), session, name: `page-${randomName()}` };
  }

  /**
   * Give the chunks of an answer as they come; `ApiError` unless all of them came. The request's
   * `rewound` becomes how many stored messages the turn replaces.
   */
  async *answer(request, signal) {
    const { body, session, name } = request;
    const headers = { "Idempotency-Key": name, ...(session && { "X-Session-ID": session }) };
    const response = await this.#fetch("POST", "chat/completions", { body, headers, signal });
    request.rewound = Number(response.headers.get("X-Session-Rewound"));
    try {
      for await (const data of eventData(response.body)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw problem(chunk.error, { status: 502 });
        yield chunk;
      }
    } catch (error) {
      throw error instanceof ApiError || signal.aborted ? error : new ApiError(LOST);
    }
    throw new ApiError(LOST);
  }

  async #json(method, path, body) {
    return whole(await this.#fetch(method, path, { body }));
  }

  #fetch(method, path, options) {
    return ask(method, `v1/projects/${encodeURIComponent(this.project)}/${path}`, this.key, options);
  }
}

async function ask(method, path, key, { body, headers, signal } = {}) {
  const sent = { Authorization: `Bearer ${key}`, ...headers };
  if (body) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { method, body, headers: sent, signal, credentials: "omit" });
  } catch (error) {
    throw signal?.aborted ? error : new ApiError(LOST);
  }
  if (response.ok) return response;
  throw await refusal(response);
}

async function whole(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(LOST);
  }
}

async function refusal(response) {
  const { status } = response;
  const retryAfter = secondsUntil(response.headers.get("Retry-After"));
  const text = await response.text().catch(() => "");
  try {
    return problem(JSON.parse(text).error, { status, retryAfter });
  } catch {
    const details = text ? [text.slice(0, SHOWN_CHARACTERS)] : [];
    return new ApiError(withStatus(status), { status, details, retryAfter });
  }
}

/** Return the error that a body tells of: as this API does, or in the text alone, as proxies do. */
function problem(error, about) {
  const { message, code = null, details } = typeof error === "string" ? { message: error } : error;
  const text = typeof message === "string" && message ? message : withStatus(about.status);
  return new ApiError(text, { ...about, code, details: Array.isArray(details) ? details : [] });
}

const withStatus = (status) => `The server answered with status ${status}`;

/** Return the seconds of a `Retry-After`, which may be a time, or null. */
function secondsUntil(text) {
  const seconds = Number(text) || Math.ceil((Date.parse(text) - Date.now()) / 1000);
  return seconds > 0 ? seconds : null;
}

function randomName() {
  // Not randomUUID: that is only there under https.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
