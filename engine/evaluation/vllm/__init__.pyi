from .backend import announce as announce, model_name as model_name, served_answers as served_answers

__all__ = [
    "announce",
    "model_name",
    "served_answers",
]
