// What keeping a share of the experts' bytes saves, and what it costs: measured where the profile has losses.

const RATIOS = [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2];

// Bytes of all experts of the first profile that knows.
const sized = data.profiles.find((p) => p.pools);
const expertBytes = () => sum(sized.pools.map((p) => p.records * p.bytes));
// Share of use that the best `keep` of each step's experts do, in the mean over steps.
const covered = (text, keep) => mean(data.steps.map((_, i) => at(curve(shares(text, { index: i }, chosen.measure)), keep)));

function sizes() {
  const losses = data.profiles.flatMap((p, i) => (p.losses ? [{ ...p.losses, name: p.name, i }] : []));
  place("sizes", ...(losses.length ? measured(losses) : unmeasured()), estimates(losses));
}

function unmeasured() {
  return [el("p", { class: "note" }, "This profile has no measured losses, so what dropping costs is not known; the share of use that is kept says what to expect. ",
    el("code", {}, "hotset profile BUNDLE --text FILE --losses"), " measures it.")];
}

// Loss by the share of bytes kept.
function measured(losses) {
  const series = losses.map((l) => ({ name: l.name, pen: pen(l.i), points: [[1, l.base], ...l.ratios.map((r) => [r.keep, r.loss])].sort((a, b) => a[0] - b[0]) }));
  // A point is given once.
  series.forEach((s) => (s.points = s.points.filter(([x], i) => !i || x !== s.points[i - 1][0])));
  const values = series.flatMap((s) => s.points.map((p) => p[1]));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || 1) * 0.08;
  const caption = "Loss in nats per token by the share of expert bytes that is kept";
  const says = (i) => { const [x] = series[0].points[i]; return [`keeping ${percent(x)}`, ...series.flatMap((s) => s.points.filter((p) => p[0] === x).map((p) => `${number(p[1], 4)} nats  ${s.name}`))].join("\n"); };
  const chart = el("figure", { class: "card" }, el("figcaption", {}, "Measured loss", el("small", {}, ` · nats per token, ${number(losses[0].tokens)} tokens`)),
    lines(caption, series, {
      x: { low: 0, high: 1, label: "share of expert bytes kept", format: (v) => percent(v) },
      y: { low: low - room, high: high + room, format: (v) => number(v, 2) }, level: losses[0].base, dots: true, reading: says }),
    keys(series, "nothing dropped"));
  return [chart];
}

// A row for each ratio: size, share of use, loss where it was measured.
function estimates(losses) {
  const measuredRatios = losses.flatMap((l) => l.ratios.map((r) => r.keep));
  const ratios = [...new Set([...RATIOS, ...measuredRatios])].sort((a, b) => b - a);
  const loss = (l, keep) => {
    const found = keep === 1 ? l.base : l.ratios.find((r) => r.keep === keep)?.loss;
    return found === undefined ? "–" : `${number(found, 4)} (${found >= l.base ? "+" : "−"}${number(Math.abs(found / l.base - 1) * 100, 2)} %)`;
  };
  // What was measured kept whole experts, a little less than asked for.
  const exact = (keep) => sized.losses?.ratios.find((r) => r.keep === keep)?.bytes ?? keep * expertBytes();
  const size = (keep) => (sized ? [bytes(exact(keep)), bytes(sized.dense + exact(keep))] : []);
  const head = ["Kept", ...(sized ? ["experts", "whole file"] : []), ...losses.map((l) => (losses.length > 1 ? `loss, ${l.name}` : "measured loss")), ...data.texts.map((t) => `use kept, ${title(t)}`)];
  const rows = ratios.map((keep) => [percent(keep), ...size(keep), ...losses.map((l) => loss(l, keep)), ...data.texts.map((t) => percent(covered(t, keep), 1))]);
  return el("div", { class: "card", style: "margin-top:0.9rem" }, el("p", { class: "caption" }, "Size and loss", el("small", {}, " · use kept: the share of choices that fall on the experts kept, if every layer keeps the same share")),
    table("Size and loss for each share of experts kept", head, rows));
}
