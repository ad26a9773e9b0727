// Runs the report's scripts without a browser, in as much of a DOM as they need, and prints what
// table, filters and charts show as JSON: node report_dom.js REPORT.html
const fs = require("fs");
const html = fs.readFileSync(process.argv[2], "utf8");
const scripts = [...html.matchAll(/<script([^>]*)>([\s\S]*?)<\/script>/g)];
const data = scripts.find(([, attributes]) => attributes.includes('id="data"'))[2];
const own = scripts[scripts.length - 1][2];

class Element {
  constructor(id) {
    Object.assign(this, { id, children: [], style: {}, dataset: {}, attributes: {}, text: null });
    this.classList = { add() {}, remove() {}, contains: () => false };
  }
  setAttribute(name, value) { this.attributes[name] = value; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  addEventListener() {}
  on() {}
  get rows() { return this.children; }
  get firstChild() { return this.children[0]; }
  get tHead() { return (this.head ??= new Element()); }
  get tBodies() { return [(this.body ??= new Element())]; }
  set textContent(text) { this.text = text; }
  get textContent() { return this.text ?? this.children.map((c) => c.textContent ?? String(c)).join(""); }
}

const byId = {};
const charts = {};
globalThis.document = {
  documentElement: new Element(), createElement: () => new Element(),
  getElementById: (id) => (byId[id] ??= new Element(id)),
};
document.getElementById("data").textContent = data;
globalThis.window = { innerWidth: 1366 };
globalThis.getComputedStyle = () => ({ getPropertyValue: () => "#000" });
globalThis.matchMedia = () => ({ addEventListener() {} });
globalThis.IntersectionObserver = class {
  constructor(seen) { this.seen = seen; }
  observe(target) { this.seen([{ target, isIntersecting: true }]); }
};
globalThis.Plotly = { react: (place, traces, layout) => { charts[place.id] = { traces, layout }; } };

const cells = (row) => row.children.map((cell) => cell.textContent);
function look(state, drawBoard) {
  const sorted = (isDescending) => {
    Object.assign(state, { sort: "s-beta_1", descending: isDescending });
    drawBoard();
    return byId.board.body.children.map(cells);
  };
  const heatmap = charts["heatmap-chart"];
  return {
    head: byId.board.head.children[0].children.map((cell) => cell.textContent),
    classes: byId.board.head.children[0].children.map((cell) => cell.attributes.class ?? ""),
    rising: sorted(false), falling: sorted(true),
    filters: Object.fromEntries(byId.filters.children.map(({ children: [name, select] }) =>
      [name, select.children.map((option) => option.textContent)])),
    parallel: Object.fromEntries(charts["parallel-chart"].traces[0].dimensions.map((d) => [d.label, d.ticktext])),
    heatmap: { x: heatmap.layout.xaxis.ticktext, values: heatmap.traces[1].z },
  };
}
const run = new Function(`${own}\nreturn [state, drawBoard];`);
console.log(JSON.stringify(look(...run())));
