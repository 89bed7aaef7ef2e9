"""What the ranks of a pool have imported before they are forked: everything that their first job would import."""

from importlib import import_module

for name in (
    "deepspeed",
    "torch._dynamo",
    "transformers.models.gpt_oss.modeling_gpt_oss",
    "transformers.models.llama.modeling_llama",
    "distributed_jobs",
):
    import_module(name)
