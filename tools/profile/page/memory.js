// The memory map: addresses of one partition upwards, time to the right, a rectangle for each value.

class MemoryMap extends TimePicture {
  get values() {
    return this.app.program.tables[this.kind];
  }

  get kind() {
    return document.getElementById("memory-kind").value;
  }

  get size() {
    return this.app.program[`${this.kind}_bytes`];
  }

  y(address) {
    return this.height - 4 - address / this.size * (this.height - RULER - 8);
  }

  paint(context) {
    const { since, length, low, high, event } = this.values;
    const { view, program } = this.app;
    this.ruler(context);
    context.fillStyle = style("--soft");
    for (let part = 0; part <= 4; part++) {
      const address = this.size * part / 4;
      context.fillText(bytesText(address), 4, Math.min(this.height - 8, Math.max(RULER + 6, this.y(address))), LABELS - 8);
    }
    const { instruction } = program.tables.events;
    const colours = this.app.colours;
    for (let i = 0; i < since.length; i++) {
      if (since[i] > view.end || since[i] + length[i] < view.start) continue;
      const own = instruction[event[i]];
      context.fillStyle = colours(own, program.tables.instructions);
      context.globalAlpha = this.app.found && !this.app.found[own] ? 0.1 : 0.85;
      const top = this.y(high[i]);
      this.block(context, since[i], length[i], top, Math.max(1, this.y(low[i]) - top));
    }
    context.globalAlpha = 1;
    this.measured(context);
  }

  // The value under the pointer that was written last, or NOTHING.
  at(event) {
    const rect = this.canvas.getBoundingClientRect();
    const time = this.time(event.clientX - rect.left);
    const address = (this.height - 4 - (event.clientY - rect.top)) / (this.height - RULER - 8) * this.size;
    const { since, length, low, high } = this.values;
    for (let i = since.length - 1; i >= 0; i--) {
      if (since[i] <= time && time <= since[i] + length[i] && low[i] <= address && address < high[i]) return i;
    }
    return NOTHING;
  }

  hover(event) {
    if (this.drag(event)) return;
    const value = this.at(event);
    if (value === NOTHING) return this.app.tip(null);
    const { since, length, low, high, first, partitions, reads, event: writers } = this.values;
    this.app.tip(event, [
      `bytes ${low[value]} to ${high[value] - 1} of ${partitions[value]} partitions from ${first[value]}`,
      `lives for ${timeText(length[value])} from ${timeText(since[value])}, read ${reads[value]} times`,
      ...this.app.eventLines(writers[value]).map((line, i) => (i ? line : `written by ${line}`)),
    ]);
  }

  click(event) {
    const value = this.at(event);
    if (value !== NOTHING) this.app.select(this.values.event[value]);
  }
}
