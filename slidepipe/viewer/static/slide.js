// The slide page: the scan in a deep-zoom viewer, its objects as boxes over it, one of them in the panel.

import { choose } from "./choose.js";
import { neighbours } from "./near.js";
import { drawBoxes, fitScale, inBox } from "./overlay.js";
import { NOT_A_FOSSIL, WRONG_BOX, ask, element, isGenus, labels, say, settings, stamp, start, tally, tellCounts, trouble } from "./store.js";

const $ = (id) => document.getElementById(id);
const root = $("viewer");
const canvas = $("boxes");
let slide = null;
let objects = []; // {id, n, box, state, name}; drawn ones have n null
let chosen = null;
let viewer = null;
let rubber = null; // the box under way, level-0 pixels
let drawing = false;

async function load() {
  try {
    slide = await ask(`/api/slide/${settings.slide}?v=${stamp}`);
  } catch (error) {
    trouble(error.message);
    return;
  }
  objects = slide.n.map((n, place) => ({
    id: `${slide.slide_id}:${String(slide.row[place]).padStart(5, "0")}`,
    n,
    box: slide.boxes[place],
    state: slide.states[slide.state[place]],
    name: slide.name[place] < 0 ? "" : slide.names[slide.name[place]],
  }));
  if (slide.missing) {
    $("missing").hidden = false;
    $("missing").append(element("p", {
      text: `The scan cannot be shown: ${slide.missing}. The boxes and the stored crops are here all the same; nothing can be drawn.`,
    }));
    $("draw").disabled = true;
  }
  legend();
  open();
}

function open() {
  const [x0, y0, x1, y1] = slide.bounds;
  const [width, height] = [x1 - x0, y1 - y0];
  const top = Math.max(1, Math.ceil(Math.log2(Math.max(width, height, 2))));
  viewer = window.OpenSeadragon({
    element: root,
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: !slide.missing,
    navigatorPosition: "TOP_RIGHT",
    navigatorSizeRatio: 0.14,
    animationTime: 0.4,
    maxZoomPixelRatio: 4,
    visibilityRatio: 0.6,
    imageLoaderLimit: 4,
    maxImageCacheCount: 150,
    timeout: 60000,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    gestureSettingsTouch: { clickToZoom: false },
    tileSources: {
      width,
      height,
      tileSize: slide.tile_px,
      tileOverlap: slide.overlap_px,
      minLevel: Math.max(0, top - Math.ceil(Math.log2(Math.max(width, height) / slide.tile_px))),
      maxLevel: top,
      getTileUrl: (level, column, row) => slide.missing
        ? "/static/blank.png"
        : `/tile/${settings.slide}/${level}/${column}_${row}.jpg?v=${stamp}`,
    },
  });
  viewer.canvas.append(canvas); // above the scan, below the viewer's small map
  root.append($("scale"));
  viewer.addHandler("open", () => {
    const wanted = Number(new URLSearchParams(location.search).get("object") ?? "NaN");
    const object = objects.find((other) => other.n === wanted);
    if (object) show(object, true);
    root.dataset.ready = "yes";
    draw();
  });
  for (const name of ["update-viewport", "resize", "animation"]) viewer.addHandler(name, draw);
  viewer.addHandler("canvas-click", (event) => {
    if (event.quick && !drawing) pick(toSlide(event.position));
  });
  viewer.addHandler("canvas-key", (event) => {
    event.preventDefaultAction = true; // its own keys turn and mirror the scan but not the boxes, and go by the American layout
  });
  // The viewer's own canvas takes the keys: one stop for Tab, with the words of the whole.
  for (const name of ["role", "aria-label"]) {
    viewer.canvas.setAttribute(name, root.getAttribute(name));
    root.removeAttribute(name);
  }
  viewer.navigator?.element.setAttribute("aria-hidden", "true");
  root.tabIndex = -1;
  root.addEventListener("focus", () => viewer.canvas.focus());
  if (document.activeElement === root) viewer.canvas.focus();
}

// -- from the screen to level-0 pixels and back -------------------------------------------------------------------------

