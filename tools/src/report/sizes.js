// What keeping a share of the experts' bytes saves, and what it costs: measured where the profile has losses.

const RATIOS = [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2];

// Bytes of all experts; a pool that several steps share counts once.
const expertBytes = () => sum(data.pools.map((p) => p.experts * p.bytes));
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

// Loss by the share of bytes kept, and how much each pool alone can lose.
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
  return [el("div", { class: "pair" }, chart, ...kinds().map((kind) => sensitivity(losses[0], kind)).filter(Boolean))];
}

// For each pool of a kind, the loss when only that pool is cut.
function sensitivity(losses, kind) {
  const steps = stepsOf(kind);
  const first = new Map(steps.map((s) => [s.pool, s]).reverse());
  const pools = losses.pools.filter((p) => first.has(p.pool) && p.points.length);
  if (!pools.length) return null;
  const colour = ramp("--sequence");
  const experts = (p) => data.pools[p.pool].experts;
  const series = pools.map((p, i) => ({
    name: first.get(p.pool).name, pen: { stroke: colour(0.35 + (0.65 * i) / Math.max(pools.length - 1, 1)) },
    points: [...p.points, [experts(p), losses.base]].map(([kept, loss]) => [kept / experts(p), loss - losses.base]).sort((a, b) => a[0] - b[0]) }));
  const values = series.flatMap((s) => s.points.map((p) => p[1]));
  const [low, high] = [Math.min(...values, 0), Math.max(...values)];
  const caption = `${KINDS[kind]}: loss added when only one layer drops experts`;
  const says = (i) => {
    const here = series.filter((s) => s.points[i]).map((s) => [s.points[i][1], s.name]).sort((a, b) => b[0] - a[0]);
    return [`keeping ${percent(series[0].points[i][0])} of one layer`, ...here.slice(0, 8).map(([v, name]) => `${v < 0 ? "−" : "+"}${number(Math.abs(v), 4)}  ${name}`), ...(here.length > 8 ? ["…"] : [])].join("\n");
  };
  return el("figure", { class: "card" }, el("figcaption", {}, `${KINDS[kind]}, one layer at a time`, el("small", {}, " · nats per token added; early layers pale, late ones strong")),
    lines(caption, series, {
      x: { low: 0, high: 1, label: "share of the layer's experts kept", format: (v) => percent(v) },
      y: { low, high: high > low ? high : low + 1e-3, format: (v) => number(v, 3) }, reading: says }),
    folded(caption, ["Layer", "kept", "loss added"], () => series.flatMap((s) => s.points.map(([x, v]) => [s.name, percent(x), number(v, 4)]))));
}

// A row for each ratio: size, share of use, loss where it was measured.
function estimates(losses) {
  const measuredRatios = losses.flatMap((l) => l.ratios.map((r) => r.keep));
  const ratios = [...new Set([...RATIOS, ...measuredRatios])].sort((a, b) => b - a);
  const loss = (l, keep) => {
    const found = keep === 1 ? l.base : l.ratios.find((r) => r.keep === keep)?.loss;
    return found === undefined ? "–" : `${number(found, 4)} (${found >= l.base ? "+" : "−"}${number(Math.abs(found / l.base - 1) * 100, 2)} %)`;
  };
  const exact = (keep) => losses[0]?.ratios.find((r) => r.keep === keep)?.bytes ?? keep * expertBytes();
  const total = (keep) => (data.dense_bytes === null ? [] : [bytes(data.dense_bytes + exact(keep))]);
  const head = ["Kept", "experts", ...(data.dense_bytes === null ? [] : ["whole file"]), ...losses.map((l) => (losses.length > 1 ? `loss, ${l.name}` : "measured loss")), ...data.texts.map((t) => `use kept, ${title(t)}`)];
  const rows = ratios.map((keep) => [percent(keep), bytes(exact(keep)), ...total(keep), ...losses.map((l) => loss(l, keep)), ...data.texts.map((t) => percent(covered(t, keep), 1))]);
  return el("div", { class: "card", style: "margin-top:0.9rem" }, el("p", { class: "caption" }, "Size and loss", el("small", {}, " · use kept: the share of choices that fall on the experts kept, if every layer keeps the same share")),
    table("Size and loss for each share of experts kept", head, rows));
}
