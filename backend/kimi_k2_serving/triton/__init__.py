"""Converts between tensors and core types. Apart from the model.py files, only this package imports pb_utils."""
