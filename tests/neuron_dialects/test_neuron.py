from pathlib import Path

import pytest
from xdsl.dialects.builtin import (
    UNKNOWN_LOC,
    FileLineColLoc,
    FunctionType,
    FusedLoc,
    IntAttr,
    ModuleOp,
    NameLoc,
    NoneAttr,
    StringAttr,
    SymbolRefAttr,
    TensorType,
    f32,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region
from xdsl.traits import is_side_effect_free
from xdsl.utils.exceptions import VerifyException

from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import (
    TARGET_ATTRIBUTE,
    WEIGHTS_ATTRIBUTE,
    Executor,
    LaunchOp,
    TargetAttr,
    launch_problems,
    location_name,
    target_of,
    weights_path,
)
from neuron_dialects.target import target_names

T4 = TensorType(f32, [4])


def segment(name: str) -> FuncOp:
    return FuncOp(name, FunctionType.from_lists([T4], [T4]), Region(), "private")


# Every target that ships has an attribute; a name that does not ship is refused when the attribute is built.
def test_target_names():
    for name in target_names():
        TargetAttr(name).verify()
    with pytest.raises(VerifyException, match="unknown target 'inf9', expected one of inf1, "):
        TargetAttr("inf9")


# A launch may be dropped when nobody needs its results, and two equal ones may be merged.
def test_launch_has_no_side_effects():
    assert is_side_effect_free(LaunchOp("f", [], [T4], Executor.CORE))


# A launch sees the functions of the module it stands in, not those of a module around it.
def test_launch_looks_into_its_own_module():
    block = Block(arg_types=[T4])
    launch = LaunchOp("outer", [block.args[0]], [T4], Executor.HOST)
    block.add_ops([launch, ReturnOp()])
    inner = ModuleOp([FuncOp("main", ((T4,), ()), Region(block)), segment("inner")])
    module = ModuleOp([inner, segment("outer")])

    assert launch_problems(module) == [(launch, "launches @outer, but the module has no such function")]
    launch.callee = SymbolRefAttr("inner")
    assert launch_problems(module) == []


# Where the weights file is: beside the file that the module was read from; as named if that is absolute; else unknown.
def test_weights_path():
    module = ModuleOp([])
    assert weights_path(module) is None
    module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr("digits.safetensors")
    assert weights_path(module) == Path("digits.safetensors")
    module.location = FileLineColLoc(StringAttr("models/digits.mlir"), IntAttr(1), IntAttr(1))
    assert weights_path(module) == Path("models/digits.safetensors")
    module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr("/data/digits.safetensors")
    assert weights_path(module) == Path("/data/digits.safetensors")


# The target that a module names, with its figures; a module that names none says how to name one.
def test_target_of():
    module = ModuleOp([], {TARGET_ATTRIBUTE: TargetAttr("trn2")})
    assert target_of(module).name == "trn2"
    with pytest.raises(NeuronError, match="names no target") as error:
        target_of(ModuleOp([]))
    assert error.value.code == "NX-TARGET-003"


# The node that an operation comes from; of a fused operation the first node that is named.
def test_location_name():
    conv = NameLoc(StringAttr("Conv_0"), NoneAttr())
    relu = NameLoc(StringAttr("Relu_1"), NoneAttr())
    assert location_name(conv) == "Conv_0"
    assert location_name(UNKNOWN_LOC) is None
    nested = FusedLoc((FusedLoc((UNKNOWN_LOC,), NoneAttr()), relu, conv), NoneAttr())
    assert location_name(nested) == "Relu_1"
