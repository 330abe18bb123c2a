// A dialog to choose a genus by typing some of its letters.

import { element, settings, taxonName } from "./page.js";

// The genera that contain a text; those that start with it come first.
export function matchingGenera(text, genera) {
  const wanted = text.trim().toLowerCase();
  const starting = genera.filter((name) => name.toLowerCase().startsWith(wanted));
  const containing = genera.filter((name) => !starting.includes(name) && name.toLowerCase().includes(wanted));
  return [...starting, ...containing];
}

// Show the dialog. Resolves to a genus, or to null if none was chosen.
export function chooseGenus(typed = "", title = "Genus") {
  return new Promise((resolve) => {
    const input = element("input", {
      id: "choice", type: "text", maxlength: 120, autocomplete: "off", spellcheck: "false", role: "combobox",
      "aria-expanded": "true", "aria-controls": "choices", "aria-autocomplete": "list", "aria-label": title,
    });
    const list = element("ul", { id: "choices", role: "listbox", "aria-label": "genera" });
    const help = element("p", { text: `${title}: type some letters and choose with the arrow keys. Enter confirms, Escape cancels.` });
    const dialog = element("dialog", { "aria-label": title }, help, input, list);
    let shown = [];
    let current = 0;
    let chosen = null;
    const update = () => {
      shown = matchingGenera(input.value, settings.genera);
      const typedName = input.value.trim();
      const known = shown.some((name) => name.toLowerCase() === typedName.toLowerCase());
      if (typedName && !known && /^[\p{L}\p{N}]/u.test(typedName)) shown.push(typedName);
      current = Math.min(current, Math.max(0, shown.length - 1));
      list.replaceChildren(...shown.map((name, place) => {
        const isNew = !settings.genera.includes(name);
        const item = element("li", {
          role: "option", id: `choice-${place}`, "aria-selected": String(place === current), class: isNew ? "new" : false,
          text: isNew ? `${name} (not in the reference set)` : taxonName(name),
        });
        item.addEventListener("pointerup", () => choose(place));
        return item;
      }));
      input.setAttribute("aria-activedescendant", shown.length ? `choice-${current}` : "");
      list.children[current]?.scrollIntoView({ block: "nearest" });
    };
    const choose = (place) => {
      chosen = shown[place] ?? null;
      dialog.close();
    };
    input.addEventListener("input", () => {
      current = 0;
      update();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        current = (current + (event.key === "ArrowDown" ? 1 : -1) + shown.length) % Math.max(1, shown.length);
        update();
        event.preventDefault();
      } else if (event.key === "Enter") {
        event.preventDefault();
        choose(current);
      }
      event.stopPropagation();
    });
    const focused = document.activeElement;
    dialog.addEventListener("close", () => {
      dialog.remove();
      focused?.focus?.();
      resolve(chosen);
    });
    document.body.append(dialog);
    dialog.showModal();
    input.value = typed;
    input.focus();
    update();
  });
}
