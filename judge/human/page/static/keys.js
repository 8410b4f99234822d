"use strict";
// Single keys: the page's own, unless this browser has others, or has them switched off (WCAG 2.2, 2.1.4).
const Keys = (() => {
  const STORE = "rondo.keys";

  function stored() {
    try {
      const found = JSON.parse(localStorage.getItem(STORE) || "{}");
      return found && typeof found === "object" ? found : {};
    } catch {
      return {};
    }
  }

  function load(defaults) {
    const { enabled = Object.keys(defaults).length > 0, map = {} } = stored();
    const keys = {};
    for (const action of ["a", "b", "tie", "both_bad", "skip", "undo", "diff", "raw", "help"]) {
      const key = action in map ? map[action] : defaults[action];
      if (typeof key === "string" && key.length === 1) keys[action] = key;
    }
    return { enabled: Boolean(enabled), keys };
  }

  function save(enabled, map) {
    localStorage.setItem(STORE, JSON.stringify({ enabled, map }));
  }

  function reset() {
    localStorage.removeItem(STORE);
  }

  // A digit counts by its place, so that it works on keyboards where digits need Shift, and with Shift for "clearly".
  function matches(event, key) {
    if (event.key === key || event.key.toLowerCase() === key.toLowerCase()) return true;
    return /^[0-9]$/.test(key) && (event.code === `Digit${key}` || event.code === `Numpad${key}`);
  }

  function actionOf(event, { enabled, keys }) {
    if (!enabled || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return null;
    const exact = Object.keys(keys).find((action) => event.key === keys[action]);
    return exact || Object.keys(keys).find((action) => matches(event, keys[action])) || null;
  }

  // Whether keys belong to what has the focus: text is typed there, or options are chosen.
  function isTyping(element) {
    if (!(element instanceof HTMLElement)) return false;
    if (element.isContentEditable || element.matches("textarea, select")) return true;
    return element.matches("input") && !["radio", "checkbox", "button", "submit"].includes(element.type);
  }

  return { load, save, reset, actionOf, isTyping };
})();
