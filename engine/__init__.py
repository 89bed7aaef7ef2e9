"""Puts prompts, backbones and tasks together: configuration, data, the DeepSpeed engine, the loops, evaluation,
reports.
"""
