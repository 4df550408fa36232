"""The assembly text: one line an entry, whatever is in the names."""

from neuron_dialects.access import Affine
from neuron_dialects.isa import Instruction
from neuron_dialects.isa.program import QueueEntry
from runtime.neff.encoding import record_addresses
from runtime.neff.text import entry_text, instruction_text, program_text
from tests.runtime.neff.samples import copy_program, matmul_program, sbuf


def test_a_queue_of_a_loop() -> None:
    lines = list(program_text(matmul_program("trn1"), "act"))
    assert lines == [
        ".target trn1",
        ".semaphore 0 pe",
        ".semaphore 1 act",
        ".semaphore 2 q_load",
        ".semaphore 3 q_store",
        '.variable 0 "x" input bf16 [128, 256]',
        '.variable 1 "fc/w:0" file bf16 [128, 64] "params/0000-fc_w_0"',
        '.variable 2 "y" output f32 [64, 256]',
        '.variable 7 "scratch" tmp f32 [4, 4]',
        '.origin 1 "/fc/MatMul"',
        '.origin 2 "Relu \\"\\u00fcn\\u00efcode\\"\\n"',
        ".macs 2097152",
        ".compulsory_bytes 147456",
        '.statistic "loops" 4',
        '.statistic "waits" 6',
        "",
        ".queue act",
        "L0 0x000018: reg_move r0, 0",
        "L1 0x000028: reg_move r1, 0",
        "L2 0x000038: wait(pe >= r0 + 1, q_store >= r0) activation dst sbuf f32 [0:64][96 : 128]"
        " data psum f32 [0:64][0 : 128] {func = relu, scale = 0.5} signal(act)"
        ' loc("Relu \\"\\u00fcn\\u00efcode\\"\\n")',
        "L3 0x0000a8: reg_add r0, r0, 1",
        "L4 0x0000b8: reg_add r1, r1, 128",
        "L5 0x0000c8: branch_less r0, 2, L2",
        "L6 0x0000d8: halt",
    ]


def test_dma_and_wait() -> None:
    program = copy_program("trn1")
    copy, wait = program.queues["sp"]
    whole = "[0 : 64 step 256, 256]"
    expected = f"dma_copy ring q0 dst dram f32 @1 {whole} src dram f32 @0 {whole} signal(q0)"
    assert entry_text(copy, program) == expected
    assert entry_text(wait, program) == "wait(q0 >= 1) wait"


# f32 fields are printed as the shortest text that gives the same f32 again.
def test_fields() -> None:
    fields = {"value": 0.1}
    memset = Instruction("memset", "dve", {"dst": sbuf("f32", 32, Affine(3), (1, 4))}, fields)
    assert instruction_text(memset) == "memset dst sbuf f32 [0:32][3 : 4] {value = 0.1}"
    for value, text in ((1e-30, "1e-30"), (float("-inf"), "-inf"), (3.0, "3.0")):
        assert instruction_text(Instruction("memset", "dve", {}, {"value": value})) == f"memset {{value = {text}}}"
    fields = {"op0": "add", "scalar0": 1.0, "reverse0": True}
    assert instruction_text(Instruction("tensor_scalar", "dve", {}, fields)).endswith(
        "{op0 = add, scalar0 = 1.0, reverse0 = true}"
    )


# Ten entries and more: the addresses stand below each other and are those of the encoder.
def test_addresses() -> None:
    program = copy_program("trn1")
    program.queues = {"sp": [QueueEntry(control="halt")] * 11}
    lines = [line for line in program_text(program, "sp") if line.startswith("L")]
    assert lines[0] == "L0  0x000018: halt"
    assert lines[10].startswith("L10 ")
    assert [int(line[4:12], 16) for line in lines] == record_addresses(program.queues["sp"])