function frame() {
  const zero = viewer.viewport.imageToViewerElementCoordinates(new window.OpenSeadragon.Point(0, 0));
  const one = viewer.viewport.imageToViewerElementCoordinates(new window.OpenSeadragon.Point(10000, 0));
  return { x: zero.x, y: zero.y, scale: (one.x - zero.x) / 10000, left: slide.bounds[0], top: slide.bounds[1] };
}

function toSlide(point) {
  const { x, y, scale, left, top } = frame();
  return { x: (point.x - x) / scale + left, y: (point.y - y) / scale + top };
}

// -- boxes --------------------------------------------------------------------------------------------------------------

function all() {
  const drawn = labels.missed
    .filter((item) => item.slide_id === slide.slide_id)
    .map((item) => ({ id: item.object_id, n: null, box: item.box, state: "accepted", name: item.genus, drawn: true }));
  return [...objects, ...drawn];
}

function said(object) {
  const label = labels.get(object.id);
  if (label !== null) return label || NOT_A_FOSSIL;
  return object.state === "accepted" ? object.name : object.state;
}

function visible(object) {
  const states = [...document.querySelectorAll(".state")].filter((box) => box.checked).map((box) => box.value);
  const label = labels.get(object.id);
  const state = isGenus(label) ? "accepted" : object.state;
  const wanted = $("name").value;
  return object === chosen || (states.includes(state) && (wanted === "all" || said(object) === wanted));
}

function draw() {
  if (!viewer || !slide || !viewer.world.getItemCount()) return;
  const place = frame();
  const shown = all().filter(visible).map((object) => {
    const text = said(object);
    return {
      box: object.box,
      text,
      colour: settings.colours[text] || ([NOT_A_FOSSIL, WRONG_BOX].includes(text) ? "#5b3a12" : "#444444"),
      dashed: labels.get(object.id) !== null && !isGenus(labels.get(object.id)),
      chosen: chosen !== null && object.id === chosen.id,
      drawn: object.drawn === true,
    };
  });
  drawBoxes(canvas, shown, place, rubber);
  fitScale($("scale"), place.scale, slide.mpp[0]);
}

function pick(point) {
  const hit = all().filter((object) => visible(object) && inBox(object.box, point));
  hit.sort((a, b) => area(a.box) - area(b.box));
  if (hit.length) show(hit[0]);
}

function area([x0, y0, x1, y1]) {
  return (x1 - x0) * (y1 - y0);
}

async function show(object, centre = false) {
  chosen = object;
  if (centre) {
    const [x0, y0, x1, y1] = object.box;
    const side = Math.max(x1 - x0, y1 - y0) * 5;
    const middle = { x: (x0 + x1) / 2 - slide.bounds[0], y: (y0 + y1) / 2 - slide.bounds[1] };
    const rectangle = viewer.viewport.imageToViewportRectangle(middle.x - side / 2, middle.y - side / 2, side, side);
    viewer.viewport.fitBounds(rectangle);
  }
  draw();
  await panel(object);
}

function step(by) {
  const shown = all().filter(visible);
  if (!shown.length) return;
  const at = chosen ? shown.findIndex((object) => object.id === chosen.id) : -1;
  show(shown[(at + by + shown.length) % shown.length], true);
}

// -- the panel ----------------------------------------------------------------------------------------------------------

