"""The Perfetto trace, decoded with Perfetto's own classes: slices are the machine's events, to the nanosecond."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from runtime.profile.analysis import Analysis
from runtime.profile.record import record_programs
from runtime.profile.summary import summary_of
from tests.runtime.core_programs import matmul_relu
from tests.runtime.profile.profiles import small_analysis
from tools.profile.perfetto import perfetto_trace
from tools.profile.protobuf import double, fixed64, integer, message, text, varint

trace_pb2: Any = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")


class Decoded:
    """Tracks by number, and slices and counter values by the name of their track."""

    def __init__(self, data: bytes):
        trace = trace_pb2.Trace()
        trace.ParseFromString(data)
        self.tracks: dict[int, Any] = {}
        self.slices: dict[str, list[tuple[int, int, str, dict[str, Any]]]] = defaultdict(list)
        self.counters: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.flows: dict[int, list[int]] = defaultdict(list)
        names: dict[str, dict[int, str]] = {"event_names": {}, "debug_annotation_names": {}}
        strings: dict[int, str] = {}
        opened: dict[int, tuple[int, str, dict[str, Any]]] = {}
        for packet in trace.packet:
            for kind, known in names.items():
                known.update({entry.iid: entry.name for entry in getattr(packet.interned_data, kind)})
            strings.update({e.iid: e.str.decode() for e in packet.interned_data.debug_annotation_string_values})
            if packet.HasField("track_descriptor"):
                self.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
                continue
            event, name = packet.track_event, self.tracks[packet.track_event.track_uuid].name
            if event.type == event.TYPE_SLICE_BEGIN:
                notes: dict[str, Any] = {
                    names["debug_annotation_names"][note.name_iid]: strings.get(note.string_value_iid, note.int_value)
                    for note in event.debug_annotations
                }
                assert event.track_uuid not in opened, "slices of one row overlap"
                opened[event.track_uuid] = packet.timestamp, names["event_names"][event.name_iid], notes
                for flow in event.flow_ids:
                    self.flows[flow].append(notes["event"])
            elif event.type == event.TYPE_SLICE_END:
                begin, label, notes = opened.pop(event.track_uuid)
                self.slices[name].append((begin, packet.timestamp, label, notes))
            else:
                value = event.double_counter_value if event.HasField("double_counter_value") else event.counter_value
                self.counters[name].append((packet.timestamp, value))
        assert not opened


def test_slices_are_the_events():
    analysis = small_analysis()
    (profile,) = analysis.profile.programs
    decoded = Decoded(perfetto_trace(analysis))
    assert set(decoded.slices) == {profile.streams[number] for number in set(profile.stream.tolist())}
    seen: set[int] = set()
    for stream, slices in decoded.slices.items():
        for begin, end, name, notes in slices:
            event = notes["event"]
            seen.add(event)
            instruction = profile.events.instruction[event]
            assert (begin, end) == (np.rint(profile.events.start[event]), np.rint(profile.events.end[event]))
            assert name == profile.opcodes[profile.instructions.opcode[instruction]]
            assert stream == profile.streams[profile.stream[event]]
            assert notes["operands"] == profile.texts[instruction]
            assert notes["op"] == (profile.origins[profile.origin[event]] or "(no node)")
            assert notes.get("bytes", 0) == profile.instructions.bytes[instruction]
    assert len(seen) == len(profile.events) == sum(map(len, decoded.slices.values()))


# Engines under each other in the profiler's order, below the DMA queues, all below the model.
def test_rows():
    decoded = Decoded(perfetto_trace(small_analysis()))
    root, *rows = decoded.tracks.values()
    assert all(row.parent_uuid == root.uuid for row in rows)
    ranks = {row.name: row.sibling_order_rank for row in rows}
    assert ranks["load0"] < ranks["tensor"] < ranks["vector"] < ranks["scalar"] < ranks["SBUF usage"]
    units = {row.name: row.counter for row in rows if row.HasField("counter")}
    assert set(units) == set(decoded.counters)
    assert units["SBUF usage"].unit == units["SBUF usage"].UNIT_SIZE_BYTES
    assert units["DRAM read"].unit_name == "GB/s"


def test_counters():
    analysis = small_analysis()
    decoded, (program,) = Decoded(perfetto_trace(analysis)), analysis.programs
    usage = [value for _, value in decoded.counters["SBUF usage"]]
    assert max(usage) == program.memory.sbuf_usage.bytes.max() and usage[-1] == 0
    read = decoded.counters["DRAM read"]
    width = program.profile.total_ns / (len(read) - 1)
    assert sum(value for _, value in read) * width == pytest.approx(summary_of(analysis.profile)["hbm_read_bytes"])
    assert {points[-1][0] for points in decoded.counters.values()} == {round(program.profile.total_ns)}


# Arrows lead from the event that ended a wait to the one that waited; without being asked for there are none.
def test_flows():
    analysis = small_analysis()
    assert not Decoded(perfetto_trace(analysis)).flows
    flows, causes = Decoded(perfetto_trace(analysis, flows=True)).flows, analysis.programs[0].causes
    assert len(flows) == int(np.count_nonzero((causes.wait >= 0) & (causes.dispatch_event >= 0)))
    for ends in flows.values():
        assert len(ends) == 2
        waiting = [event for event in ends if causes.dispatch_event[event] in ends and causes.wait[event] >= 0]
        assert waiting


# Two launches stand behind each other on the same rows.
def test_launches():
    profile = record_programs("twice", [("sg00", matmul_relu())], small_analysis().profile.target, [0, 0])
    decoded = Decoded(perfetto_trace(Analysis(profile)))
    (first, second) = decoded.slices["tensor"]
    assert second[0] - first[0] == pytest.approx(profile.programs[0].total_ns, abs=1)
    assert [track.name for track in decoded.tracks.values()].count("tensor") == 1


def test_wire_format():
    assert varint(300) == b"\xac\x02"
    assert varint(-1) == b"\xff" * 9 + b"\x01"
    event = trace_pb2.Trace.FromString(
        message(1, message(11, integer(9, 4), integer(30, -5), fixed64(47, 7), text(23, "é")), integer(8, 1 << 40))
    ).packet[0]
    assert (event.timestamp, event.track_event.counter_value) == (1 << 40, -5)
    assert (list(event.track_event.flow_ids), event.track_event.name) == ([7], "é")
    packet = trace_pb2.Trace.FromString(message(1, message(11, double(44, 1.5)))).packet[0]
    assert packet.track_event.double_counter_value == 1.5
