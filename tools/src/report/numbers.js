// What the profile says, as numbers: shares, orders, curves. Nothing is drawn here.

const data = JSON.parse(document.getElementById("data").textContent);
const KINDS = { attention: "Attention", "feed-forward": "Feed-forward" };
const MEASURES = { selections: "how often it is chosen", gate: "weight it is given", saliency: "what it adds to the stream" };

const sum = (values) => values.reduce((a, b) => a + b, 0);
const mean = (values) => (values.length ? sum(values) / values.length : 0);
const sorted = (values) => [...values].sort((a, b) => b - a);

// Steps of one kind, in order: [{index, layer, …}]. A layer is named by the first number in the step's name.
const stepsOf = (kind) =>
  data.steps.map((s, index) => ({ ...s, index, layer: s.name.match(/\d+/)?.[0] ?? String(index) })).filter((s) => s.kind === kind);
const kinds = () => Object.keys(KINDS).filter((kind) => stepsOf(kind).length);
const expertsOf = (step) => step.experts;

// A text's name, with its profile's where there are two.
const title = (text) => (data.profiles.length > 1 ? `${data.profiles[text.profile]} · ${text.name}` : text.name);

// What a measure says of a step's experts, [E]; null where it was not recorded.
const raw = (text, step, measure) => text.steps[step.index][measure] ?? null;
// The same as shares of the step's whole.
function shares(text, step, measure) {
  const values = raw(text, step, measure);
  const total = values && sum(values);
  return values && values.map((v) => (total > 0 ? v / total : 0));
}
// The measures that every text has.
const measures = () => Object.keys(MEASURES).filter((m) => data.texts.every((t) => data.steps.every((_, i) => t.steps[i][m])));

// Share of use of the best n of E experts, n = 0…E.
function curve(values) {
  const out = [0];
  for (const v of sorted(values)) out.push(out[out.length - 1] + v);
  return out;
}
// A curve read at a share of experts between 0 and 1.
function at(curve, x) {
  const position = x * (curve.length - 1);
  const low = Math.min(Math.floor(position), curve.length - 2);
  return curve[low] + (curve[low + 1] - curve[low]) * (position - low);
}
// The share of experts at which a curve reaches `y`.
function reach(curve, y) {
  const n = curve.findIndex((v) => v >= y - 1e-12);
  if (n <= 0) return n < 0 ? 1 : 0;
  return (n - 1 + (y - curve[n - 1]) / (curve[n] - curve[n - 1])) / (curve.length - 1);
}
// The share of experts that does `y` of the work, in the mean over steps.
const working = (text, steps, y, measure) => mean(steps.map((s) => reach(curve(shares(text, s, measure)), y)));

// The ids of a step's more used half.
function topHalf(values) {
  const order = values.map((v, i) => [v, i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  return new Set(order.slice(0, Math.ceil(values.length / 2)).map(([, i]) => i));
}
// The share of `a`'s more used half that is also in `b`'s.
function overlap(a, b, step, measure) {
  const [x, y] = [a, b].map((t) => topHalf(shares(t, step, measure)));
  return [...x].filter((i) => y.has(i)).length / x.size;
}

const number = (v, digits = 0) => v.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (v, digits = 0) => `${number(v * 100, digits)} %`;
function bytes(v) {
  const unit = Math.min(Math.floor(Math.log2(Math.max(v, 1)) / 10), 4);
  const scaled = v / 2 ** (10 * unit);
  return `${number(scaled, unit && scaled < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}