async function panel(object) {
  const box = $("panel");
  const rows = [["state", object.drawn ? "drawn by hand" : object.state]];
  let told = null;
  if (object.n !== null) {
    try {
      told = await ask(`/api/object/${object.n}?v=${stamp}`);
    } catch (error) {
      trouble(error.message);
      return;
    }
    if (chosen?.id !== object.id) return; // another was clicked meanwhile
    if (told.reason) rows.push(["reason", told.reason]);
    rows.push([told.genus ? "genus" : "best guess", told.genus || told.candidate || "none"]);
    if (told.p_value !== null) rows.push(["p-value", told.p_value.toFixed(3)], ["distance", told.distance.toPrecision(3)]);
  }
  const [x0, y0, x1, y1] = object.box;
  const [mx, my] = slide.mpp;
  rows.push(["size", `${((x1 - x0) * mx).toFixed(1)} × ${((y1 - y0) * my).toFixed(1)} µm`], ["place", `x ${x0}–${x1}, y ${y0}–${y1} px`]);
  const label = labels.get(object.id);
  rows.push(["label", label === null ? "none" : label || NOT_A_FOSSIL]);
  const list = element("dl");
  for (const [name, value] of rows) list.append(element("dt", { text: name }), element("dd", { text: value }));
  const acts = element("div", { class: "acts" });
  const act = (identity, text, keys, does, off = false) => {
    const button = element("button", { id: identity, text, disabled: off, title: keys });
    button.addEventListener("click", does);
    acts.append(button);
  };
  const guess = object.name && !object.name.startsWith("_") ? object.name : "";
  if (!object.drawn) act("right", object.state === "accepted" ? "right" : `it is ${guess || "…"}`, "Space", () => give(guess), !guess);
  act("choose", "genus …", "Enter", () => name());
  if (!object.drawn) act("nothing", NOT_A_FOSSIL, "Delete", () => remove(""));
  act("wrong", object.drawn ? "delete this box" : WRONG_BOX, object.drawn ? "Delete" : "Shift+Delete", () => remove(WRONG_BOX));
  const parts = [element("h2", { text: object.id })];
  if (object.n !== null) {
    const crop = element("img", { class: "crop", src: `/crop/${object.n}.jpg?v=${stamp}`, alt: `crop of ${object.id}` });
    crop.addEventListener("error", () => crop.replaceWith(element("p", { class: "muted", text: "no picture: these pixels cannot be read" })));
    parts.push(crop);
  }
  parts.push(list, acts);
  if (told) parts.push(element("h3", { text: "Nearest in the reference set" }), neighbours(object.n, told.nearest));
  const held = box.contains(document.activeElement) ? document.activeElement.id : "";
  box.replaceChildren(...parts, $("legend"));
  if (held) ($(held) || root).focus(); // the buttons are new ones
}

function legend() {
  const present = [...new Set(objects.map((object) => (object.state === "accepted" ? object.name : object.state)))].sort();
  const list = element("ul", { class: "legend", "aria-label": "colours" });
  for (const name of present) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = settings.colours[name] || "#444444";
    list.append(element("li", {}, swatch, name));
  }
  $("legend").replaceChildren(element("h3", { text: "Colours" }), list);
}

// -- labels -------------------------------------------------------------------------------------------------------------

async function give(label) {
  if (!chosen || label === "") return;
  const object = chosen;
  if (await labels.label([object.id], label)) say(`${object.id}: ${label}`);
}

async function name(typed = "") {
  if (!chosen) return;
  const genus = await choose(typed);
  root.focus();
  if (genus) await give(genus);
}

// Not a fossil, or a wrong box; one drawn by hand is deleted either way.
async function remove(label) {
  if (!chosen) return;
  const object = chosen;
  if (await labels.label([object.id], object.drawn ? null : label)) say(`${object.id}: ${object.drawn ? "deleted" : label || NOT_A_FOSSIL}`);
}

async function undo() {
  const step = await labels.undo();
  if (step) say(step.leftOut ? "Left as another tab has labelled it since." : `Undone: ${step.ids[0]}`);
  else say("Nothing of this tab is left to undo.");
}

// -- a missed fossil ----------------------------------------------------------------------------------------------------

function setDrawing(on) {
  drawing = on && !slide.missing;
  rubber = null;
  viewer.setMouseNavEnabled(!drawing);
  root.classList.toggle("drawing", drawing);
  $("draw").setAttribute("aria-pressed", String(drawing));
  if (drawing) {
    const centre = toSlide({ x: root.clientWidth / 2, y: root.clientHeight / 2 });
    const half = Math.min(root.clientWidth, root.clientHeight) / 10 / frame().scale;
    rubber = [centre.x - half, centre.y - half, centre.x + half, centre.y + half];
    say("Drag a box around the fossil; or arrows move this one, Shift+arrows size it, Enter takes it, Escape leaves.");
    root.focus();
  } else say("");
  draw();
}

async function finish() {
  if (!rubber) return;
  const [bx0, by0, bx1, by1] = slide.bounds;
  const [x0, y0, x1, y1] = rubber.map(Math.round);
  const box = [Math.max(bx0, Math.min(x0, x1)), Math.max(by0, Math.min(y0, y1)), Math.min(bx1, Math.max(x0, x1)), Math.min(by1, Math.max(y0, y1))];
  if (box[2] - box[0] < 4 || box[3] - box[1] < 4) {
    say("That box is too small, or off the scan.");
    return;
  }
  const genus = await choose("", "Genus of the missed fossil");
  setDrawing(false);
  if (!genus) return;
  const made = await labels.draw(slide.slide_id, box, genus);
  if (made) {
    say(`${made}: ${genus}`);
    const object = all().find((other) => other.id === made);
    if (object) show(object);
  }
}

