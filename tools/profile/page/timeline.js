// The engine timeline: a row for each engine and DMA ring, the critical path, and counters below them.

const ROW = 16;
const SERIES_ROW = 40;
const SERIES = [
  ["sbuf", "SBUF", (program) => program.sbuf_bytes * program.partitions, bytesText],
  ["psum", "PSUM", (program) => program.psum_bytes * program.partitions, bytesText],
  ["read", "DRAM read", (_, profile) => profile.dram_bytes_per_ns, (rate) => `${rate.toFixed(1)} GB/s`],
  ["write", "DRAM write", (_, profile) => profile.dram_bytes_per_ns, (rate) => `${rate.toFixed(1)} GB/s`],
];

class Timeline extends TimePicture {
  // Rows from top to bottom, each with its place.
  layout() {
    const program = this.app.program;
    const rows = [];
    let y = RULER + 4;
    for (const lane of program.lanes) {
      if (lane.name && rows.length) y += 4;
      rows.push({ ...lane, kind: "events", y, height: lane.stream < DMA ? ROW + 4 : ROW - 4 });
      y += rows.at(-1).height + 1;
    }
    y += 8;
    rows.push({ kind: "path", name: "critical path", y, height: ROW });
    y += ROW + 8;
    for (const [key, name, limit, text] of SERIES) {
      rows.push({ kind: "series", key, name, limit: limit(program, this.app.profile), text, y, height: SERIES_ROW });
      y += SERIES_ROW + 6;
    }
    return rows;
  }

  paint(context) {
    this.rows = this.layout();
    this.ruler(context);
    for (const row of this.rows) {
      context.fillStyle = style("--text");
      context.fillText(row.name, 4, row.y + row.height / 2, LABELS - 8);
      context.fillStyle = style("--idle");
      context.fillRect(LABELS, row.y, this.width - LABELS, row.height);
      if (row.kind === "events") this.paintEvents(context, row);
      else if (row.kind === "path") this.paintPath(context, row);
      else this.paintSeries(context, row);
    }
    this.paintSelection(context);
    this.measured(context);
  }

  paintEvents(context, row) {
    const { events, instructions } = this.app.program.tables;
    const { start, length, instruction } = events;
    const { end } = this.app.view;
    const colours = this.app.colours, found = this.app.found;
    let used = null, column = -1, alpha = 1;
    const first = firstAbove(row.events.length, (i) => start[row.events[i]] + length[row.events[i]], this.app.view.start);
    for (let i = first; i < row.events.length; i++) {
      const event = row.events[i];
      if (start[event] > end) break;
      const wide = length[event] * this.scale >= 1;
      const pixel = Math.floor(this.x(start[event]));
      if (!wide && pixel === column) continue; // drawn over by its neighbour
      column = wide ? -1 : pixel;
      const own = instruction[event];
      const shown = !found || found[own] ? 1 : 0.12;
      if (shown !== alpha) context.globalAlpha = alpha = shown;
      const colour = colours(own, instructions);
      if (colour !== used) context.fillStyle = used = colour;
      this.block(context, start[event], length[event], row.y, row.height);
      this.label(context, event, row);
      if (wide && length[event] * this.scale > 60) used = null;
    }
    context.globalAlpha = 1;
  }

  label(context, event, row) {
    const { start, length, instruction } = this.app.program.tables.events;
    const left = Math.max(LABELS, this.x(start[event])), right = Math.min(this.width, this.x(start[event] + length[event]));
    if (right - left < 60 || row.height < 12) return;
    context.fillStyle = "#10151d";
    context.save();
    context.beginPath();
    context.rect(left, row.y, right - left - 3, row.height);
    context.clip();
    context.fillText(this.app.label(instruction[event]), left + 3, row.y + row.height / 2);
    context.restore();
  }

