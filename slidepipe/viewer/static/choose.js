// Choose a genus by typing some of its letters.

import { element, settings } from "./store.js";

export function fitting(text, genera) {
  const wanted = text.trim().toLowerCase();
  const starts = genera.filter((name) => name.toLowerCase().startsWith(wanted));
  const holds = genera.filter((name) => !starts.includes(name) && name.toLowerCase().includes(wanted));
  return [...starts, ...holds];
}

// Resolves to a genus, or null where nothing was chosen.
export function choose(typed = "", title = "Genus") {
  return new Promise((resolve) => {
    const input = element("input", {
      id: "choice", type: "text", maxlength: 120, autocomplete: "off", spellcheck: "false", role: "combobox",
      "aria-expanded": "true", "aria-controls": "choices", "aria-autocomplete": "list", "aria-label": title,
    });
    const list = element("ul", { id: "choices", role: "listbox", "aria-label": "genera" });
    const dialog = element("dialog", { "aria-label": title }, element("p", { text: `${title}: type some letters; arrows choose, Enter takes it, Escape leaves` }),
      input, list);
    let shown = [];
    let at = 0;
    let chosen = null;
    const refill = () => {
      shown = fitting(input.value, settings.genera);
      const typedName = input.value.trim();
      const known = shown.some((name) => name.toLowerCase() === typedName.toLowerCase());
      if (typedName && !known && /^[\p{L}\p{N}]/u.test(typedName)) shown.push(typedName);
      at = Math.min(at, Math.max(0, shown.length - 1));
      list.replaceChildren(...shown.map((name, place) => {
        const fresh = !settings.genera.includes(name);
        const item = element("li", {
          role: "option", id: `choice-${place}`, "aria-selected": String(place === at), class: fresh ? "new" : false,
          text: fresh ? `${name} (a genus that the reference set lacks)` : name,
        });
        item.addEventListener("pointerup", () => take(place));
        return item;
      }));
      input.setAttribute("aria-activedescendant", shown.length ? `choice-${at}` : "");
      list.children[at]?.scrollIntoView({ block: "nearest" });
    };
    const take = (place) => {
      chosen = shown[place] ?? null;
      dialog.close();
    };
    input.addEventListener("input", () => {
      at = 0;
      refill();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        at = (at + (event.key === "ArrowDown" ? 1 : -1) + shown.length) % Math.max(1, shown.length);
        refill();
        event.preventDefault();
      } else if (event.key === "Enter") {
        event.preventDefault();
        take(at);
      }
      event.stopPropagation();
    });
    const back = document.activeElement;
    dialog.addEventListener("close", () => {
      dialog.remove();
      back?.focus?.();
      resolve(chosen);
    });
    document.body.append(dialog);
    dialog.showModal();
    input.value = typed;
    input.focus();
    refill();
  });
}
