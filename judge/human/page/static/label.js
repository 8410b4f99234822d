"use strict";
// Labelling: the pair on the desk, the next one behind it, and what keys and buttons do. A label is handed to the
// outbox, and the next pair is shown at once; what the server says about the label comes later.
{
  const desk = document.getElementById("desk");
  const stage = document.getElementById("stage");
  const verdict = document.getElementById("verdict");
  const asks = document.getElementById("asks");
  const skipDialog = document.getElementById("skip");
  const helpDialog = document.getElementById("help");
  const panel = document.getElementById("guidelines");
  const keys = Keys.load(JSON.parse(desk.dataset.keys));
  const outbox = new Outbox(desk.dataset.annotator);
  const voice = new Voice();
  const figures = new Figures(desk, () => revalidate());
  const history = JSON.parse(desk.dataset.undoable).map((id) => Promise.resolve(id)); // of labels, the newest last

  let current = null; // the pair on the desk
  let waiting = []; // pairs behind it
  let shownAt = 0;
  let pending = null; // a choice that waits for the answers to the questions
  let isUndoing = false;
  let filling = null;
  let isStopped = false;
  let activeAt = Date.now();
  let looksAgain = 0;

  const number = (pair, name) => Number.parseFloat(pair.dataset[name]);
  const path = (pair, what) => `/api/leases/${encodeURIComponent(pair.dataset.token)}/${what}`;

  function parsed(html) {
    const template = document.createElement("template");
    template.innerHTML = html; // made by task.html: escaped or sanitised
    return template.content.firstElementChild;
  }

  // ---- the pair on the desk ----

  function mount(element, { focus = true } = {}) {
    const isPair = element.dataset.state === "pair";
    current = isPair ? element : null;
    clearTimeout(looksAgain);
    if (stage.firstElementChild !== element) stage.replaceChildren(element);
    verdict.hidden = !isPair;
    verdict.reset();
    leaveQuestions();
    press(null);
    pressTools("rendered");
    if (isPair) {
      if (!panel.hidden) showGuidelines(true, { focus: false });
      figures.deadlineInS = number(element, "deadlineInS");
      refill(element.dataset.former);
      Views.focusable(element);
      const turns = element.querySelector(".turns");
      turns.scrollTop = turns.scrollHeight;
    } else {
      looksAgain = setTimeout(fill, 8000);
    }
    if (focus) {
      scrollTo({ top: 0, behavior: "instant" });
      element.querySelector("h2")?.focus({ preventScroll: true });
    }
    shownAt = performance.now();
  }

  function refill(former) {
    if (!former) return;
    const { choice, strength, comment, criteria } = JSON.parse(former);
    press(choice);
    verdict.elements.comment.value = comment || "";
    for (const radio of verdict.elements.strength) radio.checked = radio.value === (strength || "");
    for (const [name, value] of Object.entries(criteria || {})) {
      for (const radio of current.querySelectorAll(`[data-criterion="${CSS.escape(name)}"] input`)) {
        radio.checked = radio.value === value;
      }
    }
  }

  function press(choice) {
    for (const button of verdict.querySelectorAll("[data-choice]")) {
      button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
    }
  }

  function advance(startedAt) {
    const next = waiting.shift();
    if (next) mount(next);
    else mount(parsed('<section class="empty-stage" data-state="loading"><h2 tabindex="-1">One moment …</h2></section>'));
    if (startedAt !== undefined && next) {
      requestAnimationFrame(() => performance.measure("label-to-next-pair", { start: startedAt }));
      voice.say("Labelled. Here is the next pair.");
    }
    fill();
  }

  // ---- pairs from the server ----

  function fill() {
    filling ||= fetchPairs().finally(() => {
      filling = null;
    });
    return filling;
  }

  async function fetchPairs() {
    for (let numTries = 0; !isStopped && !(current && waiting.length); ) {
      try {
        await outbox.idle();
        const answer = await Api.get(current ? `/api/next?other_than=${encodeURIComponent(current.dataset.token)}` : "/api/next");
        numTries = 0;
        if (answer.state === "empty") {
          if (!current) mount(parsed(answer.html), { focus: stage.firstElementChild?.dataset.state !== "empty" });
          return;
        }
        if ([current, ...waiting].some((pair) => pair?.dataset.token === answer.token)) return;
        const pair = parsed(answer.html);
        if (current) waiting.push(pair);
        else mount(pair);
      } catch (error) {
        if (!error.isPassing) return refused(error);
        numTries += 1;
        if (!current) voice.warn(`${error.message} Trying again …`);
        await wait(error.retryAfterS ?? Math.min(15, 0.5 * 2 ** numTries) * (0.5 + Math.random()));
      }
    }
    if (current) voice.clear(30);
  }

  async function beat(pair) {
    try {
      const { deadline_in_s } = await Api.post(path(pair, "heartbeat"));
      if (pair === current) figures.deadlineInS = deadline_in_s ?? Number.NaN;
      return true;
    } catch (error) {
      if (error.isPassing) return true;
      if (error.status !== 404 && error.status !== 410) refused(error);
      return error;
    }
  }

  // Drops the pairs that are not ours any more, after a round's end or a long absence.
  async function revalidate(why) {
    const held = [current, ...waiting].filter(Boolean);
    const answers = await Promise.all(held.map(beat));
    const gone = new Map(held.map((pair, i) => [pair, answers[i]]).filter(([, answer]) => answer !== true));
    waiting = waiting.filter((pair) => !gone.has(pair));
    if (current && gone.has(current)) {
      const isSealed = gone.get(current).kind === "round_sealed";
      if (!why) {
        voice.warn(
          isSealed
            ? "The round ended while you were reading, so this pair needs no label any more. Here is what comes next."
            : "You were away for long, so that pair went back to the queue. Here is another one.",
        );
      }
      advance();
    } else fill();
  }

  // ---- labels ----

  function unanswered() {
    return [...current.querySelectorAll(".criterion")].filter((one) => !one.querySelector("input:checked"));
  }

  function choose(choice, { isStrong = false, reason = "", startedAt = performance.now() } = {}) {
    if (!current || isUndoing || isStopped) return;
    const early = Math.max(number(current, "minDwellS"), 0.25) - (performance.now() - shownAt) / 1000;
    if (early > 0) {
      voice.warn("That was quick: read both answers first, then choose.");
      return;
    }
    if (choice !== "skip" && unanswered().length) {
      pending = { choice, isStrong };
      press(choice);
      askNext();
      return;
    }
    const chosen = verdict.elements.strength.value || null;
    const sided = choice === "left" || choice === "right";
    const criteria = {};
    for (const one of current.querySelectorAll(".criterion")) {
      const value = one.querySelector("input:checked")?.value;
      if (value && choice !== "skip") criteria[one.dataset.criterion] = value;
    }
    const body = {
      choice,
      strength: sided ? (isStrong ? "clearly" : chosen) : null,
      reason,
      comment: verdict.elements.comment.value.trim(),
      criteria,
    };
    voice.clear(1);
    handIn(current.dataset.token, body);
    advance(startedAt);
  }

  function handIn(token, body) {
    const receipt = outbox.add(token, body);
    const label = receipt.then(({ label_id }) => label_id);
    history.push(label);
    showUnsent();
    receipt.then(
      ({ is_round_sealed }) => {
        figures.refresh();
        if (is_round_sealed) revalidate();
      },
      (error) => {
        history.splice(history.indexOf(label), 1);
        refused(error, true);
      },
    );
    label.catch(() => {});
  }

  function refused(error, isLabel = false) {
    if (error.status === 401 || error.kind === "csrf") {
      voice.warn("You are signed out. Labels that are not sent yet are kept in this browser.", {
        href: "/label",
        words: "Sign in and go on",
      });
    } else if (error.kind === "quarantined") {
      isStopped = true;
      waiting = [];
      mount(parsed('<section class="empty-stage" data-state="stopped"><h2 tabindex="-1">Thank you</h2></section>'));
      voice.warn(error.message);
    } else if (error.kind === "round_sealed" && isLabel) {
      voice.warn("The round ended before your label came: it is kept as late and changes nothing. Here is what comes next.");
      revalidate("told");
    } else if (isLabel) {
      voice.warn(`Your last label was not taken: ${error.message}`);
      revalidate("told");
    } else voice.warn(error.message);
  }

  async function undo() {
    if (isUndoing || isStopped) return;
    const last = history.at(-1);
    if (!last) {
      voice.warn("There is no label of yours that could still be undone.");
      return;
    }
    isUndoing = true;
    voice.say("Undoing.");
    try {
      const id = await last;
      const answer = await Api.post(`/api/labels/${id}/undo`);
      history.splice(history.indexOf(last), 1);
      if (current) waiting.unshift(current);
      mount(parsed(answer.html));
      voice.clear();
      asks.hidden = false;
      asks.textContent = "Undone. Your former label is marked: choose again.";
      voice.say(asks.textContent);
      figures.refresh();
    } catch (error) {
      if (!error.isPassing && history.includes(last)) history.splice(history.indexOf(last), 1);
      voice.warn(`It was not undone: ${error.message}`);
    } finally {
      isUndoing = false;
    }
  }

  // ---- the questions of a round ----

  function askNext() {
    const [question, ...more] = unanswered();
    if (!question) {
      const { choice, isStrong } = pending;
      pending = null;
      choose(choice, { isStrong });
      return;
    }
    for (const one of current.querySelectorAll(".criterion")) one.classList.toggle("is-asked", one === question);
    question.scrollIntoView({ block: "center", behavior: "instant" });
    asks.hidden = false;
    const num = current.querySelectorAll(".criterion").length;
    const { a, tie, b } = keys.enabled ? keys.keys : {};
    const hint = a && tie && b ? ` Keys: ${a} left, ${tie} same, ${b} right.` : "";
    asks.textContent = `Question ${num - more.length} of ${num}: ${question.querySelector("legend").textContent}${hint}`;
    voice.say(asks.textContent);
  }

  function answer(value) {
    const [question] = unanswered();
    question.querySelector(`input[value="${value}"]`).checked = true;
    askNext();
  }

  function leaveQuestions() {
    if (pending) press(null);
    pending = null;
    asks.hidden = true;
    for (const one of stage.querySelectorAll(".is-asked")) one.classList.remove("is-asked");
  }

  // ---- views, guidelines, dialogs ----

  function pressTools(view) {
    for (const [action, name] of [["diff", "difference"], ["raw", "raw"]]) {
      desk.querySelector(`.tools [data-action="${action}"]`).setAttribute("aria-pressed", String(view === name));
    }
  }

  async function toggleView(view) {
    if (!current) return;
    const pair = current;
    const wanted = pair.dataset.shows === view ? "rendered" : view;
    try {
      await Views.show(pair, wanted);
      if (pair !== current) return;
      pressTools(wanted);
      const words = { rendered: "Rendered.", difference: "Differences are marked.", raw: "Source text." };
      voice.say(words[wanted]);
    } catch (error) {
      voice.warn(error.message);
    }
  }

  async function showGuidelines(isWanted, { focus = true } = {}) {
    desk.querySelector(".tools [data-action=guidelines]").setAttribute("aria-expanded", String(isWanted));
    panel.hidden = !isWanted;
    desk.classList.toggle("has-guidelines", isWanted);
    if (!isWanted) return;
    const box = panel.querySelector("[data-guidelines]");
    if (current && box.dataset.guidelines !== current.dataset.guidelines) {
      const { guidelines } = current.dataset;
      try {
        const { html } = await Api.get(path(current, "guidelines"));
        box.innerHTML = html || "<p>This round has no guidelines of its own.</p>"; // sanitised on the server
        box.dataset.guidelines = guidelines;
      } catch (error) {
        voice.warn(error.message);
      }
    }
    Views.focusable(panel);
    if (focus) panel.querySelector("h2").focus({ preventScroll: true });
  }

  function openSkip() {
    if (!current) return;
    skipDialog.querySelector("form").reset();
    readSkip();
    skipDialog.showModal();
  }

  function skipReason() {
    const radio = skipDialog.querySelector("input[type=radio]:checked");
    return radio && (radio.value || document.getElementById("other-reason").value.trim());
  }

  function readSkip() {
    const other = document.getElementById("other-reason");
    const radio = skipDialog.querySelector("input[type=radio]:checked");
    const wasDisabled = other.disabled;
    other.disabled = !radio || radio.value !== "";
    if (wasDisabled && !other.disabled) other.focus();
    skipDialog.querySelector("button[value=skip]").disabled = !skipReason();
  }

  function showUnsent() {
    const box = document.getElementById("unsent");
    const num = outbox.size;
    box.hidden = num === 0 || !box.dataset.why;
    box.textContent = `${num} label${num === 1 ? "" : "s"} not sent yet: ${box.dataset.why}`;
  }

  // ---- keys and buttons ----

  function act(action, { isStrong = false, startedAt } = {}) {
    const choices = { a: "left", b: "right", tie: "tie", both_bad: "both_bad" };
    if (pending && action in choices) {
      if (action !== "both_bad") answer(choices[action]);
    } else if (action in choices) choose(choices[action], { isStrong, startedAt });
    else if (action === "skip") openSkip();
    else if (action === "undo") undo();
    else if (action === "diff") toggleView("difference");
    else if (action === "raw") toggleView("raw");
    else if (action === "guidelines") showGuidelines(panel.hidden);
    else if (action === "help") helpDialog.showModal();
  }

  document.addEventListener("keydown", (event) => {
    const startedAt = performance.now();
    activeAt = Date.now();
    const dialog = document.querySelector("dialog[open]");
    if (event.key === "Escape" && !dialog) {
      if (Keys.isTyping(event.target)) event.target.blur();
      leaveQuestions();
      return;
    }
    if (Keys.isTyping(event.target)) return;
    if (dialog === skipDialog) {
      const radio = skipDialog.querySelectorAll("input[type=radio]")[Number.parseInt(event.key, 10) - 1];
      if (keys.enabled && radio) {
        event.preventDefault();
        radio.focus();
        radio.click(); // which moves on to the field where the reason is another one
      }
      return;
    }
    if (dialog) return;
    const action = Keys.actionOf(event, keys);
    if (!action) return;
    event.preventDefault();
    if (event.repeat) return;
    act(action, { isStrong: event.shiftKey && /^[\p{L}\p{N}]$/u.test(keys.keys[action]), startedAt });
  });

  desk.addEventListener("click", (event) => {
    activeAt = Date.now();
    const button = event.target.closest("[data-action], [data-close]");
    if (!button) return;
    if (button.matches("[data-close]")) button.closest("dialog").close();
    else if (button.dataset.choice && button.dataset.choice !== "skip") choose(button.dataset.choice);
    else act(button.dataset.action);
  });
  stage.addEventListener("change", (event) => {
    if (pending && event.target.closest(".criterion")) askNext();
  });
  verdict.addEventListener("submit", (event) => event.preventDefault());
  skipDialog.addEventListener("input", readSkip);
  skipDialog.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("input") && skipReason()) {
      event.preventDefault();
      skipDialog.close("skip");
    }
  });
  skipDialog.addEventListener("close", () => {
    const reason = skipReason();
    if (skipDialog.returnValue === "skip" && reason) choose("skip", { reason });
    skipDialog.returnValue = "";
  });

  outbox.addEventListener("late", ({ detail }) => {
    const box = document.getElementById("unsent");
    box.dataset.why = detail.error.status === 401 ? "you are signed out" : detail.error.message;
    showUnsent();
    if (detail.error.status === 401 || detail.error.kind === "csrf") refused(detail.error);
  });
  outbox.addEventListener("lost", ({ detail }) => refused(detail.error, true));
  outbox.addEventListener("caught-up", () => figures.refresh());
  outbox.addEventListener("change", () => {
    delete document.getElementById("unsent").dataset.why;
    showUnsent();
  });

  // ---- while time passes ----

  for (const name of ["pointermove", "scroll", "touchstart"]) {
    addEventListener(name, () => (activeAt = Date.now()), { passive: true });
  }
  const holdS = () => (current ? number(current, "leaseS") : 300);
  let beatAt = Date.now();
  setInterval(() => {
    const now = Date.now();
    // Whoever has left the desk lets go of the pair: somebody else can label it.
    if (!current || now - beatAt < (holdS() / 3) * 1000 || now - activeAt > holdS() * 1000) return;
    beatAt = now;
    revalidate();
  }, 1000);
  let hiddenAt = 0;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) hiddenAt = Date.now();
    else if (Date.now() - hiddenAt > 15_000) revalidate();
  });
  addEventListener("beforeunload", (event) => {
    if (outbox.size) event.preventDefault();
  });
  addEventListener("pagehide", () => {
    // The pair on the desk stays ours, for a reload; those behind it go to whoever is here.
    const headers = { "X-CSRF-Token": document.querySelector('meta[name="csrf"]').content };
    for (const pair of waiting) fetch(path(pair, "release"), { method: "POST", headers, keepalive: true });
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });

  // ---- the beginning ----

  for (const badge of desk.querySelectorAll("[data-key-of]")) {
    const key = keys.enabled && keys.keys[badge.dataset.keyOf];
    badge.hidden = !key;
    badge.textContent = key ? key.toUpperCase() : "";
    const button = badge.closest("button");
    if (key && button) button.setAttribute("aria-keyshortcuts", key.toUpperCase());
  }
  for (const badge of skipDialog.querySelectorAll("[data-key]")) badge.hidden = !keys.enabled;
  helpDialog.querySelector("[data-keys-off]").hidden = keys.enabled;
  helpDialog.querySelector(".keys").hidden = !keys.enabled;
  const first = stage.firstElementChild;
  if (first) {
    mount(first, { focus: false });
    fill();
  } else isStopped = true;
}
