// The roofline: what the machine allows at an arithmetic intensity, and where each layer or operator lies below it.

class Roofline extends Picture {
  constructor(app, canvas) {
    super(app, canvas);
    canvas.addEventListener("click", (event) => {
      const dot = this.at(event);
      if (dot) app.openRow(dot.row);
    });
  }

  get rows() {
    const rows = this.app.profile.rows[document.getElementById("roofline-kind").value];
    return rows.filter((row) => row.flops > 0 && row.active > 0);
  }

  // FLOPs per byte; without traffic as far to the right as the picture goes.
  intensity(row) {
    return row.bytes ? row.flops / row.bytes : Infinity;
  }

  paint(context) {
    const { peak_flops_per_ns: peak, dram_bytes_per_ns: bandwidth, total } = this.app.profile;
    const rows = this.rows;
    const speeds = rows.map((row) => row.flops / row.active), ridge = peak / bandwidth;
    const finite = rows.map((row) => this.intensity(row)).filter(Number.isFinite);
    const left = Math.log10(Math.min(ridge / 30, ...finite) / 2), right = Math.log10(Math.max(ridge * 30, ...finite) * 2);
    const bottom = Math.log10(Math.min(peak / 1000, ...speeds) / 2), top = Math.log10(peak * 2);
    const x = (value) => 60 + (Math.log10(value) - left) / (right - left) * (this.width - 80);
    const y = (value) => this.height - 30 - (Math.log10(value) - bottom) / (top - bottom) * (this.height - 50);
    this.axes(context, left, right, bottom, top, x, y);
    context.strokeStyle = style("--critical");
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x(10 ** left), y(10 ** left * bandwidth));
    context.lineTo(x(ridge), y(peak));
    context.lineTo(x(10 ** right), y(peak));
    context.stroke();
    context.fillStyle = style("--text");
    context.fillText(`${countText(peak * 1e9)}FLOP/s`, x(ridge) + 8, y(peak) - 10);
    context.fillText(`${bandwidth} GB/s`, x(ridge / 8) - 70, y(peak / 8) - 6);
    this.dots = rows.map((row, i) => ({
      row, x: x(Math.min(this.intensity(row), 10 ** right / 1.2)), y: y(speeds[i]),
      radius: 4 + 22 * Math.sqrt(row.critical / total),
    }));
    this.dots.forEach((dot, i) => {
      context.globalAlpha = 0.75;
      context.fillStyle = colourOf(i);
      context.beginPath();
      context.arc(dot.x, dot.y, dot.radius, 0, 2 * Math.PI);
      context.fill();
    });
    context.globalAlpha = 1;
  }

  axes(context, left, right, bottom, top, x, y) {
    context.strokeStyle = style("--line");
    context.fillStyle = style("--soft");
    context.lineWidth = 1;
    context.beginPath();
    for (let power = Math.ceil(left); power <= right; power++) {
      context.moveTo(x(10 ** power), 10);
      context.lineTo(x(10 ** power), this.height - 30);
      context.fillText(countText(10 ** power), x(10 ** power) + 3, this.height - 20);
    }
    for (let power = Math.ceil(bottom); power <= top; power++) {
      context.moveTo(60, y(10 ** power));
      context.lineTo(this.width - 10, y(10 ** power));
      context.fillText(`${countText(10 ** power * 1e9)}`, 4, y(10 ** power));
    }
    context.stroke();
    context.fillText("FLOPs per byte of DRAM traffic", this.width / 2 - 80, this.height - 6);
    context.fillText("FLOP/s", 4, 12);
  }

  at(event) {
    const rect = this.canvas.getBoundingClientRect();
    const px = event.clientX - rect.left, py = event.clientY - rect.top;
    return (this.dots || []).findLast((dot) => Math.hypot(dot.x - px, dot.y - py) <= dot.radius + 2);
  }

  hover(event) {
    const dot = this.at(event);
    if (!dot) return this.app.tip(null);
    const { row } = dot, { peak_flops_per_ns: peak, dram_bytes_per_ns: bandwidth, total } = this.app.profile;
    const intensity = this.intensity(row);
    const limit = Math.min(peak, intensity * bandwidth);
    this.app.tip(event, [
      row.name,
      `${Number.isFinite(intensity) ? intensity.toFixed(1) : "no DRAM traffic:"} FLOPs per byte`,
      `${countText(row.flops / row.active * 1e9)}FLOP/s, ${percent(row.flops / row.active / limit)} of what the roofline allows`,
      `${percent(row.critical / total)} of the critical path, busiest: ${row.bound}`,
    ]);
  }
}
