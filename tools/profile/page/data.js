"use strict";
// Unpacks what the page carries, and says numbers with units. A program's columns become typed arrays; times are in ns.

const NOTHING = -1;
const DMA = 5;

async function unpack(text) {
  const packed = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const profile = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  for (const program of profile.programs) {
    for (const table of Object.values(program.tables)) {
      for (const [name, place] of Object.entries(table)) {
        table[name] = column(buffer, 8 + size + place.offset, place, program.tick);
      }
    }
    prepare(program);
  }
  return profile;
}

const ARRAYS = { u8: Uint8Array, i32: Int32Array, u32: Uint32Array, f32: Float32Array, ticks: Uint32Array, delta: Int32Array };

function column(buffer, offset, place, tick) {
  const stored = new ARRAYS[place.kind](buffer, offset, place.length);
  if (place.kind === "ticks") return Float64Array.from(stored, (value) => value * tick);
  if (place.kind !== "delta") return stored;
  const times = new Float64Array(stored.length);
  let total = 0;
  for (let i = 0; i < stored.length; i++) times[i] = (total += stored[i]) * tick;
  return times;
}

// Puts the events of each stream on lanes on which they do not overlap, in the order of the profiler's rows.
function prepare(program) {
  const { start, length, instruction } = program.tables.events;
  const { stream } = program.tables.instructions;
  const names = program.streams;
  const lanes = names.map(() => []);
  for (let event = 0; event < start.length; event++) {
    const own = lanes[stream[instruction[event]]];
    let lane = own.find((candidate) => candidate.until <= start[event] + 1e-6);
    if (!lane) own.push((lane = { events: [], until: 0 }));
    lane.events.push(event);
    lane.until = start[event] + length[event];
  }
  const order = [...names.keys()].slice(DMA).concat([4, 0, 1, 2, 3]);
  program.lanes = [];
  for (const number of order) {
    lanes[number].forEach((lane, position) => program.lanes.push({
      stream: number, name: position ? "" : names[number], events: Int32Array.from(lane.events),
    }));
  }
  program.idleOf = names.map(() => []);
  const idle = program.tables.idle;
  program.gaps = new Map();
  for (let row = 0; row < idle.since.length; row++) {
    const key = `${idle.stream[row]}/${idle.event[row]}`;
    if (!program.gaps.has(key)) program.gaps.set(key, []);
    program.gaps.get(key).push(row);
  }
}

// The stream that a lane's idle time is kept under: all rings share the DMA engines.
function idleStream(stream) {
  return Math.min(stream, DMA);
}

function timeText(ns) {
  const size = Math.abs(ns);
  if (size >= 1e9) return `${(ns / 1e9).toFixed(3)} s`;
  if (size >= 1e6) return `${(ns / 1e6).toFixed(3)} ms`;
  if (size >= 1e3) return `${(ns / 1e3).toFixed(2)} us`;
  return `${ns.toFixed(size < 10 ? 1 : 0)} ns`;
}

function bytesText(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (Math.abs(bytes) >= 1024 && unit < 3) { bytes /= 1024; unit++; }
  return `${unit ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function countText(value) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${(value / size).toFixed(2)} ${unit}`;
  }
  return String(Math.round(value * 100) / 100);
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

// An element with text and children; text never becomes markup.
function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

// First index of a sorted list whose value (by `at`) is above a limit.
function firstAbove(count, at, limit) {
  let low = 0, high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at(middle) > limit) high = middle; else low = middle + 1;
  }
  return low;
}
