// Elements, colours, the tooltip and tables. Names come from files: they reach the page as text nodes only.

function node(namespace, tag, attributes, children) {
  const out = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) out.setAttribute(name, value);
  out.append(...children.flat(Infinity));
  return out;
}
const el = (tag, attributes = {}, ...children) => node(null, tag, attributes, children);
const svg = (tag, attributes = {}, ...children) => node("http://www.w3.org/2000/svg", tag, attributes, children);

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// A list of colours from the style sheet, as a function from [0, 1] to `rgb(…)`.
function ramp(name) {
  const stops = style(name).split(/\s+/).map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return (t) => {
    const position = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(position), stops.length - 2);
    const mixed = stops[low].map((v, i) => Math.round(v + (stops[low + 1][i] - v) * (position - low)));
    return `rgb(${mixed.join(" ")})`;
  };
}
// Colour and dashes of the i-th line: dashes tell more lines apart than colours can.
function pen(i) {
  const colours = style("--series").split(/\s+/);
  return { stroke: colours[i % colours.length], "stroke-dasharray": ["", "7 4", "2 3"][Math.floor(i / colours.length) % 3] };
}

const tip = document.getElementById("tip");
// Shows `text` near a point of the window.
function say(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
  tip.style.top = `${y + box.height + 22 < innerHeight ? y + 16 : Math.max(4, y - box.height - 12)}px`;
}
const hush = () => void (tip.hidden = true);
addEventListener("scroll", hush, { passive: true });
addEventListener("keydown", (e) => e.key === "Escape" && hush());

// A table: the first cell of a row names it.
function table(caption, head, rows) {
  const cells = (row) => row.map((cell, i) => (i ? el("td", {}, cell) : el("th", { scope: "row" }, cell)));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {}, el("thead", {}, el("tr", {}, head.map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, cells(row))))));
}
// The same folded away and made when it is opened.
function folded(caption, head, rows) {
  const out = el("details", {}, el("summary", {}, "As a table"));
  out.addEventListener("toggle", () => out.open && out.children.length === 1 && out.append(table(caption, head, rows())));
  return out;
}

// A choice of one: options are [value, label] or [group, [[value, label]…]].
function choice(label, options, value, change) {
  const option = ([v, text]) => el("option", v === value ? { value: v, selected: "" } : { value: v }, text);
  const entry = ([v, text]) => (Array.isArray(text) ? el("optgroup", { label: v }, text.map(option)) : option([v, text]));
  const select = el("select", {}, options.map(entry));
  select.addEventListener("change", () => change(select.value));
  return el("label", {}, label, select);
}
function check(label, value, change) {
  const box = el("input", { type: "checkbox", ...(value ? { checked: "" } : {}) });
  box.addEventListener("change", () => change(box.checked));
  return el("label", {}, box, label);
}

// Calls `draw(width)` whenever the element's width changes.
function fitted(element, draw) {
  let before = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width && width !== before) draw((before = width));
  }).observe(element);
}
