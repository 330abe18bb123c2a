// The slide page: the scan in a deep-zoom viewer, its objects as boxes over it, and the chosen object in the panel.

import { BoxDrawing } from "./box_drawing.js";
import { refreshCounts, showTally } from "./counts.js";
import { chooseGenus } from "./genus_dialog.js";
import { NOT_A_FOSSIL, WRONG_BOX, isGenus, labels, startUpdates } from "./labels.js";
import { neighbourList } from "./neighbours.js";
import { area, drawBoxes, inBox, updateScaleBar } from "./overlay.js";
import { byId, element, objectImage, request, settings, showProblem, showStatus, swatch, taxonName, version } from "./page.js";

const root = byId("viewer");
const canvas = byId("boxes");
let slide = null; // the answer of /api/slide
let objects = []; // detected objects: {id, number, box, state, name}
let chosen = null; // one of the objects, or of the drawn fossils
let viewer = null; // OpenSeadragon
let drawing = null; // BoxDrawing

// -- the scan -----------------------------------------------------------------------------------------------------------

async function load() {
  try {
    slide = await request(`/api/slide/${settings.slide}?v=${version}`);
  } catch (error) {
    showProblem(error.message);
    return;
  }
  objects = slide.number.map((number, place) => ({
    id: slide.object_id[place],
    number,
    box: slide.boxes[place],
    state: slide.states[slide.state[place]],
    name: slide.name[place] < 0 ? "" : slide.names[slide.name[place]],
  }));
  if (slide.missing) {
    byId("missing").hidden = false;
    byId("missing").append(element("p", {
      text: `The scan cannot be shown: ${slide.missing}. Boxes and stored crops are shown without it; no box can be drawn.`,
    }));
    byId("draw").disabled = true;
  }
  drawing = new BoxDrawing(root, canvas, slide, { toSlide, scale: () => viewTransform().scale, redraw, finished: addMissedFossil });
  drawing.addEventListener("toggle", () => viewer.setMouseNavEnabled(!drawing.active));
  showLegend();
  openViewer();
}

function openViewer() {
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
    tileSources: tileSource(),
  });
  viewer.canvas.append(canvas); // above the scan, below the small map
  root.append(byId("scale"));
  viewer.addHandler("open", () => {
    const number = Number(new URLSearchParams(location.search).get("object") ?? "NaN");
    const object = objects.find((other) => other.number === number);
    if (object) choose(object, true);
    root.dataset.ready = "yes";
    redraw();
  });
  for (const name of ["update-viewport", "resize", "animation"]) viewer.addHandler(name, redraw);
  viewer.addHandler("canvas-click", (event) => {
    if (event.quick && !drawing.active) chooseAt(toSlide(event.position));
  });
  viewer.addHandler("canvas-key", (event) => {
    // OpenSeadragon's own keys rotate and mirror the scan but not the boxes, and assume an American keyboard.
    event.preventDefaultAction = true;
  });
  // OpenSeadragon's canvas receives the keys. It gets role and label of the whole viewer, so that Tab stops here once.
  for (const name of ["role", "aria-label"]) {
    viewer.canvas.setAttribute(name, root.getAttribute(name));
    root.removeAttribute(name);
  }
  viewer.navigator?.element.setAttribute("aria-hidden", "true");
  root.tabIndex = -1;
  root.addEventListener("focus", () => viewer.canvas.focus());
  if (document.activeElement === root) viewer.canvas.focus();
}

function tileSource() {
  const [x0, y0, x1, y1] = slide.bounds;
  const [width, height] = [x1 - x0, y1 - y0];
  const top = Math.max(1, Math.ceil(Math.log2(Math.max(width, height, 2)))); // as TilePyramid.top of tiles.py
  return {
    width,
    height,
    tileSize: slide.tile_px,
    tileOverlap: slide.overlap_px,
    minLevel: Math.max(0, top - Math.ceil(Math.log2(Math.max(width, height) / slide.tile_px))),
    maxLevel: top,
    getTileUrl: (level, column, row) => slide.missing
      ? "/static/blank.png"
      : `/tile/${settings.slide}/${level}/${column}_${row}.jpg?v=${version}`,
  };
}

