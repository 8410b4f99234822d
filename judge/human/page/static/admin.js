"use strict";
// Copies a link that is shown once. Everything else on the administration's pages works without a script.
for (const button of document.querySelectorAll("[data-copy]")) {
  const source = button.parentElement.querySelector("[data-copy-source]");
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    source.select();
    await navigator.clipboard.writeText(source.value);
    button.textContent = "Copied";
  });
}
// A box that scrolls is reached by keyboard.
for (const box of document.querySelectorAll(".prose pre, .prose .scrolls, .formula-display")) {
  if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
}
// One open menu at a time, closed by Escape or a click elsewhere.
const menus = [...document.querySelectorAll("details.menu")];
document.addEventListener("click", (event) => {
  for (const menu of menus) if (menu.open && !menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of menus) if (menu.open) { menu.open = false; menu.querySelector("summary").focus(); }
});
