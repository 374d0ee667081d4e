"""Which options of ``bavt-fast run`` have an effect beside which others: those that have none are refused."""

from __future__ import annotations

import typer

from bavt_fast.cli.options import refuse_options

__all__ = ["check_options"]

_WORDS = ("task", "vote_by", "critic", "system", "chat")
_LOADING = ("device", "dtype", "threads", "trust_remote_code")
_SEARCH = (
    "policy",
    "temperature",
    "wave",
    "max_step_tokens",
    "retries",
    "token_cost",
    "prompt_token_cost",
    "max_prompt_tokens",
)


def check_options(context: typer.Context, *, is_folder: bool) -> None:
    """Refuses what was given and has no effect.

    Args:
        is_folder: whether a model folder searches, which has a task of its own.

    Raises:
        ValueError: naming such an option, and what it has no effect beside.
    """
    given = context.params
    if given["searcher"] is not None:
        refuse_options(context, (*_SEARCH, *_WORDS, *_LOADING), "without --searcher, which brings its own")
    elif given["server"] is not None:
        refuse_options(context, _LOADING, "without --server, which has loaded its model")
    elif is_folder:
        model = "the embedded model" if given["model"] is None else f"--model {given['model']}, a model folder"
        refuse_options(context, _WORDS, f"beside --server or the --model of a language model, got it with {model}")
        refuse_options(context, ("device", "dtype"), f"beside the --model of a language model, got it with {model}")
    if given["ray"] is None:
        refuse_options(context, ("ray_workers", "ray_gpus"), "beside --ray, got it without")
