"""Names in a model file are text: protobuf's parser leaves those that are not valid UTF-8 as bytes.

Given a parsed model, `check_text` refuses such names, so that whoever reads a name afterwards has a string in hand.
What decides nothing may hold anything: descriptions written in an old encoding occur in real files.
"""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

from neuron_dialects.errors import NeuronError

_UNREAD = frozenset(("doc_string", "producer_name", "producer_version", "metadata_props", "quantization_annotation"))
"""Fields that decide nothing."""


def check_text(model: ModelProto) -> None:
    """NeuronError NX-ONNX-001 for a name, or another text that decides something, that is not valid UTF-8."""
    pending: list[Message] = [model]
    while pending:
        message = pending.pop()
        if isinstance(message, TensorProto):
            # Listing a tensor's fields would copy its data.
            _require_text("name", message.name, message)
            pending.extend(message.external_data)
            continue
        for field, value in message.ListFields():
            if field.name in _UNREAD:
                continue
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                pending.extend([value] if isinstance(value, Message) else value)
            elif field.type == FieldDescriptor.TYPE_STRING:
                for text in [value] if isinstance(value, str | bytes) else value:
                    _require_text(field.name, text, message)


def _require_text(field: str, text: str | bytes, message: Message) -> None:
    if isinstance(text, bytes):
        shown = text[:40].decode(errors="backslashreplace")
        raise NeuronError(
            "NX-ONNX-001", f"'{field}' of a {message.DESCRIPTOR.name} in the model is not valid UTF-8: '{shown}'"
        )
