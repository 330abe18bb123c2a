// What is drawn over the scan: boxes and the scale bar. Boxes are [x0, y0, x1, y1], half-open, in level-0 pixels of the whole slide.

const SMALL_PX = 5; // a box smaller than this on the screen is a dot
const NAMED_PX = 56; // a box wider than this on the screen shows its name
const MAX_SCALE_BAR_PX = 160;

export function inBox([x0, y0, x1, y1], point) {
  return point.x >= x0 && point.x < x1 && point.y >= y0 && point.y < y1;
}

export function area([x0, y0, x1, y1]) {
  return (x1 - x0) * (y1 - y0);
}

// Draw boxes on the canvas.
// items: {box, text, taxon, colour, dashed, chosen, drawn}; taxon: whether text is the name of one. view: {x, y, scale, left, top}: the slide's point (left, top) lies at (x, y) of
// the screen, and scale is in screen pixels per level-0 pixel. draft: the box that the user is drawing, or null.
export function drawBoxes(canvas, items, view, draft) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  let shown = 0;
  for (const item of items) {
    const [x, y, w, h] = onScreen(item.box, view);
    if (x > width || y > height || x + w < 0 || y + h < 0) continue;
    shown += 1;
    drawBox(pen, item, x, y, w, h);
  }
  canvas.dataset.shown = String(shown);
  if (draft) drawDraft(pen, ...onScreen(draft, view));
}

function drawBox(pen, item, x, y, w, h) {
  if (w < SMALL_PX && h < SMALL_PX && !item.chosen) {
    pen.fillStyle = item.colour;
    pen.fillRect(x, y, Math.max(2, w), Math.max(2, h));
    return;
  }
  pen.setLineDash(item.dashed ? [4, 4] : []);
  if (item.chosen) {
    pen.strokeStyle = "#ffffff";
    pen.lineWidth = 7;
    pen.strokeRect(x, y, w, h);
  }
  pen.strokeStyle = item.colour;
  pen.lineWidth = item.chosen ? 4 : 2;
  pen.strokeRect(x, y, w, h);
  if (item.drawn) pen.strokeRect(x - 4, y - 4, w + 8, h + 8);
  if (w > NAMED_PX) drawName(pen, item, x, y);
}

function drawName(pen, item, x, y) {
  pen.font = `${item.taxon ? "italic " : ""}12px system-ui, sans-serif`;
  const width = pen.measureText(item.text).width;
  pen.fillStyle = "rgb(255 255 255 / 85%)";
  pen.fillRect(x - 1, y - 17, width + 8, 16);
  pen.fillStyle = "#1c2126";
  pen.fillText(item.text, x + 3, y - 5);
}

function drawDraft(pen, x, y, w, h) {
  pen.setLineDash([6, 4]);
  pen.lineWidth = 4;
  pen.strokeStyle = "#ffffff";
  pen.strokeRect(x, y, w, h);
  pen.lineWidth = 2;
  pen.strokeStyle = "#a3181f";
  pen.strokeRect(x, y, w, h);
}

function onScreen([x0, y0, x1, y1], { x, y, scale, left, top }) {
  return [(x0 - left) * scale + x, (y0 - top) * scale + y, (x1 - x0) * scale, (y1 - y0) * scale];
}

// Set the scale bar to a round length that is at most 160 screen pixels long.
// scale: screen pixels per level-0 pixel; mpp: micrometres per level-0 pixel.
export function updateScaleBar(bar, scale, mpp) {
  const umPerPixel = mpp / scale; // micrometres per screen pixel
  const longest = MAX_SCALE_BAR_PX * umPerPixel;
  const power = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].map((digit) => digit * power).find((um) => um <= longest);
  const text = length >= 1000 ? `${length / 1000} mm` : `${length >= 1 ? length : length.toPrecision(1)} µm`;
  const line = bar.querySelector("span");
  line.style.width = `${length / umPerPixel}px`;
  bar.replaceChildren(text, line);
  bar.dataset.um = String(length);
}
