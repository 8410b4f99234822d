"use strict";
// Labels on their way to the server. Each stays here, across reloads too, until the server has answered for it; the
// lease's token makes sending one twice harmless.
const Api = (() => {
  const csrf = document.querySelector('meta[name="csrf"]')?.content || "";

  class Refusal extends Error {
    constructor(status, { error, kind, retry_after_s } = {}) {
      super(error || `The server answered ${status}.`);
      this.status = status;
      this.kind = kind || "";
      this.retryAfterS = retry_after_s;
    }

    get isPassing() {
      return this.status === 0 || this.status === 429 || this.status >= 500;
    }
  }

  async function call(method, path, body) {
    const headers = { Accept: "application/json" };
    if (method !== "GET") headers["X-CSRF-Token"] = csrf;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        credentials: "same-origin",
        signal: AbortSignal.timeout(20_000),
      });
    } catch {
      throw new Refusal(0, { error: "The server cannot be reached." });
    }
    const isJson = (response.headers.get("content-type") || "").startsWith("application/json");
    const answer = isJson ? await response.json().catch(() => ({})) : {};
    if (!response.ok) throw new Refusal(response.status, answer);
    return answer;
  }

  return { get: (path) => call("GET", path), post: (path, body) => call("POST", path, body), Refusal };
})();

const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

class Outbox extends EventTarget {
  #store;
  #entries;
  #waiting = new Map();
  #sending = null;
  #wake = () => {};

  constructor(annotator) {
    super();
    this.#store = `rondo.outbox.${annotator}.`;
    this.#entries = this.#stored();
    addEventListener("online", () => this.#wake());
    if (this.#entries.length) this.#start();
  }

  get size() {
    return this.#entries.length;
  }

  // Resolves with the receipt, or rejects with what the server said; never because the server was away.
  add(token, body) {
    const entry = { token, body, at: Date.now() };
    this.#entries.push(entry);
    this.#keep(entry);
    const receipt = new Promise((resolve, reject) => this.#waiting.set(token, { resolve, reject }));
    this.#start();
    return receipt;
  }

  // Resolves when nothing is on its way.
  idle() {
    return this.#sending || Promise.resolve();
  }

  #start() {
    this.#sending ||= this.#send().finally(() => {
      this.#sending = null;
    });
  }

  async #send() {
    let num_tries = 0;
    while (this.#entries.length) {
      const { token, body } = this.#entries[0];
      try {
        const receipt = await Api.post(`/api/labels/${encodeURIComponent(token)}`, body);
        this.#settle(token, "resolve", receipt);
        num_tries = 0;
      } catch (error) {
        if (!error.isPassing && error.status !== 401 && error.kind !== "csrf") {
          this.#settle(token, "reject", error);
          continue;
        }
        num_tries += 1;
        this.#tell("late", { error, num_tries });
        const patience = new Promise((resolve) => (this.#wake = resolve));
        // Far apart: when a server comes back, everybody has something to send.
        const pause = error.retryAfterS ?? Math.min(30, 0.5 * 2 ** Math.min(num_tries, 6)) * (0.5 + Math.random());
        await Promise.race([patience, wait(pause + 0.05)]);
      }
    }
  }

  #settle(token, how, value) {
    this.#entries = this.#entries.filter((entry) => entry.token !== token);
    localStorage.removeItem(this.#store + token);
    const promise = this.#waiting.get(token);
    this.#waiting.delete(token);
    if (promise) promise[how](value);
    else this.#tell(how === "resolve" ? "caught-up" : "lost", { error: value });
    this.#tell("change", {});
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  // Each label has a key of its own, so that several windows do not overwrite each other's.
  #stored() {
    const found = [];
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(this.#store)) continue;
      try {
        const entry = JSON.parse(localStorage.getItem(key));
        if (this.#store + entry.token === key) found.push(entry);
      } catch {
        localStorage.removeItem(key);
      }
    }
    return found.sort((one, other) => one.at - other.at);
  }

  #keep(entry) {
    try {
      localStorage.setItem(this.#store + entry.token, JSON.stringify(entry));
    } catch {
      // A full or closed store costs the safety net for reloads, not the label.
    }
  }
}
