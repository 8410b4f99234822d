"use strict";
// How an answer is shown: rendered, with its differences, or as its source; and boxes that scroll.
const Views = (() => {
  const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u034f\u115f\u1160\u2800\u3164\uffa0\ufe00-\ufe0f]/u;
  const MAX_SOURCE_CHARS = 200_000;

  // The source as text nodes, every character that cannot be seen as a mark.
  function sourceOf(text) {
    const pre = document.createElement("pre");
    pre.className = "source";
    pre.dir = "ltr";
    let run = "";
    for (const char of text.slice(0, MAX_SOURCE_CHARS)) {
      if (char === "\n" || char === "\t" || !HIDDEN.test(char)) {
        run += char;
        continue;
      }
      const mark = document.createElement("span");
      mark.className = "hidden-char";
      mark.textContent = `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
      pre.append(run, mark);
      run = "";
    }
    pre.append(run || (pre.childNodes.length ? "" : "(empty)"));
    return pre;
  }

  async function contentsOf(view, token) {
    const path = `/api/leases/${encodeURIComponent(token)}`;
    if (view === "difference") {
      const { left, right, level } = await Api.get(`${path}/difference`);
      const notes = { lines: "Compared by lines: too long for words.", none: "Too long and repetitive to compare." };
      return Object.entries({ left, right }).map(([side, html]) => {
        const box = document.createElement("div");
        box.className = "difference";
        box.innerHTML = html; // escaped on the server, but for <del>, <ins> and marks
        return [side, box, notes[level] || ""];
      });
    }
    return Promise.all(
      ["left", "right"].map(async (side) => {
        const response = await fetch(`${path}/raw/${side}`, { credentials: "same-origin" });
        if (!response.ok) throw new Api.Refusal(response.status, { error: "The source is not there any more." });
        const text = await response.text();
        const note = text.length > MAX_SOURCE_CHARS ? `The first ${MAX_SOURCE_CHARS.toLocaleString("en")} characters.` : "";
        return [side, sourceOf(text), note];
      }),
    );
  }

  // Shows a view of a pair; it is fetched once.
  async function show(pair, view) {
    const isThere = view === "rendered" || pair.querySelector(`[data-view="${view}"]`);
    if (!isThere) {
      for (const [side, box, note] of await contentsOf(view, pair.dataset.token)) {
        box.dataset.view = view;
        const after = pair.querySelector(`[data-side="${side}"] [data-view="rendered"]`);
        if (note) {
          const remark = document.createElement("p");
          remark.className = "remark";
          remark.textContent = note;
          box.prepend(remark);
        }
        after.after(box);
      }
    }
    pair.dataset.shows = view;
    for (const box of pair.querySelectorAll(".answer [data-view]")) box.hidden = box.dataset.view !== view;
    focusable(pair);
  }

  // A box that scrolls is reached by keyboard; one that does not is no stop on the way.
  function focusable(root) {
    for (const box of root.querySelectorAll(".scrolls, pre, .formula-display")) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
      if (!scrolls) {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
        continue;
      }
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", box.dataset.name || { PRE: "Code" }[box.tagName] || "Wide content");
    }
  }

  for (const root of document.querySelectorAll(".prose")) focusable(root);
  new ResizeObserver(() => focusable(document)).observe(document.getElementById("stage") || document.body);
  return { show, focusable };
})();
