// Selecting specimens of the grid with the mouse or a finger: a click, a tap, or a rectangle dragged over several.

import { element } from "./page.js";

const MIN_DRAG_PX = 7; // a shorter movement is a click
const EDGE_PX = 24; // near an edge the grid scrolls
const SCROLL_PX = 14; // per animation frame

// grid: the element that scrolls. sheet: its content. list: what is dragged over, with the methods placesBetween(from, to),
// select(places), finish(places) and click(place, event); points are {x, y} in pixels of the sheet.
export function enableDragSelect(grid, sheet, list) {
  let drag = null; // {from, kept, moved, last}: start point, places selected before, whether it moved, last pointer event

  const point = (event) => {
    const corner = sheet.getBoundingClientRect();
    return { x: event.clientX - corner.left, y: event.clientY - corner.top };
  };
  const selectsByTouch = () => grid.classList.contains("drag-select");
  const removeRectangle = () => sheet.querySelector(".rectangle")?.remove();

  const click = (event) => {
    const at = point(event);
    const [place] = list.placesBetween(at, at);
    if (place !== undefined) list.click(place, event, event.pointerType === "touch" && selectsByTouch());
  };

  const update = () => {
    if (!drag) return;
    const to = point(drag.last);
    if (!drag.moved && Math.hypot(to.x - drag.from.x, to.y - drag.from.y) < MIN_DRAG_PX) return;
    drag.moved = true;
    drag.places = new Set([...drag.kept, ...list.placesBetween(drag.from, to)]);
    list.select(drag.places);
    let rectangle = sheet.querySelector(".rectangle");
    if (!rectangle) {
      rectangle = element("div", { class: "rectangle" });
      sheet.append(rectangle);
    }
    rectangle.style.left = `${Math.min(drag.from.x, to.x)}px`;
    rectangle.style.top = `${Math.min(drag.from.y, to.y)}px`;
    rectangle.style.width = `${Math.abs(to.x - drag.from.x)}px`;
    rectangle.style.height = `${Math.abs(to.y - drag.from.y)}px`;
    const frame = grid.getBoundingClientRect();
    const scroll = drag.last.clientY < frame.top + EDGE_PX ? -SCROLL_PX : drag.last.clientY > frame.bottom - EDGE_PX ? SCROLL_PX : 0;
    if (scroll) {
      grid.scrollTop += scroll;
      requestAnimationFrame(update);
    }
  };

  grid.addEventListener("pointerdown", (event) => {
    const onScrollBar = event.clientX > grid.getBoundingClientRect().left + grid.clientWidth;
    if (event.button !== 0 || onScrollBar) return;
    if (event.pointerType === "touch" && !selectsByTouch()) return; // the finger scrolls; a tap is a click
    const kept = event.ctrlKey || event.metaKey ? new Set(list.selected()) : new Set();
    drag = { from: point(event), kept, moved: false, last: event, places: kept };
    grid.setPointerCapture(event.pointerId);
  });
  grid.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.last = event;
    update();
  });
  grid.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { moved, places } = drag;
    drag = null;
    removeRectangle();
    if (moved) list.finish(places);
    else click(event);
  });
  grid.addEventListener("pointercancel", () => {
    drag = null;
    removeRectangle();
  });
  grid.addEventListener("click", (event) => {
    if (event.pointerType === "touch" && !selectsByTouch()) click(event);
  });
}
