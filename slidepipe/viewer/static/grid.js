// The grid page: specimens in a list that draws only what is seen, labelled by keyboard, mouse or finger.

import { choose } from "./choose.js";
import { NOT_A_FOSSIL, WRONG_BOX, ask, element, isGenus, labels, say, settings, stamp, start, tally, tellCounts, trouble } from "./store.js";

const LEAST_W = 134;
const CELL_H = 170;
const MANY = 300; // more at once than this are asked about first

const $ = (id) => document.getElementById(id);
const grid = $("grid");
const sheet = $("sheet");
const controls = ["name", "sample", "sort", "labelled"];

let told = { n: [], slide: [], row: [], state: [], name: [], p_value: [], distance: [], names: [], slides: [] };
let columns = 1;
let cellW = LEAST_W; // columns share the width there is
let here = 0; // the specimen that the keyboard is on
let anchor = 0;
let selected = new Set();
const cells = new Map(); // place in the list -> its element

// -- what is shown ------------------------------------------------------------------------------------------------------

function query() {
  const values = new URLSearchParams();
  for (const id of controls) values.set(id, $(id).value);
  return values;
}

function fromAddress() {
  const said = new URLSearchParams(location.search);
  for (const id of controls) {
    const value = said.get(id);
    if (value !== null && [...$(id).options].some((option) => option.value === value)) $(id).value = value;
  }
  if (!said.has("name") && settings.genera.length) $("name").value = settings.genera[0];
}

async function load(at = 0) {
  const wanted = query();
  history.replaceState(null, "", `/grid?${wanted}`);
  try {
    if (wanted.get("sort") === "random") wanted.set("seed", String(Date.now() % 1e6));
    told = await ask(`/api/objects?${wanted}`);
  } catch (error) {
    trouble(error.message);
    return;
  }
  if (encodeURIComponent(told.stamp) !== stamp) location.reload();
  selected = new Set();
  $("right").lastChild.textContent = ["unknown", "unusable"].includes($("name").value) ? " it is the guess" : " right";
  here = anchor = Math.min(at, Math.max(0, told.n.length - 1));
  for (const cell of cells.values()) cell.remove();
  cells.clear();
  grid.scrollTop = 0;
  layout();
  const none = sheet.querySelector(".none");
  none?.remove();
  if (!told.n.length) {
    const drawn = wanted.get("sort") === "review" ? " Draw some with 'slidepipe review sample RESULTS'." : "";
    sheet.append(element("p", { class: "none", text: `No specimens here.${drawn}` }));
  }
  say(`${told.n.length} specimens`);
  tellCounts(showCounts);
}

function id(place) {
  return `${told.slides[told.slide[place]]}:${String(told.row[place]).padStart(5, "0")}`;
}

function layout() {
  columns = Math.max(1, Math.floor((grid.clientWidth - 4) / LEAST_W));
  cellW = Math.min(1.25 * LEAST_W, (grid.clientWidth - 4) / columns);
  sheet.style.height = `${Math.max(1, Math.ceil(told.n.length / columns)) * CELL_H}px`;
  for (const [place, cell] of cells) put(cell, place);
  draw();
}

function put(cell, place) {
  cell.style.width = `${cellW - 6}px`;
  cell.style.transform = `translate(${(place % columns) * cellW + 3}px, ${Math.floor(place / columns) * CELL_H + 3}px)`;
}

let asked = false;
function draw() {
  asked = false;
  const above = 5; // rows beyond the edges, so that their pictures are there when they come
  const first = Math.max(0, Math.floor(grid.scrollTop / CELL_H) - above) * columns;
  const last = Math.min(told.n.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / CELL_H) + above) * columns);
  for (const [place, cell] of cells) {
    if (place < first || place >= last) {
      cell.remove();
      cells.delete(place);
    }
  }
  for (let place = first; place < last; place += 1) {
    let cell = cells.get(place);
    if (!cell) {
      cell = make(place);
      cells.set(place, cell);
      sheet.append(cell);
    }
    mark(cell, place);
  }
  if (told.n.length) grid.setAttribute("aria-activedescendant", `cell-${here}`);
}

function later() {
  if (!asked) {
    asked = true;
    requestAnimationFrame(draw);
  }
}

