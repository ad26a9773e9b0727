"use strict";
// The page's data: rows of `trials` as columns. Text from sweeps becomes only text nodes, or passes
// through `plain` where Plotly would interpret markup.
const D = JSON.parse(document.getElementById("data").textContent);
const N = D.ids.length;
const NAMES = Object.keys(D.settings);
const METRICS = Object.keys(D.metrics);
const COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999"];
const PER_PAGE = 20;
const $ = (id) => document.getElementById(id);
const words = (name) => D.columns[name]?.label ?? name.replaceAll("_", " ");
const titled = (name) => words(name) + (D.columns[name]?.unit ? ` (${D.columns[name].unit})` : "");
const plain = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const show = (value, digits = 4) =>
  value === null || value === undefined || Number.isNaN(value) ? D.null_text
    : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
      ? value.toExponential(2) : Number(value.toPrecision(digits)).toString();
const lower = (metric) => D.columns[metric]?.is_lower_better ?? false;
const { FINISHED, DIVERGED } = D.status_codes;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function chooser(title, id, options, chosen, changed, texts = options) {
  const select = element("select", { id });
  options.forEach((option, i) => {
    select.append(element("option", { value: option, selected: option === chosen }, texts[i]));
  });
  select.addEventListener("change", () => changed(select.value));
  return element("label", { for: id }, title, select);
}

// State, and what derives from it.
const state = {
  metric: METRICS.includes(D.metric) ? D.metric : METRICS[0] ?? null,
  only: {}, status: "", text: "", sort: null, descending: false, page: 0, group: null,
  curve: "accuracy", heat: {}, trade: {},
};
const KEYS = new Array(N);  // the setting of each row
const TEXTS = new Map();
for (let row = 0; row < N; row++) {
  KEYS[row] = NAMES.map((name) => D.settings[name].codes[row]).join("/");
}
const level = (name, row) => D.settings[name].levels[D.settings[name].codes[row]];

// Index of a row's value among a setting's values; null if the setting does not apply to the row.
const placeOf = (name, row) => {
  const { codes, null: nullAt } = D.settings[name];
  return codes[row] === nullAt ? null : codes[row];
};

function textOf(row) {
  return NAMES.map((name) => `${name} ${level(name, row)}`).join(", ");
}

function rowsShown() {
  const wanted = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [];
  for (let row = 0; row < N; row++) {
    if (state.status !== "" && D.status[row] !== Number(state.status)) continue;
    if (!NAMES.every((n) => !(n in state.only) || D.settings[n].codes[row] === state.only[n])) continue;
    if (wanted.length) {
      if (!TEXTS.has(row)) {
        const more = `${D.ids[row]} ${D.statuses[D.status[row]]} ${D.errors[row] ?? ""}`;
        TEXTS.set(row, `${textOf(row)} ${more}`.toLowerCase());
      }
      if (!wanted.every((word) => TEXTS.get(row).includes(word))) continue;
    }
    rows.push(row);
  }
  return rows;
}

function mean(values) {
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
}

function spread(values) {  // sd, and the half-width of Student's 95 % interval
  if (values.length < 2) return [null, null];
  const middle = mean(values);
  const sd = Math.sqrt(mean(values.map((v) => (v - middle) ** 2)) * values.length / (values.length - 1));
  return [sd, sd * D.half_width[values.length]];
}

function finishedValues(rows, metric) {
  const column = D.metrics[metric];
  return rows.filter((row) => D.status[row] === FINISHED && column[row] !== null).map((row) => column[row]);
}

function groupsOf(rows) {  // settings with their rows, best first, as in raysweep's leaderboard
  const byKey = new Map();
  for (const row of rows) {
    if (!byKey.has(KEYS[row])) byKey.set(KEYS[row], []);
    byKey.get(KEYS[row]).push(row);
  }
  const groups = [...byKey].map(([key, own]) => {
    const values = state.metric ? finishedValues(own, state.metric) : [];
    const [sd, ci] = spread(values);
    return {
      key, rows: own, mean: mean(values), sd, ci, n: values.length,
      diverged: own.filter((row) => D.status[row] === DIVERGED).length,
    };
  });
  const sign = lower(state.metric) ? 1 : -1;
  groups.sort((a, b) => b.n - a.n || (a.mean === null ? 0 : sign * (a.mean - b.mean)));
  groups.forEach((group, i) => { group.rank = i + 1; });
  return groups;
}

