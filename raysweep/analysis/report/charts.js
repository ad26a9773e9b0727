"use strict";
// The charts, drawn with Plotly when they are scrolled near, and again when filters change.
const LAZY = new Map();  // functions that draw a chart, by the id of its element
const DRAWN = new Set();
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layout(more) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    paper_bgcolor: css("--ground"), plot_bgcolor: css("--ground"),
    font: { color: css("--ink"), size: 13, family: "system-ui, sans-serif" },
    margin: { l: 60, r: 16, t: 16, b: 48 }, hoverlabel: { align: "left" },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}
const isNarrow = () => window.innerWidth < 700;
const config = () => ({
  responsive: true, displaylogo: false, displayModeBar: isNarrow() ? false : "hover",
  modeBarButtonsToRemove: ["lasso2d", "select2d"],
});

function draw(id, traces, more, clicked = null) {
  const place = $(id);
  if (!traces.length) { empty(id, "Nothing to draw: no configuration shown here has finished."); return; }
  if (place.firstChild && !place.classList.contains("js-plotly-plot")) place.replaceChildren();
  place.classList.remove("empty");
  Plotly.react(place, traces, layout(more), config());
  place.removeAllListeners?.("plotly_click");
  if (clicked) place.on("plotly_click", (event) => clicked(event.points[0]));
}

function empty(id, text) {
  const place = $(id);
  if (place.classList.contains("js-plotly-plot")) Plotly.purge(place);
  place.classList.add("empty");
  place.replaceChildren(element("p", {}, text));
}

// Learning curves.
function chosenRows() {
  return groups.find((group) => group.key === state.group)?.rows ?? [];
}

function drawCurves() {
  const rows = chosenRows();
  const column = D.curve_columns[state.curve];
  const part = 2 + Object.keys(D.curve_columns).indexOf(state.curve);
  if (!rows.length) { $("curves-note").textContent = ""; empty("curves", "No setting selected."); return; }
  $("curves-title").textContent = `Learning curves: ${textOf(rows[0])}`;
  const stages = new Map();  // where each stage begins on the axis, by its longest run
  for (const row of rows) {
    const curve = D.curves.rows[row];
    if (!curve) continue;
    curve[0].forEach((stage, i) => {
      stages.set(stage, Math.max(stages.get(stage) ?? 0, curve[1][i]));
    });
  }
  const begins = new Map();
  let end = 0;
  for (const stage of [...stages.keys()].sort((a, b) => a - b)) {
    begins.set(stage, end);
    end += stages.get(stage);
  }
  const traces = [];
  const byX = new Map();
  rows.forEach((row, i) => {
    const curve = D.curves.rows[row];
    if (!curve) return;
    const x = curve[0].map((stage, k) => begins.get(stage) + curve[1][k]);
    const y = curve[part];
    const text = curve[0].map((stage, k) => `${plain(D.curves.stages[stage])}, epoch ${curve[1][k]}`);
    x.forEach((at, k) => {
      if (y[k] !== null) byX.set(at, [...(byX.get(at) ?? []), y[k]]);
    });
    traces.push({
      x, y, text, type: "scatter", mode: "lines+markers", name: `seed ${D.seed[row]}`,
      line: { color: COLORS[i % COLORS.length], width: 1.5, dash: ["solid", "dash", "dot"][i % 3] },
      marker: { size: 5, symbol: i % 8 },
      hovertemplate: "%{text}<br>%{y}<extra>%{fullData.name}</extra>",
    });
    const gone = D.diverged[row];
    if (gone) {
      const k = y.reduce((last, v, j) => (v === null ? last : j), -1);
      traces.push({
        x: [x[x.length - 1] ?? 0.5], y: [k < 0 ? 0 : y[k]], mode: "markers+text", type: "scatter",
        text: [`diverged in epoch ${gone[1]}`], textposition: "top left", showlegend: false,
        marker: { symbol: "x", size: 11, color: COLORS[i % COLORS.length] }, cliponaxis: false,
        hovertemplate: `${plain(gone[0])}, epoch ${gone[1]}<extra>seed ${D.seed[row]}</extra>`,
      });
    }
  });
  if (rows.length > 1 && byX.size) {
    const xs = [...byX.keys()].sort((a, b) => a - b);
    const middle = xs.map((x) => mean(byX.get(x)));
    const half = xs.map((x) => spread(byX.get(x))[1] ?? 0);
    traces.unshift({
      x: [...xs, ...[...xs].reverse()],
      y: [...middle.map((m, i) => m + half[i]), ...middle.map((m, i) => m - half[i]).reverse()],
      fill: "toself", type: "scatter", mode: "none", fillcolor: "rgba(128,128,128,.22)",
      name: "95 % interval of the mean", hoverinfo: "skip",
    });
  }
  const bounds = [...begins].filter(([, x]) => x > 0).map(([, x]) => ({
    type: "line", x0: x + 0.5, x1: x + 0.5, yref: "paper", y0: 0, y1: 1,
    line: { color: css("--soft"), width: 1, dash: "dot" },
  }));
  const names = [...begins].map(([stage, x]) => ({
    x: x + 0.5, y: 1, yref: "paper", xanchor: "left", yanchor: "top", showarrow: false,
    text: plain(words(D.curves.stages[stage]).replace("train ", "")), font: { color: css("--soft") },
  }));
  const thin = D.curves.n_each > 1 ? ` Every ${D.curves.n_each}th epoch is drawn.` : "";
  $("curves-note").textContent = D.columns[column].meaning + thin;
  if (!traces.length) { empty("curves", "No epoch of this setting was recorded."); return; }
  draw("curves", traces, {
    xaxis: { title: { text: "epoch, over tasks" }, rangemode: "tozero" },
    yaxis: { title: { text: titled(column) } },
    shapes: bounds, annotations: names,
  });
}

