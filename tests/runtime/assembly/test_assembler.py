"""The assembler: what is written is what is read, whatever a program holds, and every mistake has its place."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.access import Affine
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import INSTRUCTIONS, Instruction
from neuron_dialects.isa.program import CONTROL_KINDS, CoreProgram, QueueEntry
from runtime.assembly import Assembly, AssemblyError, Problem, assemble, assembled_model
from runtime.neff import Neff, encode_queue, neff_bytes
from runtime.neff.records import F32
from runtime.neff.text import program_text
from tests.numerics.models import SHIPPED
from tests.runtime.core_programs import ProgramBuilder, matmul_relu, psum, rotating_scale, sbuf
from tests.runtime.neff.samples import sample_neff

EXAMPLES = Path(__file__).parents[3] / "examples"


def listing(model: Neff) -> str:
    """All programs of a model, as neuron-objdump -d prints them."""
    sections = (f".subgraph sg{i:02}\n" + text_of(image.program) for i, image in enumerate(model.subgraphs))
    return "\n".join(sections)


def text_of(program: CoreProgram) -> str:
    return "\n".join(program_text(program)) + "\n"


def problems(text: str) -> list[tuple[int, int, str]]:
    """Line, column and message of everything that is wrong with a text."""
    with pytest.raises(AssemblyError) as caught:
        assemble(text)
    return [(problem.line, problem.column, problem.message) for problem in caught.value.problems]


# A compiled model, taken apart to text and put together again on what is not code, gives the same file.
@pytest.mark.parametrize("name", ["mnist_mlp", "lenet5", "digits_cnn"])
def test_compiled_models_come_back(name: str) -> None:
    model = compile_model(SHIPPED / f"{name}.onnx").neff
    assert model is not None
    assert neff_bytes(assembled_model(assemble(listing(model)), base=model)) == neff_bytes(model)


# The transfers that fill pinned weights are a queue of the text, of no engine.
def test_pinned_weights_come_back() -> None:
    model = compile_model(SHIPPED / "mnist_mlp.onnx", CompileOptions(neuroncore_pipeline_cores="auto")).neff
    assert model is not None
    assert all(image.program.pinned for image in model.subgraphs)
    assert neff_bytes(assembled_model(assemble(listing(model)), base=model)) == neff_bytes(model)


# Loops, registers in patterns, odd names, DRAM to DRAM, several programs, parameters of odd types.
def test_hand_built_models_come_back() -> None:
    model = sample_neff()
    assert neff_bytes(assembled_model(assemble(listing(model)), base=model)) == neff_bytes(model)


@pytest.mark.parametrize("program", [matmul_relu(), rotating_scale(4, 2)], ids=["matmul", "loop"])
def test_programs_come_back(program: CoreProgram) -> None:
    variables = [replace(v, file_name=f"params/{v.name}" if v.kind == "file" else "") for v in program.variables]
    program = replace(program, variables=variables)
    (again,) = assemble(text_of(program)).programs
    assert text_of(again) == text_of(program)
    assert again.variables == program.variables
    for engine, entries in program.queues.items():
        assert encode_queue(again.queues[engine]) == encode_queue(entries)


def assembled_entry(entry: QueueEntry, engine: str) -> QueueEntry:
    """An entry, printed and read back."""
    program = CoreProgram("trn1", {engine: [entry]}, [], ())
    return assemble(text_of(program)).programs[0].queues[engine][0]


# f32 immediates of every kind: the text gives the same bits again, NaNs with their payload too.
@pytest.mark.parametrize("bits", [0x3DCCCCCD, 0x00000001, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7FC00123])
def test_immediates_keep_their_bits(bits: int) -> None:
    value = struct.unpack("<f", struct.pack("<I", bits))[0]
    memset = Instruction("memset", "dve", {"dst": sbuf((0, 32), 0, 4)}, {"value": value})
    read = assembled_entry(QueueEntry(memset), "dve").instruction
    assert read is not None
    assert struct.unpack("<I", F32.pack(read.fields["value"]))[0] == bits


# Negative and zero strides, several dimensions, a register as first partition, fields that have their default.
def test_patterns_and_fields_come_back() -> None:
    data = sbuf((0, 32), Affine(-1, ((3, 1),)), (0, 2), (-8, 2), 2, (2, 3))
    fields = {"op0": "add", "scalar0": 1.0, "reverse0": True, "op1": "bypass"}
    instruction = Instruction("tensor_scalar", "dve", {"dst": sbuf((32, 32), 64, 24), "data": data}, fields)
    assert assembled_entry(QueueEntry(instruction), "dve").instruction == instruction


def test_control_instructions_come_back() -> None:
    entries = [
        QueueEntry(control=kind, numbers=tuple(range(1, 1 + len(roles)))) for kind, roles in CONTROL_KINDS.items()
    ]
    program = CoreProgram("trn1", {"sp": entries}, [], ("s",))
    assert assemble(text_of(program)).programs[0].queues["sp"] == entries


# Two framework nodes of one name stay two.
def test_origins_of_one_name() -> None:
    entries = [QueueEntry(control="wait", origin=number) for number in (2, 1, 0, 3)]
    program = CoreProgram("trn1", {"sp": entries}, [], (), ("", "a", "a", "b"))
    (again,) = assemble(text_of(program)).programs
    assert (again.origins, again.queues) == (program.origins, program.queues)


# Labels by name, variables by name, numbers left out: what a person writes means what a listing says.
def test_written_by_hand() -> None:
    text = """
    .target trn1
    .semaphore q
    .variable "x" input f32 [4, 8]
    .variable "a b" output f32 [4, 8]   ; a comment
    .queue sp
      reg_move r0, 0
    again: dma_copy ring q dst dram f32 @"a b" [0 : 32] src dram f32 @x [0 : 32] signal(q) loc("copy")
      reg_add r0, r0, 1
      branch_less r0, 1, again
      wait(q >= r0) wait
    """
    program = assemble(text).programs[0]
    assert [variable.id for variable in program.variables] == [0, 1]
    copy = program.queues["sp"][1]
    assert copy.instruction is not None
    assert copy.instruction.operands["dst"].buffer == 1
    assert (copy.ring, copy.signal, program.origins[copy.origin]) == ("q", 0, "copy")
    assert program.queues["sp"][3].numbers == (0, 1, 1)
    assert program.queues["sp"][4].waits == ((0, Affine(0, ((0, 1),))),)


HEAD = ".target trn1\n.semaphore pe\n.queue dve\n"


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("memset", 1, "memset: operand dst is missing"),
        ("mamset dst sbuf f32 [0:32][0 : 4]", 1, "unknown instruction 'mamset'"),
        ("memset dest sbuf f32 [0:32][0 : 4]", 8, "memset has no operand 'dest'"),
        ("memset dst sbuf f32 [0:32][0 : 4] dst sbuf f32 [0:32][0 : 4]", 35, "operand dst is given twice"),
        ("memset dst tbuf f32 [0:32][0 : 4]", 12, "'tbuf' is no memory"),
        ("memset dst sbuf f33 [0:32][0 : 4]", 17, "'f33' is no element type"),
        ("memset dst sbuf f32 [0 : 4]", 12, "an operand in sbuf is written sbuf f32 "
         "[first partition:partitions][offset : sizes]"),
        ("memset dst sbuf f32 [0:32, 4][0 : 4]", 22, "partitions are written [first:number]"),
        ("memset dst sbuf f32 @x [0:32][0 : 4]", 22, "exactly an operand in DRAM names a variable"),
        ("memset dst sbuf f32 [0:32][0 : 4] {val = 1}", 36, "memset has no field 'val'"),
        ("memset dst sbuf f32 [0:32][0 : 4] {value = one}", 44, "value is a number, not 'one'"),
        ("memset dst sbuf f32 [0:32][0 : 4] signal(pee)", 42, "no semaphore 'pee'"),
        ("memset dst sbuf f32 [0:32][0 : 4", 33, "the line ends too early; expected ',' or ']' or 'step'"),
        ("memset dst sbuf f32 [0:32][0 : 4]!", 34, "unexpected '!'"),
        ("memset ring q dst sbuf f32 [0:32][0 : 4]", 1, "it cannot be encoded: memset is not a DMA and has no ring"),
        ("memset dst sbuf f32 [0:256][0 : 4]", 1, "memset: operand dst spans 256 partitions, limit 128"),
        ("iota dst sbuf i32 [0:32][0 : 4]", 1, "engine dve does not execute iota"),
        ("dma_copy dst sbuf f32 [0:32][0 : 4]", 1, "dma_copy: operand src is missing"),
        ("memset 3, 4", 8, "memset takes operands, no numbers"),
        ("reg_move r0", 1, "reg_move takes dst, value; 1 given"),
        ("reg_move 0, 0", 10, "dst is a register like r0, not '0'"),
        ("reg_move r0, r1", 14, "value is a number, not 'r1'"),
        ("reg_move r999, 0", 1, "reg_move: register 999, the target has 64"),
        ("branch_less r0, 1, nowhere", 20, "no label 'nowhere' in this queue"),
        (".queue dve", 8, "engine dve has a queue already"),
        (".queue gpu", 8, "target trn1 has no engine 'gpu'"),
        (".semaphore 7 q", 12, "number 7 is out of order, the next is 1"),
        (".semaphore pe", 12, "semaphore 'pe' is declared twice"),
        (".variable x input f32 [4]", 1, '.variable 0 "x"'),
        ('.variable "x" inputs f32 [4]', 15, "'inputs' is no kind of variable"),
        ('.variable "\\q" input f32 [4]', 11, "the string is not a JSON string"),
        (".target trn1", 1, "the program has a target already; .subgraph begins another program"),
        (".bss", 1, "unknown directive .bss"),
        (".model 3", 1, ".model takes a string"),
    ],
)  # fmt: skip
def test_mistakes(line: str, column: int, message: str) -> None:
    (found,) = problems(HEAD + line + "\n")
    assert found[:2] == (4, column)
    assert message in found[2]


def test_texts_that_are_no_program() -> None:
    assert problems("")[0][2] == "the text has no .target and no queue"
    assert problems("memset\n")[0][2] == "an entry stands in a queue: write .queue and its engine first"
    assert problems(".semaphore pe\n")[0][2] == "the first directive of a program is .target"
    assert problems(".target v9\n")[0][2] == "unknown target 'v9'"
    assert problems(".subgraph sg00\n")[0][2] == "the program has no .target"
    assert problems(".target trn1\n.queue pe\na: halt\na: halt\n") == [
        (4, 1, "label 'a' is defined twice in this queue")
    ]
    assert len(problems("?\n" * 1000)) == 20


# Every mistake of a text is found, in order, with what could have been meant.
def test_all_mistakes() -> None:
    with pytest.raises(AssemblyError, match="line 4: memset has no field 'val'") as caught:
        assemble(HEAD + "\tmemset dst sbuf f32 [0:32][0 : 4] {val = 1}\nhalt r0\n")
    assert caught.value.problems == (
        Problem(4, 37, 3, "memset has no field 'val'", "its fields are value"),
        Problem(5, 1, 4, "halt takes nothing; 1 given"),
    )


# The words of the language come from the instruction table: each instruction can be written.
def test_every_instruction_is_known() -> None:
    for name, definition in INSTRUCTIONS.items():
        engine = "sp" if definition.is_dma else definition.engines[0]
        message = problems(f".target trn1\n.queue {engine}\n{name}\n")[0][2]
        assert message == f"{name}: operand {definition.operands[0].name} is missing"


def test_models_without_a_base() -> None:
    two = "".join(f".subgraph sg0{i}\n.target trn1\n" for i in range(2))
    with pytest.raises(NeuronError, match="has 2 programs, and nothing says how they are connected"):
        assembled_model(assemble(two))
    one = assembled_model(assemble(".target trn1\n"))
    with pytest.raises(NeuronError, match="the text has 2 programs, the base 1"):
        assembled_model(assemble(two), base=one)
    with pytest.raises(NeuronError, match="parameter 'w' has no values"):
        assembled_model(assemble('.target trn1\n.variable "w" file f32 [4]\n'))
    assert assembled_model(Assembly(assemble(".target trn1\n").programs, ({},)), name="n").name == "n"


def test_not_a_number_is_printed_as_a_word() -> None:
    b = ProgramBuilder()
    b.add("dve", "memset", dst=psum((0, 32), 0, 4), fields={"value": math.nan})
    assert "{value = nan}" in text_of(b.program())
