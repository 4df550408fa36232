"""Conversions between levels and the pipeline that joins them: onnx -> graph -> tile -> nisa -> NEFF."""
