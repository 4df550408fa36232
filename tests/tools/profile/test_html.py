"""The report: what is in the file, and, in a headless Chromium, that a person can look at it and ask it things."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cases import Model
from benchmarks.models import Missing, cache_folder, prepare
from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.target import load_target
from runtime.profile.analysis import Analysis
from runtime.profile.coarse import blocks_of
from runtime.profile.model import Profile
from runtime.profile.record import record_neff, record_programs
from tests.model_zoo import MODELS, NEEDS_MODELS
from tests.runtime.core_programs import matmul_relu, rotating_scale
from tests.runtime.profile.profiles import small_analysis
from tests.tools.profile.chromium import CHROMIUM, Page, chromium
from tools.profile.html import DTYPES, INSIDE, html_report

NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
TABS = ("timeline", "memory", "roofline", "operators", "stalls", "path", "advice")
MAX_BYTES = 10_000_000
NASTY = '</script><img src="https://example.org/x" onerror="document.title=1">&amp;'


@functools.cache
def small_page() -> str:
    return html_report(small_analysis())


def payload_of(page: str) -> tuple[dict[str, Any], bytes]:
    """The description in a page, and the columns behind it."""
    (packed,) = re.findall(r'<script type="text/plain" id="data">([^<]*)</script>', page)
    data = zlib.decompress(base64.b64decode(packed))
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def column(columns: bytes, place: dict[str, Any], tick: float) -> Any:
    values = np.frombuffer(columns, DTYPES[place["kind"]], place["length"], place["offset"])
    if place["kind"] == "delta":
        return np.cumsum(values, dtype=np.int64) * tick
    return values * tick if place["kind"] == "ticks" else values


# Nothing in the page is fetched from anywhere, and its policy would not let it.
def test_page_stands_alone():
    page = small_page()
    script = page[page.rindex("<script>") + len("<script>") : page.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"content=\"default-src 'none'; script-src 'sha256-{digest}'; style-src" in page
    assert "http" not in page.replace("http-equiv", "")
    assert not re.findall(r"\b(?:import|fetch|XMLHttpRequest|WebSocket|eval|innerHTML)\b", script)
    assert set(re.findall(r'\b(?:src|href)="([^"]*)"', page)) == {"data:,"}
    assert page == html_report(small_analysis())
    assert len(page) < MAX_BYTES


# The columns are the profile's, to a tick.
def test_columns_are_the_events():
    description, columns = payload_of(small_page())
    (program,), (own,) = description["programs"], small_analysis().programs
    tick, tables, events = program["tick"], program["tables"], own.profile.events
    start = column(columns, tables["events"]["start"], tick)
    assert np.allclose(start, events.start, atol=tick)
    assert np.allclose(start + column(columns, tables["events"]["length"], tick), events.end, atol=2 * tick)
    assert np.array_equal(column(columns, tables["events"]["instruction"], tick), events.instruction)
    idle = column(columns, tables["idle"]["length"], tick)
    assert idle.sum() == pytest.approx(float((own.idle.until - own.idle.since).sum()), rel=1e-3)
    assert column(columns, tables["path"]["start"], tick)[0] == 0
    assert column(columns, tables["series"]["sbuf"], tick).max() == own.memory.sbuf_usage.bytes.max()
    assert description["summary"]["total_time"] * 1e9 == pytest.approx(description["total"])
    assert [row["name"] for row in description["rows"]["layers"]][-1].startswith("/net/layer.1")


# With fewer blocks than events nothing is lost: blocks cover their events and count them.
@pytest.mark.parametrize("limit", [1, 10, 40, 10_000])
def test_joined_events(limit: int):
    (program,) = small_analysis().profile.programs
    blocks = blocks_of(program, limit)
    events, count = program.events, len(program.events)
    assert blocks.count.sum() == count
    assert len(blocks.first) == count if limit > count else len(blocks.first) < count
    assert np.all(blocks.start[blocks.block_of] <= events.start)
    assert np.all(blocks.end[blocks.block_of] >= events.end)
    assert np.array_equal(program.stream[blocks.first][blocks.block_of], program.stream)
    assert np.array_equal(program.origin[blocks.first][blocks.block_of], program.origin)
    assert blocks.busy.sum() == pytest.approx(program.duration.sum())
    assert np.all(np.diff(blocks.start) >= 0)


# A page of a program with more events than it may show: every reference leads to a block, gaps inside are marked.
def test_page_of_many_events(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tools.profile.html.MAX_BLOCKS", 45)
    description, columns = payload_of(html_report(small_analysis()))
    (program,) = description["programs"]
    tables = {
        name: {key: column(columns, place, program["tick"]) for key, place in table.items()}
        for name, table in program["tables"].items()
    }
    events = tables["events"]
    assert len(events["start"]) <= 45 < events["count"].sum() == len(small_analysis().programs[0].profile.events)
    for table, name in (("events", "before"), ("idle", "producer"), ("path", "event"), ("sbuf", "event")):
        assert -1 <= tables[table][name].min() <= tables[table][name].max() < 45
    assert tables["idle"]["event"].min() == INSIDE
    assert tables["idle"]["length"].sum() == pytest.approx(column_sum("idle", "length"), rel=1e-3)


def column_sum(table: str, name: str) -> float:
    """Sum of a column of the page with all events."""
    description, columns = payload_of(small_page())
    (program,) = description["programs"]
    return float(column(columns, program["tables"][table][name], program["tick"]).sum())


def nasty_profile() -> Profile:
    """Two programs, one of them launched twice, with names that want to be markup."""
    profile = record_programs(
        NASTY, [(NASTY, matmul_relu()), ("b", rotating_scale(9, 2))], load_target("trn1"), [0, 1, 0]
    )
    first = dataclasses.replace(profile.programs[0], origins=("", NASTY, "Relu_1"))
    return dataclasses.replace(profile, programs=(first, profile.programs[1]))


# -- in the browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page, tmp_path: Path) -> Page:
    """The report of the small model, freshly opened."""
    (tmp_path / "report.html").write_text(small_page(), encoding="utf-8")
    browser.events.clear()
    browser.open(tmp_path / "report.html")
    return browser


def show(page: Page, tab: str) -> None:
    page.click_on(f'#tabs button[data-tab="{tab}"]')
    page.settle()


def colours(page: Page, canvas: str) -> int:
    """How many different colours a canvas shows."""
    return page.value(
        f"""(() => {{ const canvas = document.getElementById("{canvas}");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set(), words = new Uint32Array(pixels.buffer);
        for (const word of words) if (word >>> 24 > 200) seen.add(word);
        return seen.size; }})()"""
    )


def event_place(page: Page, event: int) -> tuple[float, float]:
    """Where in the window an event of the timeline is drawn: its middle."""
    x, y = page.value(
        f"""(() => {{ const app = neuronProfile, picture = app.pictures.timeline;
        const box = picture.canvas.getBoundingClientRect(), {{start, length}} = app.program.tables.events;
        const row = picture.rows.find((row) => row.kind === "events" && row.events.includes({event}));
        return [box.x + picture.x(start[{event}] + length[{event}] / 2), box.y + row.y + row.height / 2]; }})()"""
    )
    return x, y


def check_views(page: Page, folder: Path) -> None:
    """Every view shows something, and nothing but the file was asked for."""
    for tab in TABS:
        show(page, tab)
        hidden = page.value(
            "[...document.querySelectorAll('main > section')].filter((s) => !s.hidden).map((s) => s.id)"
        )
        assert hidden == [f"view-{tab}"]
    for canvas in ("timeline", "memory", "roofline"):
        show(page, canvas)
        assert colours(page, canvas) > 5
    for table in ("operators", "stall-totals", "stall-gaps", "path-kinds", "path-operators", "summary"):
        assert page.value(f"document.getElementById('{table}').rows.length") > 2
    show(page, "timeline")
    assert page.requests() == [(folder / "report.html").as_uri()]
    assert page.complaints() == []


@NEEDS_CHROMIUM
def test_views_render(page: Page, tmp_path: Path):
    check_views(page, tmp_path)
    assert page.text("#title") == "test on trn1"
    assert "simulated time" in page.text("#figures")


# The wheel zooms in around the pointer, dragging moves, the button and the key 0 show all again.
@NEEDS_CHROMIUM
def test_zoom_and_pan(page: Page):
    box = page.box("#timeline")
    x, y = box["x"] + round(0.6 * box["width"]), box["y"] + 60
    time = f"neuronProfile.pictures.timeline.time({x - box['x']})"
    before, whole = page.value(time), page.value("neuronProfile.view")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120)
    page.settle()
    zoomed = page.value("neuronProfile.view")
    assert zoomed["end"] - zoomed["start"] < 0.9 * (whole["end"] - whole["start"])
    assert page.value(time) == pytest.approx(before, rel=1e-6)
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 50, y, button="left")
    page.mouse("mouseReleased", x + 50, y, button="left", clickCount=1)
    page.settle()
    assert page.value(time) < before
    assert page.value("document.getElementById('detail').hidden")
    page.click_on("#reset")
    assert page.value("neuronProfile.view") == whole
    for key, grows in (("w", False), ("s", True)):
        length = page.value("neuronProfile.view.end - neuronProfile.view.start")
        page.value("document.getElementById('timeline').focus()")
        page.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        assert (page.value("neuronProfile.view.end - neuronProfile.view.start") > length) == grows
    page.send("Input.dispatchKeyEvent", type="keyDown", key="0", text="0")
    assert page.value("neuronProfile.view") == whole


# Hovering names the instruction and its ONNX node; a click explains why it did not start earlier, event by event.
@NEEDS_CHROMIUM
def test_hover_and_click_an_event(page: Page):
    profile = small_analysis().programs[0].profile
    codes = [profile.opcodes[code] for code in profile.instructions.opcode[profile.events.instruction].tolist()]
    matmul = max((n for n, code in enumerate(codes) if code == "nc_matmul"), key=lambda n: profile.duration[n])
    start = float(profile.events.start[matmul])
    page.value(f"neuronProfile.around({start}, {float(profile.duration[matmul])})")
    page.settle()
    place = event_place(page, matmul)
    page.mouse("mouseMoved", *place)
    assert not page.value("document.getElementById('tip').hidden")
    tip = page.text("#tip")
    assert tip.startswith("nc_matmul on tensor\n/net/layer.") and "rows and" in tip
    page.click(*place)
    detail = page.text("#detail")
    assert profile.texts[profile.events.instruction[matmul]] in detail
    assert "Why it did not start earlier" in detail
    assert page.value("document.querySelectorAll('#detail li').length") > 1
    page.value("document.querySelector('#detail a').click()")
    page.settle()
    assert page.text("#detail") != detail
    page.mouse("mouseMoved", 5, 5)
    assert page.value("document.getElementById('tip').hidden")


# A click into a gap tells what the engine waited for: the longest one, from the list of stalls.
@NEEDS_CHROMIUM
def test_gaps_are_explained(page: Page):
    show(page, "stalls")
    first = page.text("#stall-gaps tbody tr")
    page.value("document.querySelector('#stall-gaps tbody tr').click()")
    page.settle()
    assert page.value("neuronProfile.tab") == "timeline"
    engine = first.split("\t")[0]
    detail = page.text("#detail")
    assert detail.startswith(f"{engine} had nothing to run for ") and "semaphore" in detail
    x, y = page.value(
        """(() => { const app = neuronProfile, picture = app.pictures.timeline;
        const box = picture.canvas.getBoundingClientRect(), row = picture.rows.find((row) => row.name === "vector");
        app.show(0, app.program.total);
        return [box.x + 97 + 2, box.y + row.y + 5]; })()"""
    )
    page.settle()
    page.mouse("mouseMoved", x, y)
    assert page.text("#tip").startswith("vector idle for ")
    page.click(x, y)
    assert page.text("#detail").startswith("vector had nothing to run for ")


# Hovering the critical path and the counters; values in the memory map; dots of the roofline.
@NEEDS_CHROMIUM
def test_other_pictures_answer(page: Page):
    def middle(name: str) -> tuple[float, float]:
        box = page.box("#timeline")
        rows = "neuronProfile.pictures.timeline.rows"
        y = page.value(f"(({{y, height}}) => y + height / 2)({rows}.find((row) => row.name === '{name}'))")
        return box["x"] + box["width"] / 2, box["y"] + y

    page.mouse("mouseMoved", *middle("critical path"))
    assert page.text("#tip").startswith("critical path: ")
    page.mouse("mouseMoved", *middle("SBUF"))
    assert "SBUF: " in page.text("#tip") and "KiB" in page.text("#tip")
    show(page, "memory")
    x, y = page.value(
        """(() => { const picture = neuronProfile.pictures.memory, box = picture.canvas.getBoundingClientRect();
        const {since, length, low, high} = picture.values, i = since.length >> 1;
        const y = (picture.y(low[i]) + picture.y(high[i])) / 2;
        return [box.x + picture.x(since[i] + length[i] / 2), box.y + y]; })()"""
    )
    page.mouse("mouseMoved", x, y)
    assert re.match(r"bytes \d+ to \d+ of \d+ partitions", page.text("#tip"))
    page.click(x, y)
    assert "Why it did not start earlier" in page.text("#detail")
    show(page, "roofline")
    dot = page.value("(({x, y}) => ({x, y}))(neuronProfile.pictures.roofline.dots[0])")
    box = page.box("#roofline")
    page.mouse("mouseMoved", box["x"] + dot["x"], box["y"] + dot["y"])
    assert "of what the roofline allows" in page.text("#tip")
    page.click(box["x"] + dot["x"], box["y"] + dot["y"])
    assert page.value("neuronProfile.tab") == "timeline"
    assert page.value("document.getElementById('find').value").startswith("/net/layer.")


# The table sorts by its heads and filters by name; a row leads to the timeline, where the rest fades.
@NEEDS_CHROMIUM
def test_table_of_operators(page: Page):
    show(page, "operators")
    page.value("(({value}) => 0)(Object.assign(document.getElementById('table-kind'), {value: 'operators'}))")
    page.value("document.getElementById('table-kind').dispatchEvent(new Event('input'))")
    names = "[...document.querySelectorAll('#operators tbody tr')].map((row) => row.cells[0].innerText)"
    rows = page.value(names)
    assert "/net/layer.0/proj/MatMul" in rows
    page.click_on("#operators th:first-child")
    assert page.value(names) == sorted(rows)
    page.click_on("#operators th:first-child")
    assert page.value(names) == sorted(rows, reverse=True)
    page.value("document.getElementById('filter').value = 'LAYER.1'")
    page.value("document.getElementById('filter').dispatchEvent(new Event('input'))")
    assert page.value(names) and all("layer.1" in name for name in page.value(names))
    whole = page.value("neuronProfile.view")
    page.click_on("#operators tbody tr")
    assert page.value("neuronProfile.tab") == "timeline"
    assert page.value("neuronProfile.view") != whole
    assert 0 < page.value("neuronProfile.found.reduce((sum, one) => sum + one, 0) / neuronProfile.found.length") < 1


# Shift and drag measures how busy each engine is in a stretch of time.
@NEEDS_CHROMIUM
def test_measure(page: Page):
    box = page.box("#timeline")
    x, y = box["x"] + 100, box["y"] + 60
    shift = 8
    page.mouse("mousePressed", x, y, button="left", clickCount=1, modifiers=shift)
    page.mouse("mouseMoved", x + 600, y, button="left", modifiers=shift)
    page.mouse("mouseReleased", x + 600, y, button="left", clickCount=1, modifiers=shift)
    page.settle()
    assert re.search(r"us from .*tensor \d+\.\d%", page.text("#detail"), re.DOTALL)


# Names of a hostile model are text, in whichever view; several programs are chosen from.
@NEEDS_CHROMIUM
def test_hostile_names(browser: Page, tmp_path: Path):
    report = html_report(Analysis(nasty_profile()))
    assert "<img" not in report
    (tmp_path / "report.html").write_text(report, encoding="utf-8")
    browser.events.clear()
    browser.open(tmp_path / "report.html")
    check_views(browser, tmp_path)
    assert NASTY in browser.text("#title")
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert browser.value("document.querySelectorAll('#program option').length") == 2
    assert browser.value("document.querySelector('#program option').textContent") == f"{NASTY} (2 times)"
    browser.value("neuronProfile.useProgram(1)")
    browser.settle()
    assert browser.value("neuronProfile.program.name") == "b"
    assert colours(browser, "timeline") > 5


def report_of(path: Path, inputs: Path) -> str:
    with np.load(inputs) as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
    compiled = compile_model(path, CompileOptions(target="trn1", input_shapes=shapes))
    assert compiled.neff is not None
    return html_report(Analysis(record_neff(compiled.neff, load_target("trn1"))))


def check_bert(browser: Page, report: str, folder: Path) -> None:
    """A BERT's report is small, every view shows something, its layers have their ONNX names, and it can be zoomed."""
    assert len(report) < MAX_BYTES
    (folder / "report.html").write_text(report, encoding="utf-8")
    browser.events.clear()
    browser.open(folder / "report.html")
    check_views(browser, folder)
    show(browser, "operators")
    assert "/m/encoder/layer.0" in browser.text("#operators")
    show(browser, "timeline")
    box = browser.box("#timeline")
    for _ in range(5):
        browser.mouse("mouseWheel", box["x"] + box["width"] / 2, box["y"] + 250, deltaX=0, deltaY=-120)
    browser.settle()
    assert colours(browser, "timeline") > 5
    view = browser.value("neuronProfile.view")
    assert view["end"] - view["start"] < browser.value("neuronProfile.program.total") / 10


@NEEDS_MODELS
@NEEDS_CHROMIUM
def test_bert(browser: Page, tmp_path: Path):
    check_bert(browser, report_of(MODELS / "bert_base.onnx", MODELS / "bert_base.inputs.npz"), tmp_path)


# The full-size model, as the benchmark measures it.
@pytest.mark.nightly
@NEEDS_CHROMIUM
@pytest.mark.parametrize("batch", [1, 8])
def test_full_size_bert(browser: Page, tmp_path: Path, batch: int):
    try:
        path, inputs = prepare(Model("bert_base", batches=(1, 8)), batch, cache_folder())
    except Missing as missing:
        pytest.skip(str(missing))
    check_bert(browser, report_of(path, inputs), tmp_path)
