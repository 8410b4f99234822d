// The theme button: system, light, dark. The choice is a cookie, so that the server's first byte has the right colours.
// Times in <time> elements are shown in the reader's own zone.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.querySelector("[data-theme-toggle]");
  const names = { "": "System", light: "Light", dark: "Dark" };
  const order = ["", "light", "dark"];
  const show = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    const meta = document.querySelector("meta[name=color-scheme]");
    if (meta) meta.content = theme || "light dark";
    if (!button) return;
    button.textContent = `◐ ${names[theme]}`;
    button.setAttribute("aria-label", `Colours: ${names[theme]}. Press to change.`);
  };
  show(root.dataset.theme || "");
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const theme = order[(order.indexOf(root.dataset.theme || "") + 1) % order.length];
      const secure = location.protocol === "https:" ? "; Secure" : "";
      document.cookie = `rondo-theme=${theme}; Path=/; SameSite=Lax; Max-Age=${theme ? 31536000 : 0}${secure}`;
      show(theme);
    });
  }
  const shown = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = time.textContent;
    time.textContent = shown.format(at);
  }
})();