let from = null;
canvas.addEventListener("pointerdown", (event) => {
  if (!drawing || event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  from = toSlide({ x: event.offsetX, y: event.offsetY });
  rubber = [from.x, from.y, from.x, from.y];
});
canvas.addEventListener("pointermove", (event) => {
  if (!from) return;
  const to = toSlide({ x: event.offsetX, y: event.offsetY });
  rubber = [from.x, from.y, to.x, to.y];
  draw();
});
canvas.addEventListener("pointerup", () => {
  if (!from) return;
  from = null;
  finish();
});

// -- keys; true leaves the key to the browser ----------------------------------------------------------------------------

function key(event) {
  const control = event.ctrlKey || event.metaKey;
  if (control && event.key.toLowerCase() === "z") undo();
  else if (control || event.altKey) return true;
  else if (drawing && event.key === "Enter") finish();
  else if (drawing && event.key === "Escape") setDrawing(false);
  else if (drawing && event.key.startsWith("Arrow")) nudge(event.key, event.shiftKey);
  else if (event.key === "n" || event.key === "N") setDrawing(!drawing);
  else if (event.key === ".") step(1);
  else if (event.key === ",") step(-1);
  else if (event.key === "Delete" || event.key === "Backspace") remove(event.shiftKey ? WRONG_BOX : "");
  else if (event.key === " " && chosen && chosen.name && !chosen.name.startsWith("_")) give(chosen.name);
  else if (event.key === "Enter" && chosen) name();
  else if (!move(event.key)) return true;
  event.preventDefault();
  return false;
}

// Move or zoom the scan; false for a key that does neither.
function move(pressed) {
  const { viewport } = viewer;
  const seen = viewport.getBounds();
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[pressed] || [0, 0];
  if (dx || dy) viewport.panBy(new window.OpenSeadragon.Point((dx * seen.width) / 6, (dy * seen.height) / 6));
  else if (pressed === "+" || pressed === "=") viewport.zoomBy(1.4);
  else if (pressed === "-" || pressed === "_") viewport.zoomBy(1 / 1.4);
  else if (pressed === "0" || pressed === "Home") viewport.goHome();
  else return false;
  viewport.applyConstraints();
  return true;
}

function nudge(arrow, size) {
  const by = 8 / frame().scale;
  const dx = arrow === "ArrowLeft" ? -by : arrow === "ArrowRight" ? by : 0;
  const dy = arrow === "ArrowUp" ? -by : arrow === "ArrowDown" ? by : 0;
  const [x0, y0, x1, y1] = rubber;
  rubber = size ? [x0, y0, Math.max(x0 + 4, x1 + dx), Math.max(y0 + 4, y1 + dy)] : [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
  draw();
}

root.addEventListener("keydown", (event) => {
  if (!key(event)) event.stopPropagation();
}, true); // before the viewer: while a box is drawn it listens to nothing
$("draw").addEventListener("click", () => setDrawing(!drawing));
$("undo").addEventListener("click", undo);
$("slide").addEventListener("change", async () => {
  await labels.settled;
  location.href = `/slide/${$("slide").value}`;
});
$("name").addEventListener("change", () => {
  draw();
  tellCounts((counts) => tally(counts, $("name").value));
});
for (const box of document.querySelectorAll(".state")) box.addEventListener("change", draw);
labels.addEventListener("change", () => {
  draw();
  $("undo").disabled = !labels.canUndo;
  if (chosen) {
    const still = all().find((object) => object.id === chosen.id);
    if (still) {
      chosen = still;
      panel(still);
    } else {
      chosen = null;
      const held = $("panel").contains(document.activeElement);
      $("panel").replaceChildren(element("p", { class: "muted", text: "That box is deleted." }), $("legend"));
      if (held) root.focus(); // its button is gone
    }
  }
  tellCounts((counts) => tally(counts, $("name").value));
});
load().then(start);
