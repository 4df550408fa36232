"""A small hand-built model that uses every part of the format: two core programs, a host model, loops, parameters."""

import hashlib
from dataclasses import replace

import ml_dtypes
import numpy as np

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.isa.program import CoreProgram, DramVariable, QueueEntry
from runtime.neff import CORE, HOST, CoreImage, GraphNode, Neff, TensorSpec, neff_bytes, parameter_file_name
from runtime.neff.header import HEADER_BYTES, NeffHeader, parse_header


def sbuf(dtype: str, partitions: int, offset: Affine | int, *dims: tuple[int, int]) -> Operand:
    start = offset if isinstance(offset, Affine) else Affine(offset)
    return Operand("sbuf", dtype, AccessPattern(Affine(), partitions, start, dims))


def psum(partitions: int, *dims: tuple[int, int]) -> Operand:
    return Operand("psum", "f32", AccessPattern(Affine(), partitions, Affine(), dims))


def dram(variable: int, dtype: str, offset: Affine | int, *dims: tuple[int, int]) -> Operand:
    start = offset if isinstance(offset, Affine) else Affine(offset)
    return Operand("dram", dtype, AccessPattern(Affine(), 0, start, dims), variable)


def register(number: int, constant: int = 0) -> Affine:
    return Affine(constant, ((number, 1),))


def dma(dst: Operand, src: Operand, ring: str, signal: int, *waits: tuple[int, Affine]) -> QueueEntry:
    return QueueEntry(
        Instruction("dma_copy", "dma", {"dst": dst, "src": src}), ring=ring, waits=waits, signal=signal, origin=1
    )


SEMAPHORES = ("pe", "act", "q_load", "q_store")


def matmul_program(target: str) -> CoreProgram:
    """y = relu(w^T x): 64 x 128 by 128 x 256, in a loop of two column tiles."""
    tile = ((1, 128),)
    load_w = dma(sbuf("bf16", 128, 0, (1, 64)), dram(1, "bf16", 0, (64, 128), (1, 64)), "q_load", 2)
    load_x = dma(
        sbuf("bf16", 128, 64, *tile), dram(0, "bf16", register(1), (256, 128), (1, 128)), "q_load", 2,
        (0, register(0)),
    )  # fmt: skip
    store_y = dma(dram(2, "f32", register(1), (256, 64), (1, 128)), sbuf("f32", 64, 96, *tile), "q_store", 3,
                  (1, register(0, 1)))  # fmt: skip
    weights, columns = sbuf("bf16", 128, 0, (1, 64)), sbuf("bf16", 128, 64, *tile)
    operands = {"dst": psum(64, *tile), "stationary": weights, "moving": columns}
    matmul = Instruction("nc_matmul", "pe", operands, {"accumulate": Affine()})
    operands = {"dst": sbuf("f32", 64, 96, *tile), "data": psum(64, *tile)}
    relu = Instruction("activation", "act", operands, {"func": "relu", "scale": 0.5})

    def loop(*body: QueueEntry, before: tuple[QueueEntry, ...] = ()) -> list[QueueEntry]:
        """`before`, then `body` for register 0 in 0 .. 1 with register 1 = 128 * register 0."""
        return [
            *before,
            QueueEntry(control="reg_move", numbers=(0, 0)),
            QueueEntry(control="reg_move", numbers=(1, 0)),
            *body,
            QueueEntry(control="reg_add", numbers=(0, 0, 1)),
            QueueEntry(control="reg_add", numbers=(1, 1, 128)),
            QueueEntry(control="branch_less", numbers=(0, 2, 2 + len(before))),
            QueueEntry(control="halt"),
        ]

    return CoreProgram(
        target=target,
        queues={
            "pe": loop(QueueEntry(matmul, waits=((2, register(0, 2)), (1, register(0))), signal=0, origin=1)),
            "act": loop(QueueEntry(relu, waits=((0, register(0, 1)), (3, register(0))), signal=1, origin=2)),
            "sp": loop(load_x, before=(load_w,)),
            "pool": loop(store_y),
        },
        variables=[
            DramVariable(0, "x", "input", "bf16", (128, 256)),
            DramVariable(1, "fc/w:0", "file", "bf16", (128, 64), parameter_file_name(0, "fc/w:0")),
            DramVariable(2, "y", "output", "f32", (64, 256)),
            DramVariable(7, "scratch", "tmp", "f32", (4, 4)),
        ],
        semaphores=SEMAPHORES,
        origins=("", "/fc/MatMul", 'Relu "ünïcode"\n'),
        macs=64 * 128 * 256,
        compulsory_bytes=147456,
        statistics={"loops": 4, "waits": 6},
    )


def copy_program(target: str) -> CoreProgram:
    """z = y by one DMA from DRAM to DRAM, with parameters of odd types beside it."""
    shapes = {"mask": ("i1", (3,)), "scalar": ("i64", ()), "empty": ("f16", (0, 4)), "table": ("ui8", (5, 3))}
    files = [
        DramVariable(10 + i, name, "file", dtype, shape, parameter_file_name(i, name))
        for i, (name, (dtype, shape)) in enumerate(shapes.items())
    ]
    whole = ((256, 64), (1, 256))
    copy = dma(dram(1, "f32", 0, *whole), dram(0, "f32", 0, *whole), "q0", 0)
    return CoreProgram(
        target=target,
        queues={"sp": [replace(copy, origin=0), QueueEntry(control="wait", waits=((0, Affine(1)),))]},
        variables=[
            DramVariable(0, "y", "input", "f32", (64, 256)),
            DramVariable(1, "z", "output", "f32", (64, 256)),
            *files,
        ],
        semaphores=("q0",),
    )


def sample_neff(target: str = "trn1") -> Neff:
    """x -> host (cast) -> core -> core -> z, with a second output straight from the host."""
    weights = np.arange(128 * 64, dtype=np.float32).reshape(128, 64).astype(ml_dtypes.bfloat16)
    odd = {
        "mask": np.array([True, False, True]),
        "scalar": np.array(-7, np.int64),
        "empty": np.empty((0, 4), np.float16),
        "table": bytes(range(15)),
    }
    return Neff(
        name="two cores, ünïcode",
        target=target,
        subgraphs=[CoreImage(matmul_program(target), {"fc/w:0": weights}), CoreImage(copy_program(target), odd)],
        host_models=[b"not really an ONNX model"],
        graph=[
            GraphNode(HOST, 0, ("tokens",), ("x", "length"), "cast"),
            GraphNode(CORE, 0, ("x",), ("y",), "neuron_0"),
            GraphNode(CORE, 1, ("y",), ("z",), "neuron_1"),
        ],
        inputs=[TensorSpec("tokens", (128, 256), "i64", "i32")],
        outputs=[TensorSpec("z", (64, 256), "f32", "f32"), TensorSpec("length", (), "i64", "i64")],
        intermediates=[
            TensorSpec("x", (128, 256), "f32", "bf16"),
            TensorSpec("y", (64, 256), "f32", "f32"),
        ],
        report={"partition": [{"op": "Cast_0", "where": "host", "why": "no graph operator"}], "peak_sbuf_bytes": 1024},
    )


def sample_bytes(compress: bool = False) -> bytes:
    return neff_bytes(sample_neff(), compress=compress)


def sealed(payload: bytes, like: bytes) -> bytes:
    """A file with another archive and a header that fits it, which an attacker can make as well as we can."""
    header = parse_header(like[:HEADER_BYTES], len(like))
    digest = hashlib.sha256(payload).digest()
    return NeffHeader(header.name, header.num_tpb, digest, len(payload), header.build_version).pack() + payload