function make(place) {
  const cell = element("div", { class: "cell", role: "option", id: `cell-${place}`, "data-place": place });
  const image = element("img", { src: `/thumb/${told.n[place]}.jpg?v=${stamp}`, alt: "", draggable: "false", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(element("p", { class: "muted", text: "no picture: these pixels cannot be read" })));
  cell.append(image, element("span", { class: "of" }), element("span", { class: "sure" }), element("span", { class: "label" }));
  put(cell, place);
  return cell;
}

function mark(cell, place) {
  const label = labels.get(id(place));
  const blind = $("blind").checked;
  const [, of, sure, said] = cell.children;
  const state = told.states[told.state[place]];
  const name = told.name[place] < 0 ? "" : told.names[told.name[place]];
  const answer = state === "accepted" ? name : state === "unknown" && name ? `? ${name}` : state;
  of.textContent = blind ? `${place + 1}` : answer;
  const p = told.p_value[place];
  sure.textContent = blind || p === null ? "" : `p ${p.toFixed(2)}  d ${told.distance[place].toPrecision(2)}`;
  said.hidden = label === null;
  said.textContent = label === null ? "" : `${isGenus(label) ? "✓" : "✕"} ${label || NOT_A_FOSSIL}`;
  cell.classList.toggle("no", label !== null && !isGenus(label));
  cell.classList.toggle("here", place === here);
  cell.setAttribute("aria-selected", String(selected.has(place)));
  cell.setAttribute("aria-label", `${place + 1} of ${told.n.length}: ${of.textContent}${label === null ? "" : `, labelled ${label || NOT_A_FOSSIL}`}`);
  cell.title = id(place);
}

function showCounts(counts) {
  tally(counts, $("name").value);
}

// -- where one is -------------------------------------------------------------------------------------------------------

function go(place, extend = false) {
  if (!told.n.length) return;
  here = Math.max(0, Math.min(told.n.length - 1, place));
  if (extend) {
    const [low, high] = [Math.min(anchor, here), Math.max(anchor, here)];
    selected = new Set();
    for (let other = low; other <= high; other += 1) selected.add(other);
  } else {
    selected = new Set();
    anchor = here;
  }
  const top = Math.floor(here / columns) * CELL_H;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + CELL_H > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + CELL_H - grid.clientHeight + 4;
  draw();
}

function chosen() {
  if (!told.n.length) return [];
  return selected.size ? [...selected].sort((a, b) => a - b) : [here];
}

// -- labels -------------------------------------------------------------------------------------------------------------

async function give(label) {
  const places = chosen();
  if (!places.length) return;
  if (places.length > MANY && !window.confirm(`Label ${places.length} specimens at once?`)) return;
  const ids = places.map(id);
  const last = places[places.length - 1];
  const many = places.length > 1;
  go(many ? last : Math.min(last + 1, told.n.length - 1));
  const kept = await labels.label(ids, label);
  if (kept) say(`${many ? `${ids.length} specimens` : ids[0]}: ${label || NOT_A_FOSSIL}`);
}

// "Right": each specimen is what the head says, or, of those it left unknown, what they are nearest to.
async function right() {
  if ($("blind").checked) {
    say("Names are hidden: name the genus, or show the names first.");
    return;
  }
  const places = chosen().filter((place) => told.name[place] >= 0 && !told.names[told.name[place]].startsWith("_"));
  if (!places.length) {
    say("There is no guess to confirm.");
    return;
  }
  const byName = new Map();
  for (const place of places) {
    const name = told.names[told.name[place]];
    byName.set(name, [...(byName.get(name) || []), id(place)]);
  }
  if (places.length > MANY && !window.confirm(`Label ${places.length} specimens at once?`)) return;
  go(Math.min(places[places.length - 1] + (places.length > 1 ? 0 : 1), told.n.length - 1));
  for (const [name, ids] of byName) {
    if (!(await labels.label(ids, name))) return;
  }
  say(`${places.length} right`);
}

async function undo() {
  const step = await labels.undo();
  if (!step) {
    if (!labels.canUndo) say("Nothing of this tab is left to undo.");
    return;
  }
  say(step.leftOut ? `Undone, but for ${step.leftOut} that another tab has labelled since.` : `Undone: ${step.ids.length} label${step.ids.length > 1 ? "s" : ""}`);
  const place = told.n.findIndex((_, other) => id(other) === step.ids[0]);
  if (place >= 0) go(place);
}

async function name(typed = "") {
  const genus = await choose(typed);
  grid.focus();
  if (genus) await give(genus);
}

async function openSlide() {
  if (!told.n.length) return;
  await labels.settled; // labels that still wait would be lost with this page
  location.href = `/slide/${told.slide[here]}?object=${told.n[here]}`;
}

// -- keys ---------------------------------------------------------------------------------------------------------------

grid.addEventListener("keydown", (event) => {
  const control = event.ctrlKey || event.metaKey;
  const page = Math.max(1, Math.floor(grid.clientHeight / CELL_H)) * columns;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page };
  if (event.key in steps && !control) {
    const to = here + steps[event.key];
    if (Math.abs(steps[event.key]) === 1 || (to >= 0 && to < told.n.length) || event.key.startsWith("Page")) go(to, event.shiftKey);
  } else if (event.key === "Home") go(0, event.shiftKey);
  else if (event.key === "End") go(told.n.length - 1, event.shiftKey);
  else if (control && event.key.toLowerCase() === "z") undo();
  else if (control && event.key.toLowerCase() === "a") {
    selected = new Set(told.n.keys());
    draw();
    say(`${selected.size} selected`);
  } else if (control || event.altKey) return;
  else if (event.key === " ") right();
  else if (event.key === "Delete" || event.key === "Backspace" || event.key === "0") give(event.shiftKey ? WRONG_BOX : "");
  else if (event.key === "Enter") openSlide();
  else if (event.key === "Escape") go(here);
  else if (/^[1-9]$/.test(event.key)) {
    const genus = settings.genera[Number(event.key) - 1];
    if (genus) give(genus);
  } else if (/^\p{L}$/u.test(event.key)) name(event.key);
  else return;
  event.preventDefault();
});