let shown = [];
let groups = [];

// Filters.
function buildFilters() {
  const form = $("filters");
  if (METRICS.length) {
    form.append(chooser("Metric", "metric", METRICS, state.metric, (value) => {
      state.metric = value; refresh();
    }, METRICS.map(words)));
  }
  const present = D.statuses.map((_, i) => i).filter((i) => D.status.includes(i));
  form.append(chooser("Status", "status", ["", ...present.map(String)], "", (value) => {
    state.status = value; refresh();
  }, ["all", ...present.map((i) => D.statuses[i])]));
  for (const name of NAMES) {
    const { levels } = D.settings[name];
    const label = chooser(name, `only-${name}`, ["", ...levels.map((_, i) => String(i))], "",
      (value) => {
        if (value === "") delete state.only[name]; else state.only[name] = Number(value);
        refresh();
      }, ["all", ...levels]);
    if (D.columns[name]) label.title = D.columns[name].meaning;
    form.append(label);
  }
  const search = element("input", { id: "text", type: "search", placeholder: "words, an id, an error" });
  search.addEventListener("input", () => { state.text = search.value; refresh(); });
  form.append(element("label", { for: "text" }, "Search", search));
}

// Leaderboard.
const COLUMNS = [
  ["rank", "#", (g) => g.rank, true], ["mean", null, (g) => g.mean, true],
  ["ci", "± 95 %", (g) => g.ci, true], ["sd", "sd", (g) => g.sd, true],
  ["n", "seeds", (g) => g.n, true], ["diverged", "diverged", (g) => g.diverged, true],
  ...NAMES.map((name) => [
    `s-${name}`, name,
    (g) => placeOf(name, g.rows[0]), D.settings[name].is_number,
  ]),
];

function sortedGroups() {
  if (state.sort === null) return groups;
  const value = COLUMNS.find(([id]) => id === state.sort)[2];
  const sign = state.descending ? -1 : 1;
  return [...groups].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y) || a.rank - b.rank;
  });
}

function drawBoard() {
  const head = element("tr");
  for (const [id, title, , isNumber] of COLUMNS) {
    const isSorted = state.sort === id;
    const arrow = isSorted ? (state.descending ? " ▼" : " ▲") : "";
    const text = (title ?? words(state.metric ?? "mean")) + arrow;
    const button = element("button", {
      type: "button", onclick: () => {
        if (state.sort === id) state.descending = !state.descending;
        else {
          state.sort = id;
          state.descending = id === "mean" && !lower(state.metric);
        }
        state.page = 0; drawBoard();
        $("board").querySelector(`[data-column="${CSS.escape(id)}"] button`).focus();
      },
    }, text);
    const order = isSorted ? (state.descending ? "descending" : "ascending") : "none";
    head.append(element("th", {
      scope: "col", "aria-sort": order, "data-column": id, class: isNumber ? "number" : false,
    }, button));
  }
  $("board").tHead.replaceChildren(head);
  const all = sortedGroups();
  const nPages = Math.max(1, Math.ceil(all.length / PER_PAGE));
  state.page = Math.min(state.page, nPages - 1);
  const body = all.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE).map((group) => {
    const cells = COLUMNS.map(([id, , value, isNumber]) => {
      const row = group.rows[0];
      let text;
      if (id === "rank") text = element("button", { type: "button" }, String(group.rank));
      else if (id === "n") text = `${group.n}/${group.rows.length}`;
      else if (id === "diverged") text = String(group.diverged);
      else if (id.startsWith("s-")) text = level(id.slice(2), row);
      else if (id === "ci" || id === "sd") text = show(value(group), 2);
      else text = show(value(group));
      return element("td", { class: isNumber ? "number" : false }, text);
    });
    return element("tr", {
      "aria-selected": String(group.key === state.group), "data-key": group.key,
      onclick: () => { choose(group.key); },
    }, ...cells);
  });
  $("board").tBodies[0].replaceChildren(...body);
  $("page").textContent = `page ${state.page + 1} of ${nPages} · ${all.length} settings`;
  $("previous").disabled = state.page === 0;
  $("next").disabled = state.page === nPages - 1;
}

