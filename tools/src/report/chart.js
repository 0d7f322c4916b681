// Lines and columns in SVG, redrawn for each width, with a cursor that reads all lines at one place.

const FRAME = { left: 52, right: 22, top: 10, bottom: 40, height: 260 };

// About five round steps from `low` to `high`.
function ticks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step || 0);
  return out;
}

// Axes for x and y: {low, high, label, format}. Returns where values lie and the drawing so far.
function frame(width, x, y) {
  const { left, right, top, bottom, height } = FRAME;
  const px = (v) => left + ((v - x.low) / (x.high - x.low)) * (width - left - right);
  const py = (v) => height - bottom - ((v - y.low) / (y.high - y.low)) * (height - top - bottom);
  const few = width < 420 ? 2 : 1;
  const drawing = svg("g", {},
    ticks(y.low, y.high).map((v) => [
      svg("line", { class: "rule", x1: left, x2: width - right, y1: py(v), y2: py(v) }),
      svg("text", { x: left - 8, y: py(v) + 4, "text-anchor": "end" }, y.format(v))]),
    (x.ticks ?? ticks(x.low, x.high)).filter((_, i) => i % few === 0).map((v) =>
      svg("text", { x: px(v), y: height - bottom + 18, "text-anchor": "middle" }, x.format(v))),
    svg("line", { class: "axis", x1: left, x2: width - right, y1: py(y.low), y2: py(y.low) }),
    svg("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, x.label));
  return { px, py, drawing };
}

function fresh(caption) {
  const chart = svg("svg", { class: "chart", height: FRAME.height, tabindex: 0, role: "img", "aria-label": `${caption}. Arrow keys read values.` });
  return chart;
}

// Arrow keys and pointer choose one of `count` places; `show(i, clientX, clientY)` tells of it.
function reader(chart, count, nearest, show) {
  let current = null;
  const go = (i, x, y) => show((current = Math.min(Math.max(i, 0), count() - 1)), x, y);
  const leave = () => { hush(); show(null); };
  chart.addEventListener("pointermove", (e) => go(nearest(e.clientX - chart.getBoundingClientRect().left), e.clientX, e.clientY));
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("blur", leave);
  chart.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[e.key];
    if (!step) return;
    e.preventDefault();
    // The first arrow shows the first place.
    go(current === null && Number.isFinite(step) ? 0 : (current ?? 0) + step);
  });
}

// `lines`: [{name, pen, points: [[x, y]…]}], all with the same x where `reading` is given: (i) → what to say of the i-th place.
function lines(caption, series, { x, y, diagonal, level, dots, reading }) {
  const chart = fresh(caption);
  const places = series[0].points.map((p) => p[0]);
  let at = null;
  let cursor = null;
  fitted(chart, (width) => {
    at = frame(width, x, y);
    const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${at.px(a).toFixed(1)} ${at.py(b).toFixed(1)}`).join("");
    cursor = svg("line", { class: "axis", y1: FRAME.top, y2: FRAME.height - FRAME.bottom, visibility: "hidden" });
    const extra = [
      ...(diagonal ? [svg("path", { class: "even", d: path([[x.low, y.low], [x.high, y.high]]) })] : []),
      ...(level === undefined ? [] : [svg("path", { class: "even", d: path([[x.low, level], [x.high, level]]) })])];
    const marks = (s) => (dots ? s.points.map(([a, b]) => svg("circle", { cx: at.px(a), cy: at.py(b), r: 3.5, fill: s.pen.stroke })) : []);
    chart.replaceChildren(at.drawing, ...extra, cursor,
      ...series.flatMap((s) => [svg("path", { d: path(s.points), fill: "none", "stroke-width": 2, "stroke-linejoin": "round", ...s.pen }), ...marks(s)]));
  });
  const nearest = (px) => places.reduce((best, v, i) => (Math.abs(at.px(v) - px) < Math.abs(at.px(places[best]) - px) ? i : best), 0);
  reader(chart, () => places.length, nearest, (i, cx, cy) => {
    if (!cursor) return;
    cursor.setAttribute("visibility", i === null ? "hidden" : "visible");
    if (i === null) return;
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, at.px(places[i]));
    const box = chart.getBoundingClientRect();
    say(reading(i), cx ?? box.left + at.px(places[i]), cy ?? box.top + FRAME.top);
  });
  return chart;
}

// `bars`: [{label, value, text}] of values between 0 and 1; `level` is a line across.
function columns(caption, bars, { label, level, pen }) {
  const chart = fresh(caption);
  let marks = [];
  let at = null;
  fitted(chart, (width) => {
    const every = Math.ceil((bars.length * 26) / (width - FRAME.left));
    const shown = bars.map((_, i) => i + 0.5).filter((_, i) => i % every === 0);
    const x = { low: 0, high: bars.length, label, ticks: shown, format: (v) => bars[Math.floor(v)].label };
    at = frame(width, x, { low: 0, high: 1, format: (v) => percent(v) });
    marks = bars.map((b, i) => {
      const top = at.py(b.value);
      const [from, to] = [at.px(i), at.px(i + 1)];
      const gap = Math.min((to - from) * 0.2, 6);
      return svg("rect", { x: from + gap / 2, width: to - from - gap, y: top, height: at.py(0) - top, fill: pen.stroke, rx: 2 });
    });
    const line = svg("line", { class: "even", x1: FRAME.left, x2: width - FRAME.right, y1: at.py(level), y2: at.py(level) });
    chart.replaceChildren(at.drawing, ...marks, line);
  });
  const nearest = (px) => Math.floor(((px - at.px(0)) / (at.px(bars.length) - at.px(0))) * bars.length);
  reader(chart, () => bars.length, nearest, (i, cx, cy) => {
    marks.forEach((m, j) => m.setAttribute("opacity", i === null || i === j ? 1 : 0.45));
    if (i === null) return;
    const box = chart.getBoundingClientRect();
    say(bars[i].text, cx ?? box.left + at.px(i + 0.5), cy ?? box.top + at.py(bars[i].value));
  });
  return chart;
}

// Which line is which.
function keys(entries, even) {
  const sample = (attributes) => svg("svg", { width: 26, height: 8, "aria-hidden": "true" }, svg("line", { x1: 1, x2: 25, y1: 4, y2: 4, "stroke-width": 2.5, ...attributes }));
  return el("ul", { class: "legend" },
    entries.map(({ name, pen }) => el("li", {}, sample(pen), name)),
    even ? [el("li", {}, sample({ stroke: style("--soft"), "stroke-dasharray": "2 4" }), even)] : []);
}