// Heatmap.
function drawHeatmap() {
  const { x, y } = state.heat;
  if (!x || !state.metric) { empty("heatmap-chart", "A heatmap needs two settings that vary."); return; }
  const [xs, ys] = [D.settings[x].levels, D.settings[y].levels];
  const cells = ys.map(() => xs.map(() => []));
  for (const row of shown) cells[D.settings[y].codes[row]][D.settings[x].codes[row]].push(row);
  const values = cells.map((line) => line.map((rows) => mean(finishedValues(rows, state.metric))));
  const gone = cells.map((line) => line.map((rows) => rows.filter((row) => D.status[row] === DIVERGED)));
  const found = values.flat().filter((value) => value !== null);
  const [low, high] = [Math.min(...found), Math.max(...found)];
  const annotations = [];
  const isRoomy = xs.length <= (isNarrow() ? 3 : 12) && ys.length <= 16;
  cells.forEach((line, j) => line.forEach((rows, i) => {
    const value = values[j][i];
    const text = [];
    if (rows.length && isRoomy && value !== null) text.push(show(value, 3));
    if (gone[j][i].length) text.push(isRoomy ? `✕ ${epochsOf(gone[j][i])}` : "✕");
    if (!text.length) return;
    const isBright = value !== null && (value - low) / ((high - low) || 1) > 0.55;
    annotations.push({
      x: i, y: j, text: text.join("<br>"), showarrow: false,
      font: { size: 12, color: value === null ? css("--ink") : isBright ? "#000" : "#fff" },
    });
  }));
  const hover = cells.map((line, j) => line.map((rows, i) => {
    if (!rows.length) return "not run";
    const done = finishedValues(rows, state.metric).length;
    const lines = [
      `${plain(x)} ${plain(xs[i])}, ${plain(y)} ${plain(ys[j])}`,
      `${plain(words(state.metric))} ${show(values[j][i])}`, `${done} of ${rows.length} finished`,
    ];
    if (gone[j][i].length) lines.push(`${gone[j][i].length} diverged: ${epochsOf(gone[j][i], true)}`);
    return lines.join("<br>");
  }));
  const all = cells.map((line, j) => line.map((rows, i) =>
    (rows.length && values[j][i] === null ? 1 : null)));
  const axes = { type: "heatmap", x: xs.map((_, i) => i), y: ys.map((_, j) => j), text: hover,
    hovertemplate: "%{text}<extra></extra>", xgap: 2, ygap: 2 };
  draw("heatmap-chart", [
    { ...axes, z: all, colorscale: [[0, css("--line")], [1, css("--line")]], showscale: false },
    { ...axes, z: values, colorscale: "Cividis", reversescale: false, zmin: low, zmax: high,
      colorbar: { title: { text: titled(state.metric), side: "right" }, thickness: 14 } },
  ], {
    xaxis: { title: { text: plain(x) }, tickvals: xs.map((_, i) => i), ticktext: xs.map(plain),
      showgrid: false, zeroline: false },
    yaxis: { title: { text: plain(y) }, tickvals: ys.map((_, j) => j), ticktext: ys.map(plain),
      showgrid: false, zeroline: false },
    annotations, margin: { l: 60, r: 16, t: 44, b: 48 },
  });
  const rest = NAMES.filter((name) => name !== x && name !== y && !(name in state.only));
  $("heatmap-note").textContent = "Mean of finished configurations" +
    (rest.length ? `, over ${[...rest, "seed"].join(", ")}` : "") +
    ". ✕ marks divergence: how many runs, and in which epoch; grey cells have no value; " +
      "empty cells were not run.";
}

