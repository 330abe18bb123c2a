// What is drawn over the scan: boxes and the scale bar. Boxes are [x0, y0, x1, y1] in level-0 pixels of the whole slide.

export function inBox([x0, y0, x1, y1], point) {
  return point.x >= x0 && point.x < x1 && point.y >= y0 && point.y < y1;
}

// place: {x, y, scale, left, top}: where the corner (left, top) of the scanned part is on the screen, and its scale.
export function drawBoxes(canvas, boxes, place, rubber) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "italic 12px system-ui, sans-serif";
  let shown = 0;
  for (const item of boxes) {
    const [x, y, w, h] = onScreen(item.box, place);
    if (x > width || y > height || x + w < 0 || y + h < 0) continue;
    shown += 1;
    if (w < 5 && h < 5 && !item.chosen) { // too small for an outline: a dot
      pen.fillStyle = item.colour;
      pen.fillRect(x, y, Math.max(2, w), Math.max(2, h));
      continue;
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
    if (w > 56) name(pen, item, x, y);
  }
  canvas.dataset.shown = String(shown);
  if (rubber) {
    const [x, y, w, h] = onScreen(rubber, place);
    pen.setLineDash([6, 4]);
    pen.lineWidth = 4;
    pen.strokeStyle = "#ffffff";
    pen.strokeRect(x, y, w, h);
    pen.lineWidth = 2;
    pen.strokeStyle = "#a3181f";
    pen.strokeRect(x, y, w, h);
  }
}

function name(pen, item, x, y) {
  const width = pen.measureText(item.text).width;
  pen.fillStyle = "rgb(255 255 255 / 85%)";
  pen.fillRect(x - 1, y - 17, width + 8, 16);
  pen.fillStyle = "#1c2126";
  pen.fillText(item.text, x + 3, y - 5);
}

function onScreen([x0, y0, x1, y1], { x, y, scale, left, top }) {
  return [(x0 - left) * scale + x, (y0 - top) * scale + y, (x1 - x0) * scale, (y1 - y0) * scale];
}

// A bar of a round length of 60 to 160 screen pixels.
export function fitScale(bar, scale, mpp) {
  const umAPixel = mpp / scale;
  const most = 160 * umAPixel;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((digit) => digit * power).find((um) => um <= most);
  const said = length >= 1000 ? `${length / 1000} mm` : `${length >= 1 ? length : length.toPrecision(1)} µm`;
  const line = bar.querySelector("span");
  line.style.width = `${length / umAPixel}px`;
  bar.replaceChildren(said, line);
  bar.dataset.um = String(length);
}
