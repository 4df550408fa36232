// The page: what is shown, selected and searched, and the words for events, gaps and causes.

const TABS = {
  timeline: "Timeline", memory: "Memory", roofline: "Roofline", operators: "Operators", stalls: "Stalls",
  path: "Critical path", advice: "Advice and figures",
};

const WHY = {
  dispatch: "it was handed over",
  engine: "its engine was busy with",
  port: "the memory port was held by",
  result: "it needed the result of",
  semaphore: "its sequencer waited for",
  queue: "its queue had no room before the start of",
  control: "its sequencer first handed over",
};

class App {
  constructor(profile) {
    this.profile = profile;
    this.program = profile.programs[0];
    this.view = { start: 0, end: 1 };
    this.selected = null;
    this.range = null;
    this.found = null;
    this.tab = "timeline";
    const canvas = (id) => document.getElementById(id);
    this.pictures = {
      timeline: new Timeline(this, canvas("timeline")), memory: new MemoryMap(this, canvas("memory")),
      roofline: new Roofline(this, canvas("roofline")),
    };
    this.table = new OperatorTable(this);
    this.head();
    this.listen();
    if (this.program) this.useProgram(0);
    else this.open("advice");
  }

  head() {
    const { profile } = this, figures = profile.summary;
    const changes = profile.changes.length ? `, what if ${profile.changes.join(", ")}` : "";
    document.getElementById("title").textContent = `${profile.model} on ${profile.target}${changes}`;
    const shown = [
      ["simulated time", timeText(profile.total)], ["roofline", timeText(figures.roofline_time * 1e9)],
      ["MFU", percent(figures.mfu_estimated_percent)], ["MBU", percent(figures.mbu_estimated_percent)],
      ...["tensor", "vector", "scalar", "gpsimd"].map((name) => [name, percent(figures[`${name}_engine_active_time_percent`])]),
      ["DMA", percent(figures.dma_active_time_percent)], ["DRAM read", bytesText(figures.hbm_read_bytes)],
      ["written", bytesText(figures.hbm_write_bytes)],
    ];
    document.getElementById("figures").replaceChildren(
      ...shown.map(([name, text]) => element("div", null, element("span", `${name} `), element("b", text))));
    document.getElementById("figures").title = `assumed, not published: ${profile.assumed.join(", ")}`;
    document.getElementById("tabs").replaceChildren(...Object.entries(TABS).map(([name, text]) => {
      const tab = element("button", text);
      tab.dataset.tab = name;
      tab.setAttribute("role", "tab");
      tab.addEventListener("click", () => this.open(name));
      return tab;
    }));
    const choice = document.getElementById("program");
    choice.replaceChildren(...profile.programs.map((program, number) => {
      const option = element("option", program.launches > 1 ? `${program.name} (${program.launches} times)` : program.name);
      option.value = number;
      return option;
    }));
    document.getElementById("program-label").hidden = profile.programs.length < 2;
  }

