// What the three pictures share: a canvas as sharp as the screen, colours, a ruler, and moving through time.

function colourOf(number) {
  return `hsl(${(number * 137.508 + 205) % 360} ${58 + (number % 3) * 9}% ${52 + (number % 4) * 5}%)`;
}

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

class Picture {
  constructor(app, canvas) {
    this.app = app;
    this.canvas = canvas;
    this.pending = false;
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => app.tip(null));
  }

  // Draws before the next frame, however often it is asked for.
  draw() {
    if (this.pending || this.canvas.closest("section").hidden) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      const ratio = window.devicePixelRatio || 1;
      const { width, height } = this.canvas.getBoundingClientRect();
      if (!width) return;
      this.width = width;
      this.height = height;
      if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
        this.canvas.width = Math.round(width * ratio);
        this.canvas.height = Math.round(height * ratio);
      }
      const context = this.canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      context.font = "11px system-ui, sans-serif";
      context.textBaseline = "middle";
      this.paint(context);
      this.drawn = (this.drawn || 0) + 1;
    });
  }
}

const LABELS = 96;
const RULER = 20;

// A picture whose horizontal axis is time; all of them show the same part of the run.
class TimePicture extends Picture {
  constructor(app, canvas) {
    super(app, canvas);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  get scale() {
    return (this.width - LABELS) / (this.app.view.end - this.app.view.start);
  }

  x(time) {
    return LABELS + (time - this.app.view.start) * this.scale;
  }

  time(x) {
    return this.app.view.start + (x - LABELS) / this.scale;
  }

  ruler(context) {
    const { start, end } = this.app.view;
    const rough = (end - start) / Math.max(2, (this.width - LABELS) / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    context.fillStyle = style("--soft");
    context.strokeStyle = style("--line");
    context.lineWidth = 1;
    context.beginPath();
    for (let time = Math.ceil(start / step) * step; time <= end; time += step) {
      const x = Math.round(this.x(time)) + 0.5;
      context.moveTo(x, RULER - 4);
      context.lineTo(x, this.height);
      context.fillText(timeText(time), x + 3, RULER / 2);
    }
    context.stroke();
  }

  // A rectangle in time, at least one pixel wide, cut to what is seen.
  block(context, start, length, y, height) {
    const x = Math.max(LABELS, this.x(start));
    const end = Math.min(this.width, Math.max(this.x(start + length), x + 1));
    if (end > x) context.fillRect(x, y, end - x, height);
  }

  wheel(event) {
    event.preventDefault();
    const rect = this.canvas.getBoundingClientRect();
    const at = this.time(Math.max(LABELS, event.clientX - rect.left));
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.app.pan(event.deltaX / this.scale);
    else this.app.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.008), at);
  }

  press(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const rect = this.canvas.getBoundingClientRect();
    this.pressed = { x: event.clientX, from: this.time(event.clientX - rect.left), measures: event.shiftKey, moved: false };
  }

  release(event) {
    const pressed = this.pressed;
    this.pressed = null;
    if (pressed && !pressed.moved) this.click(event);
  }

  // Whether the pointer's movement is a drag and has been dealt with.
  drag(event) {
    if (!this.pressed) return false;
    const distance = event.clientX - this.pressed.x;
    if (!this.pressed.moved && Math.abs(distance) < 4) return true;
    this.pressed.moved = true;
    if (this.pressed.measures) {
      const rect = this.canvas.getBoundingClientRect();
      this.app.measure(this.pressed.from, this.time(event.clientX - rect.left));
    } else {
      this.pressed.x = event.clientX;
      this.app.pan(-distance / this.scale);
    }
    return true;
  }

  key(event) {
    const { start, end } = this.app.view;
    const middle = (start + end) / 2, step = (end - start) / 8;
    const actions = {
      w: () => this.app.zoom(0.7, middle), s: () => this.app.zoom(1.4, middle), a: () => this.app.pan(-step),
      d: () => this.app.pan(step), ArrowLeft: () => this.app.pan(-step), ArrowRight: () => this.app.pan(step),
      "0": () => this.app.show(0, this.app.program.total), Escape: () => this.app.clear(),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    action();
  }

  measured(context) {
    const range = this.app.range;
    if (!range) return;
    context.fillStyle = style("--mark");
    context.globalAlpha = 0.15;
    context.fillRect(this.x(range.start), RULER, (range.end - range.start) * this.scale, this.height - RULER);
    context.globalAlpha = 1;
  }
}
