"use strict";
{
  const form = document.getElementById("keys");
  const defaults = JSON.parse(form.dataset.keys);
  const said = document.getElementById("key-said");
  const error = document.getElementById("key-error");
  const inputs = [...form.querySelectorAll(".key-row input")];

  function show() {
    const { enabled, keys } = Keys.load(defaults);
    form.elements.enabled.checked = enabled;
    for (const input of inputs) input.value = keys[input.name] || "";
  }

  function wrong() {
    const seen = new Map();
    for (const input of inputs) {
      const key = input.value.trim().toLowerCase();
      if (key && seen.has(key)) return [input, seen.get(key)];
      if (key) seen.set(key, input);
    }
    return [];
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const twice = wrong();
    for (const input of inputs) input.setAttribute("aria-invalid", String(twice.includes(input)));
    error.hidden = twice.length === 0;
    said.textContent = "";
    if (twice.length) {
      error.textContent = `The key ${twice[0].value} stands for two actions; give each one its own.`;
      twice[0].focus();
      return;
    }
    Keys.save(form.elements.enabled.checked, Object.fromEntries(inputs.map((one) => [one.name, one.value.trim()])));
    said.textContent = "Saved.";
  });
  form.querySelector("[data-reset]").addEventListener("click", () => {
    Keys.reset();
    show();
    error.hidden = true;
    said.textContent = "These are the page's own keys again.";
  });
  show();
  form.hidden = false;
}