  listen() {
    const on = (id, type, action) => document.getElementById(id).addEventListener(type, action);
    on("program", "change", (event) => this.useProgram(Number(event.target.value)));
    on("colour", "change", () => this.recolour());
    on("find", "input", (event) => this.find(event.target.value));
    on("reset", "click", () => this.show(0, this.program.total));
    on("memory-kind", "change", () => this.draw());
    on("roofline-kind", "change", () => this.draw());
    window.addEventListener("resize", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  useProgram(number) {
    this.program = this.profile.programs[number];
    this.clear();
    this.recolour();
    this.find(document.getElementById("find").value);
    drawStalls(this);
    drawPath(this);
    this.show(0, this.program.total);
    this.open(this.tab);
  }

  open(name) {
    this.tab = name;
    for (const tab of document.querySelectorAll("#tabs button")) tab.setAttribute("aria-selected", tab.dataset.tab === name);
    for (const other of Object.keys(TABS)) document.getElementById(`view-${other}`).hidden = other !== name;
    if (name === "operators") this.table.draw();
    if (name === "advice") drawAdvice(this);
    this.draw();
  }

  draw() {
    for (const picture of Object.values(this.pictures)) picture.draw();
  }

  // -- what part of the run is shown

  show(start, end) {
    const total = this.program.total;
    const length = Math.min(total, Math.max(10, end - start));
    start = Math.max(0, Math.min(total - length, start));
    this.view = { start, end: start + length };
    this.draw();
  }

  zoom(factor, at) {
    const { start, end } = this.view;
    this.show(at - (at - start) * factor, at + (end - at) * factor);
  }

  pan(time) {
    this.show(this.view.start + time, this.view.end + time);
  }

  around(start, length) {
    this.show(start - 2 * length, start + 3 * length);
  }

  measure(from, to) {
    this.range = { start: Math.max(0, Math.min(from, to)), end: Math.min(this.program.total, Math.max(from, to)) };
    const { start: begins, length, instruction } = this.program.tables.events;
    const { stream } = this.program.tables.instructions;
    const busy = this.program.streams.map(() => 0);
    for (let event = 0; event < begins.length && begins[event] < this.range.end; event++) {
      const inside = Math.min(this.range.end, begins[event] + length[event]) - Math.max(this.range.start, begins[event]);
      if (inside > 0) busy[stream[instruction[event]]] += inside;
    }
    const whole = this.range.end - this.range.start;
    const shares = busy.map((time, number) => [this.program.streams[number], time]).filter(([, time]) => time > 0);
    this.detail(element("b", `${timeText(whole)} from ${timeText(this.range.start)}`),
      element("p", shares.map(([name, time]) => `${name} ${percent(time / whole)}`).join(", ") || "nothing runs"));
    this.draw();
  }

  // -- colours and search

  recolour() {
    const by = document.getElementById("colour").value;
    const { program } = this;
    const cache = new Map();
    const number = {
      layer: (own, table) => program.layer_of[table.origin[own]],
      operator: (own, table) => table.origin[own],
      opcode: (own, table) => table.opcode[own],
    }[by];
    this.colours = (own, table) => {
      const key = number(own, table);
      if (!cache.has(key)) cache.set(key, colourOf(key));
      return cache.get(key);
    };
    this.draw();
  }

  find(text) {
    const wanted = text.trim().toLowerCase();
    const { origins, opcodes, tables } = this.program;
    this.found = null;
    if (wanted) {
      const named = origins.map((name) => name.toLowerCase().includes(wanted));
      const coded = opcodes.map((name) => name.toLowerCase().includes(wanted));
      const { origin, opcode } = tables.instructions;
      this.found = Uint8Array.from(origin, (own, i) => named[own] || coded[opcode[i]]);
    }
    this.draw();
  }

  search(text) {
    document.getElementById("find").value = text;
    this.find(text);
    this.open("timeline");
  }

  openRow(row) {
    this.search(row.name);
    const offset = this.program.offset;
    const margin = (row.last - row.first) / 20;
    if (row.first >= offset && row.last <= offset + this.program.total + 1) {
      this.show(row.first - offset - margin, row.last - offset + margin);
    }
  }

  // -- words

  label(instruction) {
    const { instructions } = this.program.tables;
    const by = document.getElementById("colour").value;
    const origin = instructions.origin[instruction];
    if (by === "opcode") return this.program.opcodes[instructions.opcode[instruction]];
    return by === "layer" ? this.program.layers[this.program.layer_of[origin]] : this.program.origins[origin];
  }

  eventLines(event) {
    const { program } = this, { events, instructions } = program.tables;
    const own = events.instruction[event];
    const stream = program.streams[instructions.stream[own]];
    const lines = [
      `${program.opcodes[instructions.opcode[own]]} on ${stream}`,
      program.origins[instructions.origin[own]],
      `${timeText(events.length[event])} from ${timeText(events.start[event])}`,
    ];
    if (instructions.bytes[own]) {
      lines.push(`${bytesText(instructions.bytes[own])} in ${instructions.descriptors[own]} descriptors, runs of ${bytesText(instructions.run[own])}`);
    }
    if (instructions.macs[own]) lines.push(`fills ${instructions.rows[own]} rows and ${instructions.columns[own]} columns of the array`);
    if (events.count[event] > 1) lines.push(`${events.count[event]} events, busy for ${timeText(events.busy[event])}`);
    return lines;
  }

  shortName(event) {
    const { program } = this, { events, instructions } = program.tables;
    const own = events.instruction[event];
    const size = instructions.bytes[own] ? ` of ${bytesText(instructions.bytes[own])}` : "";
    const stream = program.streams[instructions.stream[own]];
    return `${program.opcodes[instructions.opcode[own]]}${size} on ${stream} (${program.origins[instructions.origin[own]]})`;
  }

  reasonText(row) {
    const { idle, events, instructions } = this.program.tables;
    const producer = idle.producer[row];
    const reason = this.profile.reasons[idle.reason[row]];
    if (idle.reason[row] !== 0 || producer === NOTHING) return reason;
    return `a result of ${this.profile.streams[idleStream(instructions.stream[events.instruction[producer]])]}`;
  }

  idleText(row) {
    const { idle } = this.program.tables;
    const producer = idle.producer[row];
    const semaphore = idle.semaphore[row];
    const what = semaphore === NOTHING ? this.profile.reasons[idle.reason[row]]
      : `semaphore ${this.program.semaphores[semaphore]} >= ${idle.value[row]}`;
    return producer === NOTHING ? what : `${what}: ${this.shortName(producer)}`;
  }

  gapRows(stream, before) {
    return this.program.gaps.get(`${idleStream(stream)}/${before}`) || [];
  }

  gapLines(stream, before, time) {
    const { idle } = this.program.tables;
    const name = this.profile.streams[idleStream(stream)];
    const rows = this.gapRows(stream, before);
    const own = rows.find((row) => idle.since[row] <= time && time <= idle.since[row] + idle.length[row]);
    if (own === undefined) return [`${name}: ${stream < DMA ? "idle" : "nothing on this ring"}`, timeText(time)];
    return [`${name} idle for ${timeText(idle.length[own])}, waited for`, this.idleText(own)];
  }

  stepAt(time) {
    const { start, kind, event } = this.program.tables.path;
    const step = Math.max(0, firstAbove(start.length, (i) => start[i], time) - 1);
    const end = step + 1 < start.length ? start[step + 1] : this.program.total;
    return { event: event[step], kind: kind[step], start: start[step], end };
  }

  stepLines(time) {
    const step = this.stepAt(time);
    const what = `critical path: ${this.profile.kind_texts[step.kind]} for ${timeText(step.end - step.start)}`;
    return step.event === NOTHING ? [what] : [what, this.shortName(step.event)];
  }

  // -- selection

  tip(pointer, lines) {
    const tip = document.getElementById("tip");
    tip.hidden = !pointer;
    if (!pointer) return;
    tip.replaceChildren(...lines.map((line) => element("div", line)));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(pointer.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(4, Math.min(pointer.clientY + 14, innerHeight - height - 8))}px`;
  }

  detail(...parts) {
    const detail = document.getElementById("detail");
    detail.hidden = !parts.length;
    detail.replaceChildren(...parts);
    this.draw();
  }

  clear() {
    this.selected = this.range = null;
    this.detail();
  }

  select(event) {
    if (event === NOTHING) return;
    this.selected = event;
    const { program } = this, { events, instructions } = program.tables;
    const own = events.instruction[event];
    const [first, ...rest] = this.eventLines(event);
    const engine = program.streams[instructions.queue[own]];
    this.detail(
      element("b", first), ...rest.map((line) => element("div", line)),
      element("div", null, element("code", program.texts[own])),
      element("div", `entry ${instructions.position[own]} of the queue of ${engine}, layer ${program.layers[program.layer_of[instructions.origin[own]]]}`),
      element("b", "Why it did not start earlier"), this.chain(event));
  }

  // The events behind an event's start, one behind the other, as links.
  chain(event) {
    const { why, before } = this.program.tables.events;
    const list = element("ol");
    for (let step = 0; step < 12; step++) {
      const cause = WHY[this.profile.causes[why[event]]];
      if (before[event] === NOTHING || before[event] === event) {
        list.append(element("li", "the run began"));
        break;
      }
      event = before[event];
      const link = element("a", this.shortName(event)), target = event;
      link.addEventListener("click", () => this.goTo(target));
      list.append(element("li", `${cause} `, link));
    }
    return list;
  }

  goTo(event) {
    const { start, length } = this.program.tables.events;
    this.select(event);
    if (start[event] < this.view.start || start[event] > this.view.end) this.around(start[event], Math.max(length[event], 1000));
  }

  explainGap(stream, before, time) {
    const { idle } = this.program.tables;
    const rows = this.gapRows(stream, before);
    const name = this.profile.streams[idleStream(stream)];
    if (!rows.length) return this.detail(element("b", this.gapLines(stream, before, time)[0]));
    const whole = rows.reduce((total, row) => total + idle.length[row], 0);
    const list = element("ol", null, ...rows.map((row) => {
      const item = element("li", `${timeText(idle.length[row])}: ${this.idleText(row)} `);
      const producer = idle.producer[row];
      if (producer !== NOTHING) {
        const link = element("a", "show");
        link.addEventListener("click", () => this.goTo(producer));
        item.append(link);
      }
      return item;
    }));
    this.selected = before === NOTHING ? null : before;
    this.detail(element("b", `${name} had nothing to run for ${timeText(whole)}; it waited for`), list,
      ...(before === NOTHING ? [] : [element("div", `then ran ${this.shortName(before)}`)]));
  }
}

unpack(document.getElementById("data").textContent).then((profile) => {
  window.neuronProfile = new App(profile);
  document.body.dataset.ready = "yes";
}).catch((error) => {
  document.body.dataset.ready = "failed";
  document.getElementById("title").textContent = `This browser cannot show the report: ${error.message}`;
});
