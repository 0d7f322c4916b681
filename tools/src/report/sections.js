// The page's sections: texts, heat maps, curves. Each fills its place in the page from the numbers.

const place = (id, ...children) => document.getElementById(id).replaceChildren(...children);
const pens = () => data.texts.map((t, i) => ({ name: title(t), pen: pen(i) }));
const chosen = { measure: measures()[0], sort: true, layer: "" };
const measureChoice = (change) => choice("Measure", measures().map((m) => [m, MEASURES[m]]), chosen.measure, change);

function about() {
  const texts = data.texts.length;
  const counts = kinds().map((kind) => {
    const steps = stepsOf(kind);
    const sizes = [...new Set(steps.map(expertsOf))];
    return `${steps.length} ${KINDS[kind].toLowerCase()} ${steps.length > 1 ? "layers" : "layer"} of ${sizes.length > 1 ? `${Math.min(...sizes)} to ${Math.max(...sizes)}` : sizes[0]} experts`;
  });
  const names = [...new Set(data.profiles.map((p) => p.name))].join(" and ");
  document.title = `Expert use of ${names}`;
  document.querySelector("h1").textContent = document.title;
  const tokens = sum(data.texts.map((t) => t.tokens));
  place("about", `${counts.join(", ")}. ${number(tokens)} tokens of ${texts} ${texts > 1 ? "texts" : "text"}.`);
}

function texts() {
  const chunks = [...new Set(data.texts.flatMap((t) => t.chunks.map((c) => c.tokens)))];
  const head = ["Text", "tokens", ...kinds().flatMap((k) => [`half of ${KINDS[k].toLowerCase()} work`, "90 % of it"]), ...chunks.map((n) => `${n} tokens use`)];
  const rows = data.texts.map((t) => [
    title(t), number(t.tokens),
    ...kinds().flatMap((k) => [0.5, 0.9].map((y) => percent(working(t, stepsOf(k), y, chosen.measure)))),
    ...chunks.map((n) => t.chunks.find((c) => c.tokens === n)).map((c) => (c ? percent(c.share) : "–"))]);
  place("texts", el("div", { class: "card" }, table("Texts", head, rows),
    el("p", { class: "note" }, "Shares of experts, in the mean over layers."
      + (chunks.length ? " The last columns: of all experts of a layer, those that so many neighbouring tokens use together, which is what a prompt must bring into memory." : ""))));
}

// What there is to know of one expert at one step for one text.
function story(text, step, expert, rank) {
  const [used, of] = [raw(text, step, "selections"), expertsOf(step)];
  const parts = [`${step.name} · expert ${expert}`, `chosen for ${number(used[expert])} of ${number(text.tokens)} tokens (${percent(used[expert] / text.tokens, 1)})`];
  const share = shares(text, step, chosen.measure)[expert];
  parts.push(`${percent(share, 1)} of the layer's use, ${number(share * of, 1)} × even, rank ${rank + 1} of ${of}`);
  const gate = raw(text, step, "gate");
  if (gate && used[expert]) parts.push(`mean weight ${number(gate[expert] / used[expert], 3)}`);
  const saliency = raw(text, step, "saliency");
  if (saliency && used[expert]) parts.push(`mean weight × output ${number(saliency[expert] / used[expert], 3)}`);
  return parts.join("\n");
}

// Experts of a step in the order they are drawn.
function order(values) {
  const byUse = values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b);
  const rank = [];
  byUse.forEach((e, r) => (rank[e] = r));
  return { drawn: chosen.sort ? byUse : values.map((_, i) => i), rank };
}

function heat() {
  place("heat-controls",
    measureChoice((m) => { chosen.measure = m; all(); }),
    check("Sort each row by use", chosen.sort, (on) => { chosen.sort = on; heat(); }));
  const colour = ramp("--sequence");
  place("heat", ...kinds().flatMap((kind) => {
    const steps = stepsOf(kind);
    const tables = data.texts.map((text) => steps.map((step) => shares(text, step, chosen.measure)));
    // All maps of a kind have one scale, in multiples of even use; square roots keep the middle apart.
    const most = Math.max(...tables.flatMap((rows) => rows.map((row) => Math.max(...row) * row.length)), 1);
    const shade = (share, experts) => colour(Math.sqrt((share * experts) / most));
    const figures = data.texts.map((text, t) => {
      const rows = steps.map((step, s) => {
        const row = tables[t][s];
        const { drawn, rank } = order(row);
        const cells = drawn.map((e) => ({ colour: shade(row[e], row.length), get text() { return story(text, step, e, rank[e]); } }));
        return { label: step.layer, cells };
      });
      const caption = `${title(text)}: use of ${KINDS[kind].toLowerCase()} experts`;
      const widest = Math.max(...steps.map(expertsOf));
      return el("figure", { class: "card" },
        el("figcaption", {}, title(text), el("small", {}, ` · half the work by ${percent(working(text, steps, 0.5, chosen.measure))} of experts`)),
        map(caption, rows),
        folded(caption, ["Layer", ...Array.from({ length: widest }, (_, e) => `${e}`)],
          () => steps.map((step, s) => [step.name, ...tables[t][s].map((v) => percent(v, 1))])));
    });
    return [el("h3", {}, KINDS[kind]),
      legend("0", `${number(most, 1)} × even`, (x) => colour(x), `even use is ${number(Math.sqrt(1 / most) * 100)} % along`),
      el("div", { class: Math.max(...steps.map(expertsOf)) > 32 ? "grid wide" : "grid" }, figures)];
  }));
}

function curves() {
  const layers = [...new Set(kinds().flatMap((k) => stepsOf(k).map((s) => s.layer)))];
  place("curves-controls", choice("Layer", [["", "mean of all"], ...layers.map((l) => [l, l])], chosen.layer, (l) => { chosen.layer = l; curves(); }));
  const grid = Array.from({ length: 101 }, (_, i) => i / 100);
  place("curves", ...kinds().map((kind) => {
    const steps = stepsOf(kind).filter((s) => !chosen.layer || s.layer === chosen.layer);
    if (!steps.length) return el("figure", { class: "card" }, el("figcaption", {}, KINDS[kind]), el("p", { class: "note" }, "This layer has none."));
    const series = data.texts.map((text, i) => {
      const each = steps.map((s) => curve(shares(text, s, chosen.measure)));
      return { name: title(text), pen: pen(i), points: grid.map((x) => [x, mean(each.map((c) => at(c, x)))]) };
    });
    const caption = `${KINDS[kind]}: share of use by the most used experts, ${chosen.layer ? `layer ${chosen.layer}` : "mean of all layers"}`;
    const says = (i) => [`best ${percent(grid[i])} of experts do`, ...series.map((s) => `${percent(s.points[i][1], 1)}  ${s.name}`)].join("\n");
    return el("figure", { class: "card" }, el("figcaption", {}, KINDS[kind], el("small", {}, ` · ${chosen.layer ? `layer ${chosen.layer}` : "mean of all layers"}`)),
      lines(caption, series, {
        x: { low: 0, high: 1, label: "share of experts, best first", format: (v) => percent(v) },
        y: { low: 0, high: 1, format: (v) => percent(v) }, diagonal: true, reading: says }),
      keys(series, "even use"),
      folded(caption, ["Experts", ...series.map((s) => s.name)],
        () => grid.filter((_, i) => i % 5 === 0).map((x, i) => [percent(x), ...series.map((s) => percent(s.points[i * 5][1], 1))])));
  }));
}