function choose(key) {
  state.group = key;
  for (const row of $("board").tBodies[0].rows) {
    row.setAttribute("aria-selected", String(row.dataset.key === key));
  }
  drawCurves();
}

function refresh() {
  shown = rowsShown();
  groups = groupsOf(shown);
  const nSettings = groups.length;
  $("shown").textContent =
    `${shown.length} of ${N} configurations in ${nSettings} setting${nSettings === 1 ? "" : "s"}`;
  if (!groups.some((group) => group.key === state.group)) state.group = groups[0]?.key ?? null;
  state.page = 0;
  drawBoard();
  drawCurves();
  redrawCharts();
}

function buildHead() {
  $("title").textContent = D.title;
  const times = D.sweeps.flatMap((sweep) => sweep.times).filter(Boolean).sort();
  const parts = [`${N} configurations`];
  if (times.length) parts.push(`trained ${times[0].slice(0, 16).replace("T", " ")} to ` +
    `${times[times.length - 1].slice(0, 16).replace("T", " ")} UTC`);
  parts.push(`report made ${D.made}`);
  $("subtitle").textContent = parts.join(" · ");
  D.statuses.forEach((status, i) => {
    const n = D.status.filter((other) => other === i).length;
    if (n) $("counts").append(element("li", { class: status }, `${n} ${status}`));
  });
}

function buildImages() {
  const { images, why_not: whyNot } = D.samples;
  for (const image of images) {
    const alt = `Replayed and reconstructed images: ${image.text}`;
    $("images").append(element("figure", {},
      element("figcaption", {}, `${image.text} (${image.id})`),
      element("img", { src: `data:image/png;base64,${image.png}`, alt, loading: "lazy" })));
  }
  if (whyNot) $("images").append(element("p", { class: "note" }, `No images: ${whyNot}`));
}

function buildOrigins() {
  for (const sweep of D.sweeps) {
    const origins = $("origins");
    const counts = Object.entries(sweep.counts).filter(([, n]) => n).map(([s, n]) => `${n} ${s}`);
    origins.append(element("h3", {}, sweep.name));
    const last = sweep.runs[sweep.runs.length - 1];
    if (last) {
      origins.append(element("p", {}, "Run it again:"),
        element("pre", { tabindex: "0", class: "command" }, last.command));
    }
    const list = element("dl");
    const add = (name, text) => text && list.append(element("dt", {}, name), element("dd", {}, text));
    add("folder", sweep.place);
    add("configurations", counts.join(", "));
    add("devices", sweep.devices.join(", "));
    sweep.runs.forEach((run, i) => {
      const end = run.end ? `to ${run.end}` : "with no end recorded: still running, or killed";
      const ended = Object.entries(run.counts ?? {}).map(([s, n]) => `${n} ${s}`).join(", ");
      add(`run ${i + 1}`, `${run.start} ${end}${ended ? ` · ${ended}` : ""} · on ${run.driver}`);
    });
    if (last) {
      const git = last.git?.commit ? last.git.commit + (last.git.is_dirty ? " with changes" : "") : "";
      add("commit", git);
      add("versions", Object.entries(last.versions ?? {}).map(([n, v]) => `${n} ${v}`).join(", "));
    }
    origins.append(list);
    if (sweep.resolved) {
      origins.append(element("details", {}, element("summary", {}, "Search space with all defaults"),
        element("pre", { tabindex: "0" }, sweep.resolved)));
    }
  }
  $("footer").textContent = `Made by raysweep on ${D.made}. This file works offline.`;
}

function start() {
  buildHead();
  buildFilters();
  buildImages();
  buildOrigins();
  $("previous").addEventListener("click", () => { state.page -= 1; drawBoard(); });
  $("next").addEventListener("click", () => { state.page += 1; drawBoard(); });
  buildCharts();
  refresh();
  document.documentElement.dataset.ready = "yes";
}