// -- mouse and finger ---------------------------------------------------------------------------------------------------

let drag = null;

function at(event) {
  const frame = sheet.getBoundingClientRect();
  return { x: event.clientX - frame.left, y: event.clientY - frame.top };
}

function within(from, to) {
  const [left, right] = [Math.min(from.x, to.x), Math.max(from.x, to.x)];
  const [top, bottom] = [Math.min(from.y, to.y), Math.max(from.y, to.y)];
  const found = new Set();
  for (let row = Math.max(0, Math.floor(top / CELL_H)); row <= Math.floor(bottom / CELL_H); row += 1) {
    for (let column = Math.max(0, Math.floor(left / cellW)); column <= Math.min(columns - 1, Math.floor(right / cellW)); column += 1) {
      const place = row * columns + column;
      if (place < told.n.length) found.add(place);
    }
  }
  return found;
}

grid.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || event.clientX > grid.getBoundingClientRect().left + grid.clientWidth) return;
  const byTouch = event.pointerType === "touch";
  if (byTouch && !grid.classList.contains("touch")) return; // scrolls; a tap is a click
  drag = { from: at(event), kept: event.ctrlKey || event.metaKey ? new Set(selected) : new Set(), moved: false, last: event };
  grid.setPointerCapture(event.pointerId);
});

grid.addEventListener("pointermove", (event) => {
  if (!drag) return;
  drag.last = event;
  stretch();
});

function stretch() {
  if (!drag) return;
  const to = at(drag.last);
  if (!drag.moved && Math.hypot(to.x - drag.from.x, to.y - drag.from.y) < 7) return;
  drag.moved = true;
  selected = new Set([...drag.kept, ...within(drag.from, to)]);
  let box = sheet.querySelector(".marquee");
  if (!box) {
    box = element("div", { class: "marquee" });
    sheet.append(box);
  }
  box.style.left = `${Math.min(drag.from.x, to.x)}px`;
  box.style.top = `${Math.min(drag.from.y, to.y)}px`;
  box.style.width = `${Math.abs(to.x - drag.from.x)}px`;
  box.style.height = `${Math.abs(to.y - drag.from.y)}px`;
  const frame = grid.getBoundingClientRect();
  const over = drag.last.clientY < frame.top + 24 ? -14 : drag.last.clientY > frame.bottom - 24 ? 14 : 0;
  if (over) {
    grid.scrollTop += over;
    requestAnimationFrame(stretch);
  }
  later();
}

function drop(event) {
  if (!drag) return;
  const { moved } = drag;
  drag = null;
  sheet.querySelector(".marquee")?.remove();
  if (moved) {
    here = anchor = Math.min(...selected, told.n.length - 1);
    draw();
    say(`${selected.size} selected`);
  } else tap(event);
}
grid.addEventListener("pointerup", drop);
grid.addEventListener("pointercancel", () => {
  drag = null;
  sheet.querySelector(".marquee")?.remove();
});
grid.addEventListener("click", (event) => {
  if (event.pointerType === "touch" && !grid.classList.contains("touch")) tap(event);
});

function tap(event) {
  const point = at(event);
  const [place] = within(point, point);
  if (place === undefined) return;
  if (event.ctrlKey || event.metaKey || (grid.classList.contains("touch") && event.pointerType === "touch")) {
    if (!selected.delete(place)) selected.add(place);
    here = anchor = place;
    draw();
  } else go(place, event.shiftKey);
}

grid.addEventListener("dblclick", openSlide);
grid.addEventListener("scroll", later, { passive: true });
new ResizeObserver(layout).observe(grid);

// -- buttons ------------------------------------------------------------------------------------------------------------

for (const control of controls) $(control).addEventListener("change", () => {
  if (control === "sort" && $("sort").value === "review") {
    $("blind").checked = true; // a reviewer sees the fossil before what it was taken for
    $("name").value = "all";
    $("sample").value = "";
  }
  load();
});
$("blind").addEventListener("change", draw);
$("right").addEventListener("click", () => right().then(() => grid.focus()));
$("nothing").addEventListener("click", () => give("").then(() => grid.focus()));
$("wrong").addEventListener("click", () => give(WRONG_BOX).then(() => grid.focus()));
$("choose").addEventListener("click", () => name());
$("undo").addEventListener("click", () => undo().then(() => grid.focus()));
$("open").addEventListener("click", openSlide);
$("touch").addEventListener("click", () => {
  const on = grid.classList.toggle("touch");
  $("touch").setAttribute("aria-pressed", String(on));
});
$("palette").append(...settings.genera.map((genus, place) => {
  const button = element("button", { title: genus });
  if (place < 9) button.append(element("u", { text: place + 1 }));
  const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = settings.colours[genus] || "#888";
  button.append(swatch, genus);
  button.addEventListener("click", () => give(genus).then(() => grid.focus()));
  return button;
}));

labels.addEventListener("change", () => {
  later();
  $("undo").disabled = !labels.canUndo;
  tellCounts(showCounts);
});
fromAddress();
start();
load().then(() => grid.focus());