// From level-0 pixels to the screen, as drawBoxes takes it.
function viewTransform() {
  const zero = viewer.viewport.imageToViewerElementCoordinates(new window.OpenSeadragon.Point(0, 0));
  const far = viewer.viewport.imageToViewerElementCoordinates(new window.OpenSeadragon.Point(10000, 0));
  return { x: zero.x, y: zero.y, scale: (far.x - zero.x) / 10000, left: slide.bounds[0], top: slide.bounds[1] };
}

// From a point of the viewer on the screen to level-0 pixels of the whole slide.
function toSlide(point) {
  const { x, y, scale, left, top } = viewTransform();
  return { x: (point.x - x) / scale + left, y: (point.y - y) / scale + top };
}

// -- boxes --------------------------------------------------------------------------------------------------------------

function allObjects() {
  const drawn = labels.missed
    .filter((item) => item.slide_id === slide.slide_id)
    .map((item) => ({ id: item.object_id, number: null, box: item.box, state: "accepted", name: item.genus, drawn: true }));
  return [...objects, ...drawn];
}

// What an object counts as: its label or, without one, its genus or state.
function countedAs(object) {
  const label = labels.get(object.id);
  if (label !== null) return label || NOT_A_FOSSIL;
  return object.state === "accepted" ? object.name : object.state;
}

// Whether it counts as a genus, not as a state or "not a fossil".
function countsAsGenus(object) {
  const label = labels.get(object.id);
  return label === null ? object.state === "accepted" : isGenus(label);
}

// What it counts as, as it is shown: names of genera have a capital first letter.
function displayName(object) {
  return countsAsGenus(object) ? taxonName(countedAs(object)) : countedAs(object);
}

function visibleObjects() {
  const states = [...document.querySelectorAll(".state")].filter((box) => box.checked).map((box) => box.value);
  const wanted = byId("name").value;
  return allObjects().filter((object) => {
    const state = isGenus(labels.get(object.id)) ? "accepted" : object.state;
    return object === chosen || (states.includes(state) && (wanted === "all" || countedAs(object) === wanted));
  });
}

function redraw() {
  if (!viewer || !slide || !viewer.world.getItemCount()) return;
  const view = viewTransform();
  const items = visibleObjects().map((object) => {
    const name = countedAs(object);
    const label = labels.get(object.id);
    return {
      box: object.box,
      text: displayName(object),
      taxon: countsAsGenus(object),
      colour: settings.colours[name] || ([NOT_A_FOSSIL, WRONG_BOX].includes(name) ? "#5b3a12" : "#444444"),
      dashed: label !== null && !isGenus(label),
      chosen: chosen !== null && object.id === chosen.id,
      drawn: object.drawn === true,
    };
  });
  drawBoxes(canvas, items, view, drawing.box);
  updateScaleBar(byId("scale"), view.scale, slide.mpp[0]);
}

// Choose the smallest visible object at a point.
function chooseAt(point) {
  const hits = visibleObjects().filter((object) => inBox(object.box, point));
  hits.sort((a, b) => area(a.box) - area(b.box));
  if (hits.length) choose(hits[0]);
}

async function choose(object, centre = false) {
  chosen = object;
  if (centre) {
    const [x0, y0, x1, y1] = object.box;
    const side = Math.max(x1 - x0, y1 - y0) * 5;
    const [x, y] = [(x0 + x1) / 2 - slide.bounds[0], (y0 + y1) / 2 - slide.bounds[1]];
    viewer.viewport.fitBounds(viewer.viewport.imageToViewportRectangle(x - side / 2, y - side / 2, side, side));
  }
  redraw();
  await showPanel(object);
}

function step(by) {
  const shown = visibleObjects();
  if (!shown.length) return;
  const place = chosen ? shown.findIndex((object) => object.id === chosen.id) : -1;
  choose(shown[(place + by + shown.length) % shown.length], true);
}

// -- the panel ----------------------------------------------------------------------------------------------------------

