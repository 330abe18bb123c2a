// The grid page: specimens in a list that draws only what is visible, labelled by keyboard, mouse or finger.

import { refreshCounts, showTally } from "./counts.js";
import { enableDragSelect } from "./drag_select.js";
import { chooseGenus } from "./genus_dialog.js";
import { NOT_A_FOSSIL, WRONG_BOX, isGenus, labels, startUpdates } from "./labels.js";
import { byId, element, objectImage, request, settings, showProblem, showStatus, swatch, taxonName, version } from "./page.js";

const MIN_CELL_WIDTH = 134;
const CELL_HEIGHT = 170;
const EXTRA_ROWS = 5; // drawn beyond each edge, so that their pictures are loaded before they are visible
const CONFIRM_ABOVE = 300; // the page asks before it labels more specimens than this at once

const grid = byId("grid");
const sheet = byId("sheet");
const queryControls = ["name", "sample", "sort", "labelled"];

// The objects shown, as columns of /api/objects. A place is a position in this list.
let objects = { number: [], object_id: [], slide: [], state: [], name: [], p_value: [], distance: [], names: [], states: [] };
let columns = 1;
let cellWidth = MIN_CELL_WIDTH; // the columns share the width of the grid
let current = 0; // the place that the keyboard is on
let anchor = 0; // where a selection with Shift starts
let selected = new Set();
const cells = new Map(); // place -> its element

// -- what is shown ------------------------------------------------------------------------------------------------------

function queryOfControls() {
  const query = new URLSearchParams();
  for (const id of queryControls) query.set(id, byId(id).value);
  return query;
}

function setControlsFromAddress() {
  const query = new URLSearchParams(location.search);
  for (const id of queryControls) {
    const value = query.get(id);
    if (value !== null && [...byId(id).options].some((option) => option.value === value)) byId(id).value = value;
  }
  if (!query.has("name") && settings.genera.length) byId("name").value = settings.genera[0];
}

async function load() {
  const query = queryOfControls();
  history.replaceState(null, "", `/grid?${query}`);
  try {
    if (query.get("sort") === "random") query.set("seed", String(Date.now() % 1e6));
    objects = await request(`/api/objects?${query}`);
  } catch (error) {
    showProblem(error.message);
    return;
  }
  if (encodeURIComponent(objects.version) !== version) location.reload();
  selected = new Set();
  byId("confirm").lastElementChild.textContent = ["unknown", "unusable"].includes(byId("name").value) ? "confirm best guess" : "confirm";
  current = anchor = 0;
  for (const cell of cells.values()) cell.remove();
  cells.clear();
  grid.scrollTop = 0;
  layOut();
  sheet.querySelector(".none")?.remove();
  if (!objects.number.length) {
    const hint = query.get("sort") === "review" ? " Draw some with 'slidepipe review sample RESULTS'." : "";
    sheet.append(element("p", { class: "none", text: `No specimens.${hint}` }));
  }
  showStatus(`${objects.number.length} specimens`);
  refreshCounts(showGenusTally);
}

function layOut() {
  columns = Math.max(1, Math.floor((grid.clientWidth - 4) / MIN_CELL_WIDTH));
  cellWidth = Math.min(1.25 * MIN_CELL_WIDTH, (grid.clientWidth - 4) / columns);
  sheet.style.height = `${Math.max(1, Math.ceil(objects.number.length / columns)) * CELL_HEIGHT}px`;
  for (const [place, cell] of cells) positionCell(cell, place);
  draw();
}

function positionCell(cell, place) {
  cell.style.width = `${cellWidth - 6}px`;
  cell.style.transform = `translate(${(place % columns) * cellWidth + 3}px, ${Math.floor(place / columns) * CELL_HEIGHT + 3}px)`;
}

let drawRequested = false;
function draw() {
  drawRequested = false;
  const first = Math.max(0, Math.floor(grid.scrollTop / CELL_HEIGHT) - EXTRA_ROWS) * columns;
  const lastRow = Math.ceil((grid.scrollTop + grid.clientHeight) / CELL_HEIGHT) + EXTRA_ROWS;
  const end = Math.min(objects.number.length, lastRow * columns);
  for (const [place, cell] of cells) {
    if (place < first || place >= end) {
      cell.remove();
      cells.delete(place);
    }
  }
  for (let place = first; place < end; place += 1) {
    let cell = cells.get(place);
    if (!cell) {
      cell = makeCell(place);
      cells.set(place, cell);
      sheet.append(cell);
    }
    updateCell(cell, place);
  }
  if (objects.number.length) grid.setAttribute("aria-activedescendant", `cell-${current}`);
}

function drawInNextFrame() {
  if (!drawRequested) {
    drawRequested = true;
    requestAnimationFrame(draw);
  }
}

function makeCell(place) {
  const cell = element("div", { class: "cell", role: "option", id: `cell-${place}`, "data-place": place });
  const image = objectImage(`/thumb/${objects.number[place]}.jpg`, { alt: "", draggable: "false", decoding: "async" });
  cell.append(image, element("span", { class: "name" }), element("span", { class: "scores" }), element("span", { class: "label" }));
  positionCell(cell, place);
  return cell;
}