function epochsOf(rows, isLong = false) {
  const epochs = rows.map((row) => D.diverged[row]).filter(Boolean);
  if (!epochs.length) return String(rows.length);
  const numbers = epochs.map((gone) => gone[1]);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const range = low === high ? `${low}` : `${low}–${high}`;
  if (!isLong) return `${rows.length}, ep. ${range}`;
  const stages = [...new Set(epochs.map((gone) => plain(gone[0])))].join(", ");
  return `${stages}, epoch ${range}`;
}

// Trade-off.
function front(points, xLower, yLower) {  // the points that no other beats in both metrics
  const sign = (isLower) => (isLower ? 1 : -1);
  const sorted = [...points].sort((a, b) =>
    sign(xLower) * (a.x - b.x) || sign(yLower) * (a.y - b.y));
  const kept = [];
  let best = Infinity;
  for (const point of sorted) {
    const y = sign(yLower) * point.y;
    const last = kept[kept.length - 1];
    const isTie = last && last.x === point.x && last.y === point.y;
    if (y < best || isTie) { kept.push(point); best = Math.min(best, y); }
  }
  return kept;
}

function scale(metric, values) {  // as in the figures of raysweep.analysis
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return D.columns[metric]?.is_log && low > 0 && D.log_span * low < high ? "log" : "linear";
}

function drawTradeoff() {
  const { x, y, color } = state.trade;
  if (!x || !y) { empty("tradeoff-chart", "A trade-off needs two metrics."); return; }
  const points = groups.map((group) => ({
    group, x: mean(finishedValues(group.rows, x)), y: mean(finishedValues(group.rows, y)),
  })).filter((point) => point.x !== null && point.y !== null);
  const parts = color ? D.settings[color].levels : ["settings"];
  const type = points.length > 1500 ? "scattergl" : "scatter";
  const traces = parts.map((part, i) => {
    const own = points.filter((p) => !color || D.settings[color].codes[p.group.rows[0]] === i);
    return {
      type, mode: "markers", name: plain(part), x: own.map((p) => p.x), y: own.map((p) => p.y),
      customdata: own.map((p) => p.group.key),
      text: own.map((p) => plain(textOf(p.group.rows[0])).replaceAll(", ", "<br>")),
      hovertemplate: `${plain(words(x))} %{x:.4f}<br>${plain(words(y))} %{y:.4f}<br>%{text}<extra></extra>`,
      marker: { color: COLORS[i % COLORS.length], symbol: i % 8, size: 8, opacity: 0.8 },
    };
  }).filter((trace) => trace.x.length);
  const best = front(points, lower(x), lower(y));
  if (best.length) {
    traces.push({
      type, mode: "lines+markers", name: "Pareto front", x: best.map((p) => p.x), y: best.map((p) => p.y),
      line: { color: css("--ink"), width: 1.5, shape: "linear" },
      marker: { symbol: "circle-open", size: 13, color: css("--ink") }, hoverinfo: "skip",
    });
  }
  draw("tradeoff-chart", traces, {
    xaxis: { title: { text: titled(x) }, type: scale(x, points.map((p) => p.x)) },
    yaxis: { title: { text: titled(y) }, type: scale(y, points.map((p) => p.y)) },
    hovermode: "closest",
  }, (point) => {
    if (!point.customdata) return;
    choose(point.customdata);
    $("curves-title").scrollIntoView({ block: "center" });
  });
}

// Parallel coordinates.
function drawParallel() {
  const done = groups.filter((group) => group.mean !== null);
  if (!done.length) { draw("parallel-chart", [], {}); return; }
  const dimensions = NAMES.map((name) => {
    const { levels, codes, null: nullAt } = D.settings[name];
    const every = levels.length > 12 ? Math.ceil(levels.length / 10) : 1;
    const written = levels.map((_, i) => i).filter((i) =>
      i === nullAt || (i % every === 0 && (nullAt === null || nullAt - i >= every)));
    return {
      label: plain(name), values: done.map((group) => codes[group.rows[0]]),
      range: [0, Math.max(1, levels.length - 1)],
      tickvals: written, ticktext: written.map((i) => plain(levels[i])),
    };
  });
  for (const metric of [...new Set([state.trade.x, state.trade.y, state.metric])].filter(Boolean)) {
    const values = done.map((group) => mean(finishedValues(group.rows, metric)));
    if (values.some((value) => value === null)) continue;
    dimensions.push({ label: plain(words(metric)), values });
  }
  const place = $("parallel-chart");
  if (place.firstChild && !place.classList.contains("js-plotly-plot")) place.replaceChildren();
  place.classList.remove("empty");
  place.style.minWidth = `${105 * dimensions.length}px`;
  const font = { color: css("--ink"), size: 12 };
  Plotly.react(place, [{
    type: "parcoords", dimensions, labelfont: font, tickfont: font,
    rangefont: { ...font, color: css("--soft") },
    line: { color: done.map((group) => group.mean), colorscale: "Cividis", showscale: true,
      colorbar: { title: { text: titled(state.metric), side: "right" }, thickness: 14 } },
  }], layout({ margin: { l: 50, r: 20, t: 60, b: 24 } }), config());
}