async function showPanel(object) {
  let details = null;
  if (object.number !== null) {
    try {
      details = await request(`/api/object/${object.number}?v=${version}`);
    } catch (error) {
      showProblem(error.message);
      return;
    }
    if (chosen?.id !== object.id) return; // another object has been chosen meanwhile
  }
  const parts = [element("h2", { text: object.id })];
  if (object.number !== null) parts.push(objectImage(`/crop/${object.number}.jpg`, { class: "crop", alt: `crop of ${object.id}` }));
  parts.push(propertyList(object, details), actionButtons(object));
  if (details) parts.push(element("h3", { text: "Nearest in the reference set" }), neighbourList(object.number, details.nearest));
  const panel = byId("panel");
  const focusedId = panel.contains(document.activeElement) ? document.activeElement.id : "";
  panel.replaceChildren(...parts, byId("legend"));
  if (focusedId) (byId(focusedId) || root).focus(); // the buttons are new elements
}

function propertyList(object, details) {
  const rows = [["state", object.drawn ? "drawn by hand" : object.state]];
  if (details) {
    if (details.reason) rows.push(["reason", details.reason]);
    const name = details.genus || details.candidate;
    rows.push([details.genus ? "genus" : "best guess", name ? element("i", { text: taxonName(name) }) : "none"]);
    if (details.p_value !== null) rows.push(["p-value", details.p_value.toFixed(3)], ["distance", details.distance.toPrecision(3)]);
  }
  const [x0, y0, x1, y1] = object.box;
  const [mppX, mppY] = slide.mpp;
  rows.push(["size", `${((x1 - x0) * mppX).toFixed(1)} × ${((y1 - y0) * mppY).toFixed(1)} µm`]);
  rows.push(["position", `x ${x0}–${x1}, y ${y0}–${y1} px`]);
  const label = labels.get(object.id);
  rows.push(["label", label === null ? "none" : isGenus(label) ? element("i", { text: taxonName(label) }) : label || NOT_A_FOSSIL]);
  const list = element("dl");
  for (const [name, value] of rows) list.append(element("dt", { text: name }), element("dd", {}, value));
  return list;
}

function actionButtons(object) {
  const actions = element("div", { class: "actions" });
  const add = (id, text, keys, act, disabled = false) => {
    const button = element("button", { id, text, disabled, title: keys });
    button.addEventListener("click", act);
    actions.append(button);
  };
  const guess = guessOf(object);
  const confirmText = object.state === "accepted" ? "confirm" : `confirm ${guess ? taxonName(guess) : "best guess"}`;
  if (!object.drawn) add("confirm", confirmText, "Space", () => labelChosen(guess), !guess);
  add("choose-genus", "choose genus …", "Enter", () => labelByName());
  if (!object.drawn) add("not-a-fossil", NOT_A_FOSSIL, "Delete", () => rejectChosen(""));
  add("wrong-box", object.drawn ? "delete this box" : WRONG_BOX, object.drawn ? "Delete" : "Shift+Delete", () => rejectChosen(WRONG_BOX));
  return actions;
}

// The genus that the head gave the object or that the object resembles most; "" if that class is not a genus.
function guessOf(object) {
  return object.name && !object.name.startsWith("_") ? object.name : "";
}

function showLegend() {
  const names = [...new Set(objects.map((object) => (object.state === "accepted" ? object.name : object.state)))].sort();
  const list = element("ul", { class: "legend", "aria-label": "colours" });
  for (const name of names) {
    list.append(element("li", {}, swatch(name), settings.genera.includes(name) ? element("i", { text: taxonName(name) }) : name));
  }
  byId("legend").replaceChildren(element("h3", { text: "Colours" }), list);
}

// -- labels -------------------------------------------------------------------------------------------------------------

async function labelChosen(genus) {
  if (!chosen || genus === "") return;
  const object = chosen;
  if (await labels.label([object.id], genus)) showStatus(`${object.id}: ${taxonName(genus)}`);
}

