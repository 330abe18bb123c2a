// Labels in this tab: written through to the server one after another, undone from here, and kept abreast of other tabs.

const page = JSON.parse(document.getElementById("page").dataset.page);
export const settings = page;
export const stamp = encodeURIComponent(page.stamp);
export const NOT_A_FOSSIL = "not a fossil";
export const WRONG_BOX = "wrong box"; // as the labels file has it

// Whether a label is a genus: no fossil, and no box at all, are none.
export function isGenus(label) {
  return label !== null && label !== "" && label !== WRONG_BOX;
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export async function ask(path, body) {
  const signal = AbortSignal.timeout(30000);
  const options = body === undefined
    ? { signal }
    : { signal, method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Start 'slidepipe view' again; every label that was acknowledged is kept.");
  }
  const told = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new Error(told.error || `The server answered ${answer.status}.`);
  return told;
}

let wrong = ""; // what is wrong now
let lost = ""; // a label that was not kept; said until somebody has seen it, whatever comes after

export function trouble(message) {
  wrong = message || "";
  tell();
}

function notKept(message) {
  lost = message;
  tell();
}

function tell() {
  const alert = document.getElementById("alert");
  const said = [lost, wrong].filter((text, place, all) => text && !all[place - 1]?.endsWith(text)).join(" ");
  if (alert.dataset.said === said) return; // not read out again every two seconds
  alert.dataset.said = said;
  alert.hidden = !said;
  alert.replaceChildren(said);
  if (!lost) return;
  const seen = element("button", { text: "Seen", id: "seen" });
  seen.addEventListener("click", () => notKept(""));
  alert.append(" ", seen);
}

export function say(message) {
  const said = document.getElementById("said");
  if (said) said.textContent = message;
}

const who = document.getElementById("who");
who.value = localStorage.getItem("slidepipe who") || "";
who.addEventListener("change", () => localStorage.setItem("slidepipe who", who.value.trim()));

const UNDO = "slidepipe undo";

class Labels extends EventTarget {
  labels = new Map(); // object id -> genus, or "" for not a fossil
  missed = []; // {object_id, slide_id, box, genus}
  #epoch = "";
  #sequence = -1;
  #work = Promise.resolve();
  #writing = 0;
  #undo = JSON.parse(sessionStorage.getItem(UNDO) || "[]");

  get(id) {
    return this.labels.has(id) ? this.labels.get(id) : null;
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  // Resolves once all that was said has been answered.
  get settled() {
    return this.#work;
  }

  // Write; a page that is left meanwhile would lose what is still waiting, so the browser asks first.
  async #write(path, body) {
    this.#writing += 1;
    try {
      return await this.#queue(() => ask(path, { ...body, who: who.value.trim() }));
    } finally {
      this.#writing -= 1;
    }
  }

  get busy() {
    return this.#writing > 0;
  }

  // Everything that talks to the server waits for what was said before it.
  #queue(act) {
    const done = this.#work.then(act);
    this.#work = done.catch(() => {});
    return done;
  }

  sync() {
    return this.#queue(async () => {
      const told = await ask(`/api/labels?epoch=${this.#epoch}&since=${this.#sequence < 0 ? "" : this.#sequence}`);
      if (told.whole) this.labels = new Map();
      for (const [id, label] of Object.entries(told.labels)) {
        if (label === null) this.labels.delete(id);
        else this.labels.set(id, label);
      }
      this.missed = told.missed;
      const changed = told.epoch !== this.#epoch || told.sequence !== this.#sequence;
      this.#epoch = told.epoch;
      this.#sequence = told.sequence;
      trouble("");
      if (changed) this.dispatchEvent(new Event("change"));
    });
  }

  // Label objects; shown at once, taken back if the server refuses.
  async label(ids, label) {
    const before = ids.map((id) => this.get(id));
    this.#show(ids, ids.map(() => label));
    try {
      await this.#write("/api/labels", { labels: ids.map((object_id) => ({ object_id, label })) });
    } catch (error) {
      this.#show(ids, before);
      notKept(`Not kept: ${ids.length > 1 ? `${ids.length} labels` : ids[0]}. ${error.message}`);
      return false;
    }
    this.#remember({ ids, before, after: label });
    await this.#settle();
    return true;
  }

  async draw(slide_id, box, genus) {
    try {
      const told = await this.#write("/api/missed", { slide_id, box, genus });
      this.#remember({ ids: [told.object_id], before: [null], after: genus });
      await this.#settle();
      return told.object_id;
    } catch (error) {
      notKept(`Not kept: the box that was drawn. ${error.message}`);
      return null;
    }
  }

  // Take the last step of this tab back. What another tab has changed since stays.
  async undo() {
    const step = this.#undo.pop();
    if (!step) return null;
    try {
      const told = await this.#write("/api/labels", {
        labels: step.ids.map((object_id, place) => ({ object_id, label: step.before[place] })),
        expected: step.ids.map(() => step.after),
      });
      sessionStorage.setItem(UNDO, JSON.stringify(this.#undo));
      await this.#settle();
      return { ids: step.ids, leftOut: told.left_out.length };
    } catch (error) {
      this.#undo.push(step);
      notKept(`Not undone. ${error.message}`);
      return null;
    }
  }

  #remember(step) {
    this.#undo.push(step);
    while (this.#undo.length > 200) this.#undo.shift();
    try {
      sessionStorage.setItem(UNDO, JSON.stringify(this.#undo));
    } catch {
      sessionStorage.removeItem(UNDO); // too large to outlive this page: undo still works in it
    }
  }

  async #settle() {
    try {
      await this.sync();
    } catch (error) {
      trouble(error.message);
    }
  }

  #show(ids, labels) {
    ids.forEach((id, place) => {
      if (labels[place] === null) this.labels.delete(id);
      else this.labels.set(id, labels[place]);
    });
    this.dispatchEvent(new Event("change"));
  }
}

export const labels = new Labels();
window.addEventListener("beforeunload", (event) => {
  if (labels.busy) event.preventDefault();
});

export function start() {
  const look = () => labels.sync().catch((error) => trouble(error.message));
  setInterval(() => {
    if (!document.hidden) look();
  }, 2000);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) look();
  });
  return look();
}

let waiting = null;
export function tellCounts(show) {
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    try {
      show(await ask("/api/counts"));
    } catch (error) {
      trouble(error.message);
    }
  }, 120);
}

export function tally(counts, name) {
  const target = document.getElementById("tally");
  const row = counts.genera.find((other) => other.genus === name);
  target.replaceChildren();
  if (row) {
    target.append(element("i", { text: row.genus }), ": counted ", element("b", { text: row.count }), ", reviewed ",
      element("b", { text: row.reviewed, id: "reviewed" }));
    if (row.corrected !== "") target.append(`, estimate ${row.corrected} (${row.corrected_low} to ${row.corrected_high})`);
    target.append(". ");
  }
  target.append(`${counts.labelled} labelled, ${counts.missed} drawn`);
}
