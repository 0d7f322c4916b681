// Two texts side by side: where their use differs, and whether they would keep the same experts.

const pair = { a: 0, b: 1 };

function compare() {
  if (data.texts.length < 2) {
    place("compare", el("p", { class: "note" }, "This profile has one text. Record another with ", el("code", {}, "hotset profile … --text"), ", or name a second profile, to compare."));
    return;
  }
  const [a, b] = [data.texts[pair.a], data.texts[pair.b]];
  const options = data.texts.map((t, i) => [String(i), title(t)]);
  const side = (label, key) => choice(label, options, String(pair[key]), (v) => { pair[key] = Number(v); compare(); });
  place("compare",
    el("div", { class: "bar" }, side("Text", "a"), side("against", "b")),
    ...kinds().flatMap((kind) => [el("h3", {}, KINDS[kind]), ...differences(kind, a, b)]),
    ...(data.texts.length > 2 ? [el("h3", {}, "All pairs"), matrix()] : []));
}

// Where `a` uses an expert more than `b`, or less; and how far their more used halves agree.
function differences(kind, a, b) {
  const steps = stepsOf(kind);
  const colour = ramp("--diverging");
  const tables = [a, b].map((text) => steps.map((step) => shares(text, step, chosen.measure)));
  const difference = (s, e) => (tables[0][s][e] - tables[1][s][e]) * tables[0][s].length;
  const most = Math.max(...steps.flatMap((_, s) => tables[0][s].map((_, e) => Math.abs(difference(s, e)))), 1e-9);
  const rows = steps.map((step, s) => {
    const ids = tables[0][s].map((_, e) => e);
    if (chosen.sort) ids.sort((x, y) => difference(s, y) - difference(s, x) || x - y);
    return { label: step.layer, cells: ids.map((e) => ({
      colour: colour(0.5 + difference(s, e) / most / 2),
      text: `${step.name} · expert ${e}\n${percent(tables[0][s][e], 1)} of the layer's use in ${title(a)}\n${percent(tables[1][s][e], 1)} in ${title(b)}` })) };
  });
  const caption = `${KINDS[kind]} experts: use in ${title(a)} less that in ${title(b)}`;
  const agreement = steps.map((step) => overlap(a, b, step, chosen.measure));
  const bars = steps.map((step, s) => ({ label: step.layer, value: agreement[s], text: `${step.name}\n${percent(agreement[s])} of the more used half in common` }));
  // Two random halves of E experts share half of them, whatever E.
  const halves = `${KINDS[kind]}: share of the more used half of experts that both texts have in common, by layer`;
  return [el("div", { class: "pair" },
    el("figure", { class: "card" }, el("figcaption", {}, "Difference in use"),
      legend(`more in ${title(b)}`, `more in ${title(a)}`, colour),
      map(caption, rows),
      folded(caption, ["Layer", ...tables[0][0].map((_, e) => `${e}`)],
        () => steps.map((step, s) => [step.name, ...tables[0][s].map((_, e) => percent(tables[0][s][e] - tables[1][s][e], 1))]))),
    el("figure", { class: "card" },
      el("figcaption", {}, "Same experts in the more used half", el("small", {}, ` · ${percent(mean(agreement))} in the mean`)),
      columns(halves, bars, { label: "layer", level: 0.5, pen: pen(0) }),
      keys([], "by chance"),
      folded(halves, ["Layer", "in common"], () => steps.map((step, s) => [step.name, percent(agreement[s])]))))];
}

// Agreement of the more used halves for every two texts, over all steps.
function matrix() {
  const steps = kinds().flatMap(stepsOf);
  // Every expert counts alike, as in what the command prints.
  const half = (s) => Math.ceil(expertsOf(s) / 2);
  const value = (a, b) => sum(steps.map((s) => overlap(a, b, s, chosen.measure) * half(s))) / sum(steps.map(half));
  const rows = data.texts.map((a) => [title(a), ...data.texts.map((b) => (a === b ? "–" : percent(value(a, b))))]);
  return el("div", { class: "card" }, el("p", { class: "caption" }, "Share of the more used half in common", el("small", {}, " · 50 % is chance")),
    table("Share of the more used half in common, every two texts", ["", ...data.texts.map(title)], rows));
}