  paintPath(context, row) {
    const { start, kind } = this.app.program.tables.path;
    const { view, program, profile } = this.app;
    const execute = profile.kinds.indexOf("execute");
    const first = Math.max(0, firstAbove(start.length, (i) => start[i], view.start) - 1);
    let column = -1;
    for (let i = first; i < start.length && start[i] <= view.end; i++) {
      const end = i + 1 < start.length ? start[i + 1] : program.total;
      const pixel = Math.floor(this.x(start[i]));
      if ((end - start[i]) * this.scale < 1 && pixel === column) continue;
      column = pixel;
      context.fillStyle = kind[i] === execute ? style("--critical") : style("--soft");
      const height = kind[i] === execute ? row.height : row.height / 2;
      this.block(context, start[i], end - start[i], row.y + row.height - height, height);
    }
  }

  paintSeries(context, row) {
    const values = this.app.program.tables.series[row.key];
    const width = this.app.program.total / values.length;
    context.fillStyle = style("--mark");
    for (let x = LABELS; x < this.width; x++) {
      const from = Math.max(0, Math.floor(this.time(x) / width)), to = Math.floor(this.time(x + 1) / width);
      let value = 0;
      for (let i = from; i <= to && i < values.length; i++) value = Math.max(value, values[i]);
      const height = Math.min(1, value / row.limit) * row.height;
      context.fillRect(x, row.y + row.height - height, 1, height);
    }
  }

  paintSelection(context) {
    const event = this.app.selected;
    if (event === null) return;
    const { start, length } = this.app.program.tables.events;
    const row = this.rows.find((candidate) => candidate.kind === "events" && candidate.events.includes(event));
    if (!row) return;
    context.strokeStyle = style("--text");
    context.lineWidth = 2;
    const x = this.x(start[event]);
    context.strokeRect(x, row.y, Math.max(2, length[event] * this.scale), row.height);
  }

  // What lies under the pointer: {row, event}, {row, after} for a gap, or null.
  at(event) {
    const rect = this.canvas.getBoundingClientRect();
    const x = event.clientX - rect.left, y = event.clientY - rect.top;
    const row = (this.rows || []).find((candidate) => y >= candidate.y && y < candidate.y + candidate.height);
    if (!row || x < LABELS) return null;
    const time = this.time(x), slack = 1 / this.scale;
    if (row.kind !== "events") return { row, time };
    const { start, length } = this.app.program.tables.events;
    const next = firstAbove(row.events.length, (i) => start[row.events[i]], time);
    for (const i of [next - 1, next]) {
      const candidate = row.events[i];
      if (candidate === undefined) continue;
      if (start[candidate] <= time + slack && time <= start[candidate] + length[candidate] + slack / 2) {
        return { row, time, event: candidate };
      }
    }
    return { row, time, before: next < row.events.length ? row.events[next] : NOTHING };
  }

  hover(event) {
    if (this.drag(event)) return;
    const place = this.at(event);
    if (!place) return this.app.tip(null);
    if (place.event !== undefined) return this.app.tip(event, this.app.eventLines(place.event));
    if (place.row.kind === "events") return this.app.tip(event, this.app.gapLines(place.row.stream, place.before, place.time));
    if (place.row.kind === "path") return this.app.tip(event, this.app.stepLines(place.time));
    const values = this.app.program.tables.series[place.row.key];
    const value = values[Math.min(values.length - 1, Math.max(0, Math.floor(place.time / this.app.program.total * values.length)))];
    this.app.tip(event, [`${place.row.name}: ${place.row.text(value)}`, `of ${place.row.text(place.row.limit)}`, timeText(place.time)]);
  }

  click(event) {
    const place = this.at(event);
    if (!place) return this.app.clear();
    if (place.event !== undefined) return this.app.select(place.event);
    if (place.row.kind === "events") this.app.explainGap(place.row.stream, place.before, place.time);
    else if (place.row.kind === "path") this.app.select(this.app.stepAt(place.time).event);
  }
}
