"use strict";
// The row above the pair, and what is said to the annotator: in words on the page, and to screen readers.
class Figures {
  #root;
  #deadlineAt = null;
  #refreshing = null;
  #onDeadline;

  constructor(root, onDeadline) {
    this.#root = root;
    this.#onDeadline = onDeadline;
    setInterval(() => this.#tick(), 1000);
  }

  static duration(seconds) {
    if (seconds < 10) return `${Math.max(seconds, 0).toFixed(1)} s`;
    let left = Math.round(seconds);
    const parts = [];
    for (const [name, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
      const count = Math.floor(left / size);
      left %= size;
      if (count || parts.length) parts.push(count ? `${count} ${name}` : "");
    }
    return parts.slice(0, 2).filter(Boolean).join(" ");
  }

  set deadlineInS(seconds) {
    this.#deadlineAt = seconds === null || Number.isNaN(seconds) ? null : Date.now() / 1000 + seconds;
    this.#tick();
  }

  // At most one request each two seconds, however quick the labels are.
  refresh() {
    this.#refreshing ||= wait(2)
      .then(() => Api.get("/api/progress"))
      .then((found) => this.#show(found))
      .catch(() => {})
      .finally(() => {
        this.#refreshing = null;
      });
  }

  #show(found) {
    for (const name of ["num_resolved", "num_tasks", "num_mine_today"]) this.#put(name, found[name].toLocaleString("en"));
    const done = document.getElementById("done");
    done.max = Math.max(found.num_tasks, 1);
    done.value = found.num_resolved;
    if (found.median_seconds !== null) this.#put("median_seconds", Figures.duration(found.median_seconds));
  }

  #put(name, text) {
    const figure = this.#root.querySelector(`[data-figure="${name}"]`);
    if (figure.textContent !== text) figure.textContent = text;
    const around = figure.closest("[data-with]");
    if (around) around.hidden = false;
  }

  #tick() {
    if (this.#deadlineAt === null) {
      this.#root.querySelector('[data-with="deadline"]').hidden = true;
      return;
    }
    const left = this.#deadlineAt - Date.now() / 1000;
    this.#put("deadline", left > 0 ? Figures.duration(Math.max(left, 1)).replace(/\.0 s$/, " s") : "no time");
    if (left < -1) {
      this.#deadlineAt = null;
      this.#onDeadline();
    }
  }
}

class Voice {
  #notice = document.getElementById("notice");
  #said = document.getElementById("said");
  #noticedAt = 0;

  // Quietly: for screen readers alone.
  say(text) {
    this.#said.textContent = text;
  }

  // For everybody, until the next label that comes a while after it.
  warn(text, link) {
    this.#notice.textContent = text;
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link.href;
      anchor.textContent = link.words;
      this.#notice.append(" ", anchor);
    }
    this.#notice.hidden = false;
    this.#noticedAt = performance.now();
  }

  clear(afterS = 0) {
    if (performance.now() - this.#noticedAt >= afterS * 1000) this.#notice.hidden = true;
  }
}
