"""Tensors to core types and back. Beside the model.py files, the only code that imports pb_utils."""