function updateCell(cell, place) {
  const label = labels.get(objects.object_id[place]);
  const labelText = label === null ? "" : isGenus(label) ? taxonName(label) : label || NOT_A_FOSSIL;
  const hideNames = byId("hide-names").checked;
  const [, name, scores, labelLine] = cell.children;
  name.textContent = hideNames ? `${place + 1}` : headAnswer(place);
  name.classList.toggle("taxon", !hideNames && objects.states[objects.state[place]] !== "unusable" && nameAt(place) !== "");
  const p = objects.p_value[place];
  scores.textContent = hideNames || p === null ? "" : `p ${p.toFixed(2)}  d ${objects.distance[place].toPrecision(2)}`;
  labelLine.hidden = label === null;
  labelLine.textContent = label === null ? "" : `${isGenus(label) ? "✓" : "✕"} ${labelText}`;
  labelLine.classList.toggle("taxon", isGenus(label));
  cell.classList.toggle("rejected", label !== null && !isGenus(label));
  cell.classList.toggle("current", place === current);
  cell.setAttribute("aria-selected", String(selected.has(place)));
  const labelled = label === null ? "" : `, labelled ${labelText}`;
  cell.setAttribute("aria-label", `${place + 1} of ${objects.number.length}: ${name.textContent}${labelled}`);
  cell.title = objects.object_id[place];
}

function headAnswer(place) {
  const state = objects.states[objects.state[place]];
  const name = nameAt(place);
  if (state === "accepted") return taxonName(name);
  return state === "unknown" && name ? `? ${taxonName(name)}` : state;
}

// The genus of the object, or the class that it resembles most; "" if there is none.
function nameAt(place) {
  return objects.name[place] < 0 ? "" : objects.names[objects.name[place]];
}

function showGenusTally(counts) {
  showTally(counts, byId("name").value);
}

// -- moving and selecting -----------------------------------------------------------------------------------------------

function goTo(place, extend = false) {
  if (!objects.number.length) return;
  current = Math.max(0, Math.min(objects.number.length - 1, place));
  selected = new Set();
  if (extend) {
    for (let other = Math.min(anchor, current); other <= Math.max(anchor, current); other += 1) selected.add(other);
  } else anchor = current;
  const top = Math.floor(current / columns) * CELL_HEIGHT;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + CELL_HEIGHT > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + CELL_HEIGHT - grid.clientHeight + 4;
  draw();
}

function selectAll() {
  selected = new Set(objects.number.keys());
  draw();
  showStatus(`${selected.size} selected`);
}

// The places that a label applies to: the selected ones, or the current one.
function labelledPlaces() {
  if (!objects.number.length) return [];
  return selected.size ? [...selected].sort((a, b) => a - b) : [current];
}

enableDragSelect(grid, sheet, {
  selected: () => selected,
  placesBetween: (from, to) => {
    const [left, right] = [Math.min(from.x, to.x), Math.max(from.x, to.x)];
    const [top, bottom] = [Math.min(from.y, to.y), Math.max(from.y, to.y)];
    const lastColumn = Math.min(columns - 1, Math.floor(right / cellWidth));
    const places = new Set();
    for (let row = Math.max(0, Math.floor(top / CELL_HEIGHT)); row <= Math.floor(bottom / CELL_HEIGHT); row += 1) {
      for (let column = Math.max(0, Math.floor(left / cellWidth)); column <= lastColumn; column += 1) {
        const place = row * columns + column;
        if (place < objects.number.length) places.add(place);
      }
    }
    return places;
  },
  select: (places) => {
    selected = places;
    drawInNextFrame();
  },
  finish: (places) => {
    selected = places;
    current = anchor = Math.min(...selected, objects.number.length - 1);
    draw();
    showStatus(`${selected.size} selected`);
  },
  click: (place, event, byTouch) => {
    if (event.ctrlKey || event.metaKey || byTouch) {
      if (!selected.delete(place)) selected.add(place);
      current = anchor = place;
      draw();
    } else goTo(place, event.shiftKey);
  },
});

// -- labels -------------------------------------------------------------------------------------------------------------

function mayLabel(places) {
  return places.length <= CONFIRM_ABOVE || window.confirm(`Label ${places.length} specimens at once?`);
}

async function labelSelected(label) {
  const places = labelledPlaces();
  if (!places.length || !mayLabel(places)) return;
  const ids = places.map((place) => objects.object_id[place]);
  const several = places.length > 1;
  moveOn(places);
  const saved = await labels.label(ids, label);
  const text = isGenus(label) ? taxonName(label) : label || NOT_A_FOSSIL;
  if (saved) showStatus(`${several ? `${ids.length} specimens` : ids[0]}: ${text}`);
}

