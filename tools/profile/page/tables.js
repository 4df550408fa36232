// Tables: operators and layers, stalls, the critical path, advice, all figures.

function fillTable(table, heads, rows) {
  const head = element("tr", null, ...heads.map((text) => element("th", text)));
  const body = rows.map((cells) => {
    const row = element("tr", null, ...cells.cells.map((cell) => element("td", null, cell)));
    if (cells.open) {
      row.className = "link";
      row.addEventListener("click", cells.open);
    }
    return row;
  });
  table.replaceChildren(element("thead", null, head), element("tbody", null, ...body));
  for (const place of heads.keys()) {
    if (["operator", "what", "waited for", "explanation", "figure"].includes(heads[place])) {
      for (const row of table.rows) row.cells[place].className = "text";
    }
  }
}

function shareCell(share) {
  const bar = element("span");
  bar.className = "share";
  bar.style.width = `${Math.round(80 * Math.min(1, share))}px`;
  return element("span", percent(share), bar);
}

const COLUMNS = [
  ["operator", (row) => row.name, (row) => row.name],
  ["critical", (row) => row.critical, (row) => timeText(row.critical)],
  ["share", (row) => row.critical, (row, total) => shareCell(row.critical / total)],
  ["active", (row) => row.active, (row) => timeText(row.active)],
  ["busiest", (row) => row.bound, (row) => row.bound],
  ["tensor", (row) => row.busy[0], (row) => timeText(row.busy[0])],
  ["vector", (row) => row.busy[1], (row) => timeText(row.busy[1])],
  ["scalar", (row) => row.busy[2], (row) => timeText(row.busy[2])],
  ["gpsimd", (row) => row.busy[3], (row) => timeText(row.busy[3])],
  ["dma", (row) => row.busy[5], (row) => timeText(row.busy[5])],
  ["FLOPs", (row) => row.flops, (row) => countText(row.flops)],
  ["DRAM", (row) => row.bytes, (row) => bytesText(row.bytes)],
  ["instructions", (row) => row.instructions, (row) => row.instructions],
  ["transfers", (row) => row.transfers, (row) => row.transfers],
];

class OperatorTable {
  constructor(app) {
    this.app = app;
    this.order = { column: 1, down: true };
    document.getElementById("operators").addEventListener("click", (event) => {
      const head = event.target.closest("th");
      if (!head) return;
      this.order = { column: head.cellIndex, down: this.order.column === head.cellIndex ? !this.order.down : head.cellIndex > 0 };
      this.draw();
    });
    for (const id of ["table-kind", "filter"]) document.getElementById(id).addEventListener("input", () => this.draw());
  }

  draw() {
    const { profile } = this.app;
    const wanted = document.getElementById("filter").value.toLowerCase();
    const value = COLUMNS[this.order.column][1];
    const rows = profile.rows[document.getElementById("table-kind").value]
      .filter((row) => row.name.toLowerCase().includes(wanted))
      .sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (this.order.down ? -1 : 1));
    fillTable(document.getElementById("operators"), COLUMNS.map(([name]) => name), rows.map((row) => ({
      cells: COLUMNS.map(([, , text]) => text(row, profile.total)),
      open: () => this.app.openRow(row),
    })));
  }
}

function drawStalls(app) {
  const { program, profile } = app;
  const idle = program.tables.idle;
  const totals = new Map();
  for (let row = 0; row < idle.since.length; row++) {
    const key = JSON.stringify([profile.streams[idle.stream[row]], app.reasonText(row)]);
    totals.set(key, (totals.get(key) || 0) + idle.length[row]);
  }
  const sorted = [...totals].sort((a, b) => b[1] - a[1]);
  fillTable(document.getElementById("stall-totals"), ["engine", "waited for", "time", "share of the run"],
    sorted.map(([key, ns]) => ({ cells: [...JSON.parse(key), timeText(ns), shareCell(ns / program.total)] })));
  const rows = [...idle.since.keys()].filter((row) => idle.event[row] >= 0)
    .sort((a, b) => idle.length[b] - idle.length[a]).slice(0, 200);
  fillTable(document.getElementById("stall-gaps"), ["engine", "at", "time", "explanation"], rows.map((row) => ({
    cells: [profile.streams[idle.stream[row]], timeText(idle.since[row]), timeText(idle.length[row]), app.idleText(row)],
    open: () => {
      app.open("timeline");
      app.around(idle.since[row], idle.length[row]);
      app.explainGap(idle.stream[row], idle.event[row], idle.since[row]);
    },
  })));
}

function drawPath(app) {
  const { program, profile } = app;
  const { path, events, instructions } = program.tables;
  const kinds = new Map(), operators = new Map();
  for (let step = 0; step < path.start.length; step++) {
    const end = step + 1 < path.start.length ? path.start[step + 1] : program.total;
    const length = end - path.start[step];
    const own = path.event[step] === NOTHING ? NOTHING : events.instruction[path.event[step]];
    const stream = own === NOTHING ? "" : profile.streams[idleStream(instructions.stream[own])];
    const kind = profile.kinds[path.kind[step]];
    const key = kind === "execute" ? `${stream} executes` : profile.kind_texts[path.kind[step]];
    kinds.set(key, (kinds.get(key) || 0) + length);
    if (own !== NOTHING) {
      const origin = instructions.origin[own];
      operators.set(origin, (operators.get(origin) || 0) + length);
    }
  }
  const sorted = (totals) => [...totals].sort((a, b) => b[1] - a[1]);
  fillTable(document.getElementById("path-kinds"), ["what", "time", "share"],
    sorted(kinds).map(([key, ns]) => ({ cells: [key, timeText(ns), shareCell(ns / program.total)] })));
  fillTable(document.getElementById("path-operators"), ["operator", "time", "share"],
    sorted(operators).slice(0, 300).map(([origin, ns]) => ({
      cells: [program.origins[origin], timeText(ns), shareCell(ns / program.total)],
      open: () => app.search(program.origins[origin]),
    })));
}

function drawAdvice(app) {
  const { profile } = app;
  const blocks = profile.advice.map((advice) => {
    const isShare = Math.max(advice.value, advice.threshold) <= 1;
    const value = (number) => (isShare ? percent(number) : countText(number));
    const side = advice.above ? "above" : "below";
    const whose = advice.documented ? "Neuron Explorer's threshold" : "this toolkit's threshold";
    const block = element("div", null,
      element("p", null, element("b", advice.rule), ` ${advice.text}`),
      element("p", advice.help),
      element("p", `${advice.figure}: ${value(advice.value)}, ${side} ${value(advice.threshold)} (${whose})`
        + (advice.saving ? `; at most ${timeText(advice.saving)} of the critical path` : "")));
    block.className = "advice";
    return block;
  });
  const none = element("p", `None of the ${profile.rules} rules applies.`);
  document.getElementById("advice").replaceChildren(...(blocks.length ? blocks : [none]));
  fillTable(document.getElementById("summary"), ["figure", "value"],
    Object.entries(profile.summary).map(([name, number]) => ({ cells: [name, String(number)] })));
}