// Where the time went.
function drawTime() {
  const { stages, hosts, total_s: total, longest_s: longest } = D.time;
  const seconds = (s) => (s >= 3600 ? `${show(s / 3600, 3)} h` : s >= 60 ? `${show(s / 60, 3)} min` : `${show(s, 3)} s`);
  $("time-note").textContent = total === null ? "" :
    `Training took ${seconds(total)} of worker time in total: ${seconds(total / N)} per ` +
      `configuration on average and ${seconds(longest ?? 0)} at most. The time of a shared stage is ` +
      "divided among its configurations; waiting and Ray's own time are not included.";
  const rows = hosts.map(([host, n, s]) => element("tr", {},
    element("td", {}, host), element("td", { class: "number" }, String(n)),
    element("td", { class: "number" }, s === null ? D.null_text : seconds(s))));
  const heads = ["host", "configurations", "training time"].map((text, i) =>
    element("th", { scope: "col", class: i ? "number" : false }, text));
  $("hosts").replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  const known = stages.filter(([, s]) => s);
  if (!known.length) { empty("time-chart", "No stage was trained: all came from the cache."); return; }
  draw("time-chart", [{
    type: "bar", orientation: "h", y: known.map(([stage]) => plain(words(stage))),
    x: known.map(([, s]) => s), marker: { color: COLORS[0] },
    text: known.map(([, s]) => seconds(s)), textposition: "auto",
    hovertemplate: "%{y}: %{x:.1f} s<extra></extra>",
  }], { xaxis: { title: { text: "training seconds" } }, yaxis: { autorange: "reversed" } });
}

function redrawCharts() {
  for (const [id, drawIt] of LAZY) if (DRAWN.has(id)) drawIt();
}

function buildCharts() {
  const pick = (wanted, fallback) => (wanted.find((name) => fallback.includes(name)) ?? fallback[0]);
  const curves = Object.keys(D.curve_columns);
  $("curve-choices").append(chooser("Curve", "curve", curves, state.curve, (value) => {
    state.curve = value; drawCurves();
  }, Object.values(D.curve_columns).map(words)));
  const varied = NAMES.filter((name) => D.settings[name].levels.length > 1);
  if (varied.length > 1) {
    state.heat.x = pick(["beta_1", "lr"], varied);
    state.heat.y = pick(["beta_2", "replay_weight"], varied.filter((name) => name !== state.heat.x));
    for (const axis of ["x", "y"]) {
      $("heatmap-choices").append(chooser(`${axis} axis`, `heat-${axis}`, varied,
        state.heat[axis], (value) => { state.heat[axis] = value; drawHeatmap(); }));
    }
  }
  if (METRICS.length > 1) {
    state.trade.x = pick(["forgetting", "duration_s"], METRICS);
    state.trade.y = pick(["average_accuracy", "last_task_accuracy"], METRICS.filter((name) => name !== state.trade.x));
    state.trade.color = pick(["replay", "model", "sweep"], varied) ?? "";
    for (const axis of ["x", "y"]) {
      $("tradeoff-choices").append(chooser(`${axis} axis`, `trade-${axis}`, METRICS,
        state.trade[axis], (value) => { state.trade[axis] = value; drawTradeoff(); }, METRICS.map(words)));
    }
    $("tradeoff-choices").append(chooser("Colour", "trade-color", ["", ...varied], state.trade.color,
      (value) => { state.trade.color = value; drawTradeoff(); }, ["none", ...varied]));
  }
  LAZY.set("heatmap-chart", drawHeatmap);
  LAZY.set("tradeoff-chart", drawTradeoff);
  LAZY.set("parallel-chart", drawParallel);
  LAZY.set("time-chart", drawTime);
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !DRAWN.has(target.id)) {
        DRAWN.add(target.id);
        LAZY.get(target.id)();
      }
    }
  }, { rootMargin: "300px" });
  for (const id of LAZY.keys()) watcher.observe($(id));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawCurves(); redrawCharts();
  });
}

start();
