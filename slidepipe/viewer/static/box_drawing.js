// Drawing the box of a missed fossil, with the mouse, a finger or the keyboard.

import { byId, showStatus } from "./page.js";

const STEP_PX = 8; // of an arrow key, in screen pixels
const MIN_BOX_PX = 4; // as the server accepts, in level-0 pixels

// Sends the event "toggle" when drawing starts or stops.
export class BoxDrawing extends EventTarget {
  active = false;
  box = null; // the box so far, [x0, y0, x1, y1] in level-0 pixels of the whole slide; its corners may be in any order
  #start = null; // where a drag started
  #root;
  #slide;
  #actions;

  // root: the viewer's element. canvas: receives the pointer while drawing is active. slide: the answer of /api/slide.
  // actions: toSlide(point) and scale() of the view, redraw(), and finished(box) for a complete box.
  constructor(root, canvas, slide, actions) {
    super();
    this.#root = root;
    this.#slide = slide;
    this.#actions = actions;
    const point = (event) => actions.toSlide({ x: event.offsetX, y: event.offsetY });
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.active || event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.#start = point(event);
      this.box = [this.#start.x, this.#start.y, this.#start.x, this.#start.y];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.#start) return;
      const to = point(event);
      this.box = [this.#start.x, this.#start.y, to.x, to.y];
      actions.redraw();
    });
    canvas.addEventListener("pointerup", () => {
      if (!this.#start) return;
      this.#start = null;
      this.#finish();
    });
  }

  toggle() {
    if (this.active) this.stop();
    else this.#begin();
  }

  stop() {
    this.box = null;
    this.#setActive(false);
    showStatus("");
    this.#actions.redraw();
  }

  // Move or resize the box, accept it or cancel. Returns whether the key does one of these.
  handleKey(event) {
    if (event.key === "Enter") this.#finish();
    else if (event.key === "Escape") this.stop();
    else if (event.key.startsWith("Arrow")) this.#nudge(event.key, event.shiftKey);
    else return false;
    return true;
  }

  #begin() {
    if (this.#slide.missing) return;
    this.#setActive(true);
    const [width, height] = [this.#root.clientWidth, this.#root.clientHeight];
    const centre = this.#actions.toSlide({ x: width / 2, y: height / 2 });
    const half = Math.min(width, height) / 10 / this.#actions.scale();
    this.box = [centre.x - half, centre.y - half, centre.x + half, centre.y + half];
    showStatus("Drag a box around the fossil. Or use the keyboard: arrows move the box, Shift+arrows resize it, Enter accepts it, Escape cancels.");
    this.#root.focus();
    this.#actions.redraw();
  }

  #setActive(active) {
    this.active = active;
    this.#root.classList.toggle("drawing", active);
    byId("draw").setAttribute("aria-pressed", String(active));
    this.dispatchEvent(new Event("toggle"));
  }

  #finish() {
    if (!this.box) return;
    const [left, top, right, bottom] = this.#slide.bounds;
    const [x0, y0, x1, y1] = this.box.map(Math.round);
    const box = [
      Math.max(left, Math.min(x0, x1)), Math.max(top, Math.min(y0, y1)),
      Math.min(right, Math.max(x0, x1)), Math.min(bottom, Math.max(y0, y1)),
    ];
    if (box[2] - box[0] < MIN_BOX_PX || box[3] - box[1] < MIN_BOX_PX) {
      showStatus("The box is too small or lies outside the scan. Draw it again.");
      return;
    }
    this.#actions.finished(box);
  }

  #nudge(arrow, resize) {
    const by = STEP_PX / this.#actions.scale();
    const dx = { ArrowLeft: -by, ArrowRight: by }[arrow] || 0;
    const dy = { ArrowUp: -by, ArrowDown: by }[arrow] || 0;
    const [x0, y0, x1, y1] = this.box;
    this.box = resize
      ? [x0, y0, Math.max(x0 + MIN_BOX_PX, x1 + dx), Math.max(y0 + MIN_BOX_PX, y1 + dy)]
      : [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
    this.#actions.redraw();
  }
}