// Label each specimen with the genus that the head gave it or, if it is unknown, with the genus that it resembles most.
async function confirmAnswers() {
  if (byId("hide-names").checked) {
    showStatus("Names are hidden. Choose the genus, or show the names first.");
    return;
  }
  const places = labelledPlaces().filter((place) => nameAt(place) && !nameAt(place).startsWith("_"));
  if (!places.length) {
    showStatus("There is no genus to confirm.");
    return;
  }
  const idsByGenus = new Map();
  for (const place of places) {
    const genus = nameAt(place);
    idsByGenus.set(genus, [...(idsByGenus.get(genus) || []), objects.object_id[place]]);
  }
  if (!mayLabel(places)) return;
  moveOn(places);
  for (const [genus, ids] of idsByGenus) {
    if (!(await labels.label(ids, genus))) return;
  }
  showStatus(`${places.length} confirmed`);
}

// After one specimen, go to the next one; after several, stay at the last of them.
function moveOn(places) {
  const last = places[places.length - 1];
  goTo(places.length > 1 ? last : Math.min(last + 1, objects.number.length - 1));
}

async function undo() {
  const step = await labels.undo();
  if (!step) {
    if (!labels.canUndo) showStatus("Nothing left to undo in this tab.");
    return;
  }
  showStatus(step.leftOut
    ? `Undone, except ${step.leftOut} that another tab has labelled since.`
    : `Undone: ${step.ids.length} label${step.ids.length > 1 ? "s" : ""}`);
  const place = objects.object_id.indexOf(step.ids[0]);
  if (place >= 0) goTo(place);
}

async function labelByName(typed = "") {
  const genus = await chooseGenus(typed);
  grid.focus();
  if (genus) await labelSelected(genus);
}

async function openSlide() {
  if (!objects.number.length) return;
  await labels.settled; // labels that are still waiting would be lost with this page
  location.href = `/slide/${objects.slide[current]}?object=${objects.number[current]}`;
}

// -- keys and buttons ---------------------------------------------------------------------------------------------------

grid.addEventListener("keydown", (event) => {
  const control = event.ctrlKey || event.metaKey;
  const page = Math.max(1, Math.floor(grid.clientHeight / CELL_HEIGHT)) * columns;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page };
  if (event.key in steps && !control) {
    const to = current + steps[event.key];
    const exists = to >= 0 && to < objects.number.length;
    if (Math.abs(steps[event.key]) === 1 || exists || event.key.startsWith("Page")) goTo(to, event.shiftKey);
  } else if (event.key === "Home") goTo(0, event.shiftKey);
  else if (event.key === "End") goTo(objects.number.length - 1, event.shiftKey);
  else if (control && event.key.toLowerCase() === "z") undo();
  else if (control && event.key.toLowerCase() === "a") selectAll();
  else if (control || event.altKey) return;
  else if (event.key === " ") confirmAnswers();
  else if (event.key === "Delete" || event.key === "Backspace" || event.key === "0") labelSelected(event.shiftKey ? WRONG_BOX : "");
  else if (event.key === "Enter") openSlide();
  else if (event.key === "Escape") goTo(current);
  else if (/^[1-9]$/.test(event.key)) {
    const genus = settings.genera[Number(event.key) - 1];
    if (genus) labelSelected(genus);
  } else if (/^\p{L}$/u.test(event.key)) labelByName(event.key);
  else return;
  event.preventDefault();
});

for (const id of queryControls) {
  byId(id).addEventListener("change", () => {
    if (id === "sort" && byId("sort").value === "review") {
      byId("hide-names").checked = true; // a reviewer sees the fossil before its name
      byId("name").value = "all";
      byId("sample").value = "";
    }
    load();
  });
}
byId("hide-names").addEventListener("change", draw);
byId("confirm").addEventListener("click", () => confirmAnswers().then(() => grid.focus()));
byId("not-a-fossil").addEventListener("click", () => labelSelected("").then(() => grid.focus()));
byId("wrong-box").addEventListener("click", () => labelSelected(WRONG_BOX).then(() => grid.focus()));
byId("choose-genus").addEventListener("click", () => labelByName());
byId("undo").addEventListener("click", () => undo().then(() => grid.focus()));
byId("open-slide").addEventListener("click", openSlide);
byId("drag-select").addEventListener("click", () => {
  const on = grid.classList.toggle("drag-select");
  byId("drag-select").setAttribute("aria-pressed", String(on));
});
byId("palette").append(...settings.genera.map((genus, place) => {
  const button = element("button", { title: taxonName(genus) });
  if (place < 9) button.append(element("u", { text: place + 1 }));
  button.append(swatch(genus), taxonName(genus));
  button.addEventListener("click", () => labelSelected(genus).then(() => grid.focus()));
  return button;
}));

grid.addEventListener("dblclick", openSlide);
grid.addEventListener("scroll", drawInNextFrame, { passive: true });
new ResizeObserver(layOut).observe(grid);
labels.addEventListener("change", () => {
  drawInNextFrame();
  byId("undo").disabled = !labels.canUndo;
  refreshCounts(showGenusTally);
});
setControlsFromAddress();
startUpdates();
load().then(() => grid.focus());
