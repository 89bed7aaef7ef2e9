"""Operators, bytes and operations of the CUDA path, counted on torch's meta device."""
