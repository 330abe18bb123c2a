// The labels in this tab: sent to the server one request after another, undone from here, and updated with those of other tabs.

import { byId, request, showProblem, showUnsaved } from "./page.js";

export const NOT_A_FOSSIL = "not a fossil";
export const WRONG_BOX = "wrong box"; // as in labels.csv

const POLL_MS = 2000;
const MAX_UNDO_STEPS = 200;

// Keys of the browser's storage. They do not change, so that a reviewer's name and undo steps outlive an upgrade.
const REVIEWER_KEY = "slidepipe who";
const UNDO_KEY = "slidepipe undo";

// Whether a label is a genus. Null is no label, "" is "not a fossil".
export function isGenus(label) {
  return label !== null && label !== "" && label !== WRONG_BOX;
}

const reviewer = byId("reviewer");
reviewer.value = localStorage.getItem(REVIEWER_KEY) || "";
reviewer.addEventListener("change", () => localStorage.setItem(REVIEWER_KEY, reviewer.value.trim()));

// Sends the event "change" whenever a label or a drawn fossil changes.
class Labels extends EventTarget {
  labels = new Map(); // object id -> genus, "wrong box", or "" for not a fossil
  missed = []; // the drawn fossils: {object_id, slide_id, box, genus}
  #epoch = "";
  #sequence = -1;
  #pending = Promise.resolve();
  #writing = 0;
  #undoSteps = JSON.parse(sessionStorage.getItem(UNDO_KEY) || "[]");

  get(id) {
    return this.labels.has(id) ? this.labels.get(id) : null;
  }

  get canUndo() {
    return this.#undoSteps.length > 0;
  }

  // Resolves when all requests so far have been answered.
  get settled() {
    return this.#pending;
  }

  // Whether labels are still being written. The browser then asks before it leaves the page.
  get busy() {
    return this.#writing > 0;
  }

  async #write(path, body) {
    this.#writing += 1;
    try {
      return await this.#queue(() => request(path, { ...body, reviewer: reviewer.value.trim() }));
    } finally {
      this.#writing -= 1;
    }
  }

  // Every request waits for the one before it.
  #queue(act) {
    const done = this.#pending.then(act);
    this.#pending = done.catch(() => {});
    return done;
  }

  // Get the changes since the last call, including those of other tabs.
  update() {
    return this.#queue(async () => {
      const answer = await request(`/api/labels?epoch=${this.#epoch}&since=${this.#sequence < 0 ? "" : this.#sequence}`);
      if (answer.complete) this.labels = new Map();
      for (const [id, label] of Object.entries(answer.labels)) this.#set(id, label);
      this.missed = answer.missed;
      const changed = answer.epoch !== this.#epoch || answer.sequence !== this.#sequence;
      this.#epoch = answer.epoch;
      this.#sequence = answer.sequence;
      showProblem("");
      if (changed) this.dispatchEvent(new Event("change"));
    });
  }

  // Label objects. The labels are shown at once, and taken back if the server does not save them. Returns whether it saved them.
  async label(ids, label) {
    const before = ids.map((id) => this.get(id));
    this.#show(ids, ids.map(() => label));
    try {
      await this.#write("/api/labels", { labels: ids.map((object_id) => ({ object_id, label })) });
    } catch (error) {
      this.#show(ids, before);
      showUnsaved(`Not saved: ${ids.length > 1 ? `${ids.length} labels` : ids[0]}. ${error.message}`);
      return false;
    }
    this.#remember({ ids, before, after: label });
    await this.#updateAfterWrite();
    return true;
  }

  // Add a fossil that the detector missed. Returns its id, or null if the server did not save it.
  async draw(slide_id, box, genus) {
    try {
      const answer = await this.#write("/api/missed", { slide_id, box, genus });
      this.#remember({ ids: [answer.object_id], before: [null], after: genus });
      await this.#updateAfterWrite();
      return answer.object_id;
    } catch (error) {
      showUnsaved(`Not saved: the box that you drew. ${error.message}`);
      return null;
    }
  }

  // Undo the last step of this tab. Labels that another tab has changed since stay as they are; leftOut is their number.
  async undo() {
    const step = this.#undoSteps.pop();
    if (!step) return null;
    try {
      const answer = await this.#write("/api/labels", {
        labels: step.ids.map((object_id, place) => ({ object_id, label: step.before[place] })),
        expected: step.ids.map(() => step.after),
      });
      sessionStorage.setItem(UNDO_KEY, JSON.stringify(this.#undoSteps));
      await this.#updateAfterWrite();
      return { ids: step.ids, leftOut: answer.left_out.length };
    } catch (error) {
      this.#undoSteps.push(step);
      showUnsaved(`Not undone. ${error.message}`);
      return null;
    }
  }

  #remember(step) {
    this.#undoSteps.push(step);
    while (this.#undoSteps.length > MAX_UNDO_STEPS) this.#undoSteps.shift();
    try {
      sessionStorage.setItem(UNDO_KEY, JSON.stringify(this.#undoSteps));
    } catch {
      sessionStorage.removeItem(UNDO_KEY); // too large for the storage: undo still works until the page is left
    }
  }

  async #updateAfterWrite() {
    try {
      await this.update();
    } catch (error) {
      showProblem(error.message);
    }
  }

  #show(ids, labels) {
    ids.forEach((id, place) => this.#set(id, labels[place]));
    this.dispatchEvent(new Event("change"));
  }

  #set(id, label) {
    if (label === null) this.labels.delete(id);
    else this.labels.set(id, label);
  }
}

export const labels = new Labels();
window.addEventListener("beforeunload", (event) => {
  if (labels.busy) event.preventDefault();
});

// Get the labels now, and then every two seconds while the page is visible.
export function startUpdates() {
  const update = () => labels.update().catch((error) => showProblem(error.message));
  setInterval(() => {
    if (!document.hidden) update();
  }, POLL_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) update();
  });
  return update();
}
