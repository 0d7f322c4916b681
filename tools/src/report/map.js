// A heat map on a canvas: rows × columns of coloured cells, readable by pointer and by arrow keys.

// Room above the first row for its label, which is taller than a thin row.
const TOP = 4;

// `rows`: [{label, cells: [{colour, text}]}]; rows may have different lengths.
function map(caption, rows) {
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `${caption}. Arrow keys read single cells.` });
  const columns = Math.max(...rows.map((r) => r.cells.length));
  const left = 8 + 7 * Math.max(...rows.map((r) => r.label.length));
  let cell = { w: 0, h: 0 };
  let cursor = null;

  function draw(width = canvas.clientWidth) {
    const w = (width - left) / columns;
    cell = { w, h: Math.round(Math.min(Math.max(w, 7), Math.max(12, 180 / rows.length))) };
    const scale = devicePixelRatio || 1;
    canvas.style.height = `${TOP + rows.length * cell.h}px`;
    canvas.width = width * scale;
    canvas.height = (TOP + rows.length * cell.h) * scale;
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, TOP * scale);
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const gap = w >= 5 ? 1 : 0;
    // Labels that would touch are left out.
    const every = Math.ceil(12 / cell.h);
    rows.forEach((row, r) => {
      pen.fillStyle = style("--soft");
      if (r % every === 0) pen.fillText(row.label, left - 6, (r + 0.5) * cell.h);
      row.cells.forEach(({ colour }, c) => {
        pen.fillStyle = colour;
        pen.fillRect(left + c * w, r * cell.h, Math.max(w - gap, 1), cell.h - 1);
      });
    });
    if (cursor) {
      pen.strokeStyle = style("--focus");
      pen.lineWidth = 2;
      pen.strokeRect(left + cursor.c * w, cursor.r * cell.h, Math.max(w - gap, 2), cell.h - 1);
    }
  }
  // Tells of a cell, at a point of the window or where the cell is.
  function point(r, c, x, y) {
    const target = rows[r]?.cells[c];
    if (!target) return hush();
    const box = canvas.getBoundingClientRect();
    say(target.text, x ?? box.left + left + (c + 1) * cell.w, y ?? box.top + TOP + (r + 1) * cell.h);
  }

  canvas.addEventListener("pointermove", (e) => point(Math.floor((e.offsetY - TOP) / cell.h), Math.floor((e.offsetX - left) / cell.w), e.clientX, e.clientY));
  canvas.addEventListener("pointerleave", hush);
  canvas.addEventListener("blur", () => { cursor = null; hush(); draw(); });
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -columns], End: [0, columns] }[e.key];
    if (!step) return;
    e.preventDefault();
    const r = cursor ? Math.min(Math.max(cursor.r + step[0], 0), rows.length - 1) : 0;
    cursor = { r, c: cursor ? Math.min(Math.max(cursor.c + step[1], 0), rows[r].cells.length - 1) : 0 };
    draw();
    point(cursor.r, cursor.c);
  });
  fitted(canvas, draw);
  return canvas;
}

// The colours of a map, with what their ends mean.
function legend(low, high, colour, middle) {
  const canvas = el("canvas", { width: 176, height: 1, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  for (let x = 0; x < 176; x++) {
    pen.fillStyle = colour(x / 175);
    pen.fillRect(x, 0, 1, 1);
  }
  return el("div", { class: "scale" }, low, canvas, high, ...(middle ? [el("span", {}, middle)] : []));
}