async function labelByName(typed = "") {
  if (!chosen) return;
  const genus = await chooseGenus(typed);
  root.focus();
  if (genus) await labelChosen(genus);
}

// Label the chosen object as not a fossil ("") or as a wrong box. A box drawn by hand is deleted instead.
async function rejectChosen(label) {
  if (!chosen) return;
  const object = chosen;
  if (await labels.label([object.id], object.drawn ? null : label)) {
    showStatus(`${object.id}: ${object.drawn ? "deleted" : label || NOT_A_FOSSIL}`);
  }
}

async function undo() {
  const undone = await labels.undo();
  if (undone) showStatus(undone.leftOut ? "Not undone: another tab has labelled it since." : `Undone: ${undone.ids[0]}`);
  else showStatus("Nothing left to undo in this tab.");
}

async function addMissedFossil(box) {
  const genus = await chooseGenus("", "Genus of the missed fossil");
  drawing.stop();
  if (!genus) return;
  const id = await labels.draw(slide.slide_id, box, genus);
  if (!id) return;
  showStatus(`${id}: ${taxonName(genus)}`);
  const object = allObjects().find((other) => other.id === id);
  if (object) choose(object);
}

// -- keys and controls ---------------------------------------------------------------------------------------------------

// Handle a key. Returns whether it was handled; other keys are left to the browser.
function handleKey(event) {
  const control = event.ctrlKey || event.metaKey;
  if (control && event.key.toLowerCase() === "z") undo();
  else if (control || event.altKey) return false;
  else if (drawing.active && drawing.handleKey(event)) return true;
  else if (event.key === "n" || event.key === "N") drawing.toggle();
  else if (event.key === ".") step(1);
  else if (event.key === ",") step(-1);
  else if (event.key === "Delete" || event.key === "Backspace") rejectChosen(event.shiftKey ? WRONG_BOX : "");
  else if (event.key === " " && chosen && guessOf(chosen)) labelChosen(guessOf(chosen));
  else if (event.key === "Enter" && chosen) labelByName();
  else return moveScan(event.key);
  return true;
}

// Move or zoom the scan. Returns whether the key does one of these.
function moveScan(key) {
  const { viewport } = viewer;
  const seen = viewport.getBounds();
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] || [0, 0];
  if (dx || dy) viewport.panBy(new window.OpenSeadragon.Point((dx * seen.width) / 6, (dy * seen.height) / 6));
  else if (key === "+" || key === "=") viewport.zoomBy(1.4);
  else if (key === "-" || key === "_") viewport.zoomBy(1 / 1.4);
  else if (key === "0" || key === "Home") viewport.goHome();
  else return false;
  viewport.applyConstraints();
  return true;
}

root.addEventListener("keydown", (event) => {
  if (!handleKey(event)) return;
  event.preventDefault();
  event.stopPropagation();
}, true); // before OpenSeadragon, which receives no keys while a box is drawn
byId("draw").addEventListener("click", () => drawing.toggle());
byId("undo").addEventListener("click", undo);
byId("slide").addEventListener("change", async () => {
  await labels.settled; // labels that are still waiting would be lost with this page
  location.href = `/slide/${byId("slide").value}`;
});
byId("name").addEventListener("change", () => {
  redraw();
  refreshCounts(showGenusTally);
});
for (const box of document.querySelectorAll(".state")) box.addEventListener("change", redraw);
labels.addEventListener("change", () => {
  redraw();
  byId("undo").disabled = !labels.canUndo;
  if (chosen) updateChosen();
  refreshCounts(showGenusTally);
});

function showGenusTally(counts) {
  showTally(counts, byId("name").value);
}

// Show the chosen object as it is now, or that its box has been deleted.
function updateChosen() {
  chosen = allObjects().find((object) => object.id === chosen.id) || null;
  if (chosen) {
    showPanel(chosen);
    return;
  }
  const focused = byId("panel").contains(document.activeElement);
  byId("panel").replaceChildren(element("p", { class: "muted", text: "This box is deleted." }), byId("legend"));
  if (focused) root.focus(); // the button that had the focus is gone
}

load().then(startUpdates);
