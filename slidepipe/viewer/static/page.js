// What every page uses: its settings, requests to the server, the alert and the status line, and the making of elements.

export const settings = JSON.parse(document.getElementById("page").dataset.settings);
export const version = encodeURIComponent(settings.version); // of the tables; part of the address of each picture

export function byId(id) {
  return document.getElementById(id);
}

// Make an element. Data only ever becomes text or an attribute, never HTML.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// The name of a taxon as it is shown: with a capital first letter.
export function taxonName(name) {
  return name.slice(0, 1).toUpperCase() + name.slice(1);
}

// A small square in the colour of a genus or state.
export function swatch(name) {
  const made = element("span", { class: "swatch", "aria-hidden": "true" });
  made.style.background = settings.colours[name] || "#444444";
  return made;
}

// The picture of an object; a line of text replaces it if it cannot be loaded.
export function objectImage(address, attributes) {
  const image = element("img", { src: `${address}?v=${version}`, ...attributes });
  image.addEventListener("error", () => image.replaceWith(element("p", { class: "muted", text: "no picture: its pixels cannot be read" })));
  return image;
}

// Send a request, and return the JSON of the answer. With a body it is a POST. Throws an Error with a message for the user.
export async function request(path, body) {
  const signal = AbortSignal.timeout(30000);
  const options = body === undefined
    ? { signal }
    : { signal, method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Start 'slidepipe view' again; every label that was confirmed is saved.");
  }
  const content = await response.json().catch(() => ({ error: `The server answered with status ${response.status}.` }));
  if (!response.ok) throw new Error(content.error || `The server answered with status ${response.status}.`);
  return content;
}

// -- messages -----------------------------------------------------------------------------------------------------------

let problem = ""; // what is wrong now; the next successful request clears it
let unsaved = ""; // which label was not saved; shown until the user dismisses it

export function showProblem(message) {
  problem = message || "";
  updateAlert();
}

export function showUnsaved(message) {
  unsaved = message;
  updateAlert();
}

function updateAlert() {
  const alert = byId("alert");
  const text = [unsaved, problem].filter((part, place, parts) => part && !parts[place - 1]?.endsWith(part)).join(" ");
  if (alert.dataset.text === text) return; // so that a screen reader does not read it again every two seconds
  alert.dataset.text = text;
  alert.hidden = !text;
  alert.replaceChildren(text);
  if (!unsaved) return;
  const dismiss = element("button", { text: "Dismiss", id: "dismiss" });
  dismiss.addEventListener("click", () => showUnsaved(""));
  alert.append(" ", dismiss);
}

export function showStatus(message) {
  const status = byId("status");
  if (status) status.textContent = message;
}
