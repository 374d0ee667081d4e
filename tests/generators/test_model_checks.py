"""What is said of a model, and what is refused with which remedy. Tiny random models of every kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from tiny_models import tiny_model  # noqa: E402
from torch import nn  # noqa: E402

from bavt_fast.generators.model_checks import check_model, check_tokenizer  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import StepRequest  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_tokenizer  # noqa: E402

SIZE = 1016
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SIZES = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, **ENDS}


def build(family: str, kind: str = "ForCausalLM", **sizes: Any) -> Any:
    torch.manual_seed(0)
    name = {"GPT2LMHeadModel": "GPT2", "BertLMHeadModel": "Bert", "XLNetLMHeadModel": "XLNet"}.get(
        family + kind, family
    )
    return getattr(transformers, family + kind)(getattr(transformers, f"{name}Config")(**sizes))


def llama(**sizes: Any) -> Any:
    return build("Llama", **{**SIZES, "intermediate_size": 32, "max_position_embeddings": 48, **sizes})


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


# ---- facts


FAMILIES: dict[str, tuple[Callable[[], Any], int | None, int]] = {
    "Llama": (llama, 48, 16),
    "GPT2": (
        lambda: build("GPT2", "LMHeadModel", vocab_size=SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=32),
        32,
        16,
    ),
    "OPT, a head narrower than the model": (
        lambda: build("OPT", **SIZES, ffn_dim=32, word_embed_proj_dim=8, max_position_embeddings=40),
        40,
        8,
    ),
    "Falcon with ALiBi": (lambda: build("Falcon", **SIZES, alibi=True), None, 16),
    "Falcon with rotary positions": (lambda: build("Falcon", **SIZES, max_position_embeddings=40), 40, 16),
    "Bloom": (lambda: build("Bloom", vocab_size=SIZE, hidden_size=16, n_layer=1, n_head=2), None, 16),
    "MPT": (lambda: build("Mpt", vocab_size=SIZE, d_model=16, n_layers=1, n_heads=2), None, 16),
    "Mamba": (lambda: build("Mamba", vocab_size=SIZE, hidden_size=16, num_hidden_layers=1), None, 16),
    "RWKV": (
        lambda: build("Rwkv", vocab_size=SIZE, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16),
        None,
        16,
    ),
    "XLNet": (lambda: build("XLNet", "LMHeadModel", vocab_size=SIZE, d_model=16, n_layer=1, n_head=2), None, 16),
    "GPT-NeoX, which says that it is no decoder": (
        lambda: build("GPTNeoX", **SIZES, intermediate_size=32, max_position_embeddings=24),
        24,
        16,
    ),
    "RoBERTa as a decoder, whose first position is behind the padding id": (
        lambda: build(
            "Roberta", **SIZES | {"pad_token_id": 1}, intermediate_size=32, max_position_embeddings=42, is_decoder=True
        ),
        40,
        16,
    ),
    "BERT as a decoder": (
        lambda: build("Bert", "LMHeadModel", **SIZES, intermediate_size=32, is_decoder=True),
        512,
        16,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_are_what_a_forward_pass_shows(tokenizer: Any, family: str) -> None:
    make, max_positions, hidden_size = FAMILIES[family]
    model = make().eval()
    facts = check_model(model, tokenizer)
    assert (facts.max_positions, facts.hidden_size) == (max_positions, hidden_size)
    assert (facts.device, facts.dtype) == (torch.device("cpu"), torch.float32)
    assert facts.core is model
    assert "input_ids" in facts.parameters
    read = []
    hook = facts.output_head.register_forward_pre_hook(lambda head, inputs: read.append(inputs[0]))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[1, 2, 3]])).logits
    hook.remove()
    assert logits.shape == (1, 3, facts.vocabulary_size)
    assert read[0].shape[-1] == facts.hidden_size
    assert read[0].dtype == facts.dtype


def longrope(**factors: list[float]) -> Any:
    positions = {"max_position_embeddings": 48, "original_max_position_embeddings": 12, "pad_token_id": 0}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, **factors}
    return build("Phi3", **SIZES | positions, intermediate_size=32, rope_parameters=rope).eval()


def test_contexts_end_where_longer_ones_would_change_what_is_beside_them(tokenizer: Any) -> None:
    with pytest.warns(UserWarning, match=r"contexts end at 12 tokens.*up to 48 .*'short_factor'"):
        assert check_model(longrope(), tokenizer).max_positions == 12
    assert check_model(longrope(short_factor=[4.0] * 4), tokenizer).max_positions == 48
    short, long = torch.arange(3, 7), torch.arange(3, 17)
    beside = torch.stack([torch.cat([short, torch.zeros(10, dtype=torch.long)]), long])
    for model, is_changed in ((longrope(), True), (longrope(short_factor=[4.0] * 4), False)):
        with torch.no_grad():
            alone, other = model(short[None]).logits[0], model(beside).logits[0, :4]
        assert torch.allclose(alone, other, atol=1e-5) is not is_changed


def test_tied_weights_count_once(tokenizer: Any) -> None:
    apart, tied = (check_model(llama(tie_word_embeddings=tie), tokenizer) for tie in (False, True))
    assert apart.num_weights - tied.num_weights == SIZE * 16
    assert tied.num_weights == sum(weight.numel() for weight in llama(tie_word_embeddings=True).parameters())


def test_half_precision_is_seen(tokenizer: Any) -> None:
    assert check_model(llama().to(torch.bfloat16), tokenizer).dtype == torch.bfloat16


def test_a_larger_output_than_the_tokenizer(tokenizer: Any) -> None:
    assert check_model(llama(vocab_size=SIZE + 8), tokenizer).vocabulary_size == SIZE + 8


def test_a_model_without_generation_config(tokenizer: Any) -> None:
    model = llama()
    assert check_model(model, tokenizer).generation_config is model.generation_config
    del model.generation_config
    assert check_model(model, tokenizer).generation_config is None


def test_the_text_half_of_a_model_of_several_modalities(tokenizer: Any) -> None:
    text = transformers.LlamaConfig(**{**SIZES, "intermediate_size": 32, "max_position_embeddings": 48})
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(vision_config=vision, text_config=text))
    facts = check_model(model, tokenizer)
    assert (facts.max_positions, facts.vocabulary_size, facts.hidden_size) == (48, SIZE, 16)


# ---- what wraps a model


def test_a_compiled_model_is_asked_through_its_wrapper(tokenizer: Any) -> None:
    model = llama()
    facts = check_model(torch.compile(model), tokenizer)
    assert facts.core is model
    assert "position_ids" in facts.parameters
    assert facts.output_head is model.lm_head


class LayerAdapters(nn.Module):
    """The surface of PEFT's model that is used: adapters in the layers of a base model."""

    is_prompt_learning = False

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = model
        self.active_peft_config = self

    def get_base_model(self) -> Any:
        return self.base_model

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.base_model(*arguments, **named)


class VirtualTokens(LayerAdapters):
    is_prompt_learning = True


def test_adapters_in_the_layers(tokenizer: Any) -> None:
    model = llama()
    assert check_model(torch.compile(LayerAdapters(model)), tokenizer).core is model
    with pytest.raises(ValueError, match=r"model: expected adapters inside the layers, got a VirtualTokens.*use LoRA"):
        check_model(VirtualTokens(model), tokenizer)


def test_adapters_of_peft(tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"])
    facts = check_model(peft.get_peft_model(llama(), config), tokenizer)
    assert type(facts.core).__name__ == "LlamaForCausalLM"
    assert (facts.vocabulary_size, facts.hidden_size) == (SIZE, 16)
    virtual = peft.get_peft_model(llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="virtual tokens"):
        check_model(virtual, tokenizer)


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_packed_layers_say_their_own_sides(tokenizer: Any) -> None:
    """Quantised linear layers have no weight among the parameters, and none whose shape says how wide they are."""
    model = llama()
    packed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not list(packed.lm_head.parameters())
    facts = check_model(packed, tokenizer)
    assert (facts.vocabulary_size, facts.hidden_size, facts.dtype) == (SIZE, 16, torch.float32)
    assert facts.num_weights == check_model(model, tokenizer).num_weights


# ---- devices


class Hook:
    """What accelerate hangs on a module whose weights it fetches."""

    def __init__(self, execution_device: Any) -> None:
        self.execution_device = execution_device


def offloaded(execution_device: Any) -> Any:
    model = llama().to("meta")
    model.get_input_embeddings()._hf_hook = Hook(execution_device)
    return model


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_offloaded_weights_go_where_their_hook_says(tokenizer: Any, device: Any) -> None:
    facts = check_model(offloaded(device), tokenizer)
    assert facts.device == torch.device("cpu")
    assert facts.vocabulary_size == SIZE


def test_accelerate_offloads(tokenizer: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(llama(), execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    assert check_model(model, tokenizer).device == torch.device("cpu")


@pytest.mark.parametrize("family", ["Llama", "Mamba"])
def test_offloaded_models_are_driven(tokenizer: Any, family: str) -> None:
    """All weights are on the meta device between the passes, those of the input embedding too."""
    accelerate = pytest.importorskip("accelerate")
    asked = [StepRequest("Target: 24"), StepRequest("Target:", 1)]
    wanted = TorchGenerator(FAMILIES[family][0](), tokenizer, delimiter=")").propose(asked, [1, 1], [4, 4])
    model = accelerate.cpu_offload(FAMILIES[family][0](), execution_device=torch.device("cpu"))
    found = TorchGenerator(model, tokenizer, delimiter=")").propose(asked, [1, 1], [4, 4])
    assert [step.token_ids for (step,) in found] == [step.token_ids for (step,) in wanted]


def test_weights_without_values(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"model: expected weights with values, got some on the meta device; load it"):
        check_model(llama().to("meta"), tokenizer)
    with pytest.raises(ValueError, match=r"device of its input embedding, got offloaded weights whose hooks name none"):
        check_model(offloaded(None), tokenizer)


def test_several_devices_without_hooks(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(nn.Parameter):
        device = torch.device("cuda:1")

    model = llama()
    model.lm_head.weight = Elsewhere(model.lm_head.weight.data)
    with pytest.raises(ValueError, match=r"model: expected weights on one device, got cpu, cuda:1; move it"):
        check_model(model, tokenizer)
    model.model._hf_hook = Hook(None)
    assert check_model(model, tokenizer).device == torch.device("cpu")


# ---- what is refused


class ValueHeadWrapper(nn.Module):
    """As trl wraps a model: logits, loss and a value in a tuple."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.pretrained_model = model
        self.v_head = nn.Linear(16, 1)
        self.config = model.config


def refused() -> dict[str, tuple[Callable[[], Any], type[Exception], str]]:
    inner = {"intermediate_size": 32}
    t5 = {"vocab_size": SIZE, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return {
        "T5": (
            lambda: build("T5", "ForConditionalGeneration", **t5),
            ValueError,
            r"model: expected a decoder alone, got a T5ForConditionalGeneration, an encoder-decoder",
        ),
        "AutoModel": (
            lambda: build("Llama", "Model", **SIZES, **inner),
            TypeError,
            r"model: expected one with an output head, got LlamaModel, .*AutoModelForCausalLM",
        ),
        "a classifier": (
            lambda: build("Llama", "ForSequenceClassification", **SIZES, **inner),
            TypeError,
            r"expected one with an output head, got LlamaForSequenceClassification",
        ),
        "several output heads": (
            lambda: transformers.MusicgenForCausalLM(
                transformers.MusicgenDecoderConfig(**SIZES | {"pad_token_id": 0}, ffn_dim=16, num_codebooks=2)
            ),
            TypeError,
            r"model: expected one output head, got MusicgenForCausalLM, which has 2; load one with",
        ),
        "BERT for masked words": (
            lambda: build("Bert", "ForMaskedLM", **SIZES, **inner),
            ValueError,
            r"model: expected a causal model, got BertForMaskedLM, whose tokens see those after them; set is_decoder",
        ),
        "ModernBERT, which does not say whether it is a decoder": (
            lambda: build("ModernBert", "ForMaskedLM", **{**SIZES, "pad_token_id": 0, "cls_token_id": 1}, **inner),
            ValueError,
            r"model: expected a causal model, got ModernBertForMaskedLM, whose tokens see those after them",
        ),
        "BERT that was not told to look back": (
            lambda: build("Bert", "LMHeadModel", **SIZES, **inner),
            ValueError,
            r"whose tokens see those after them",
        ),
        "a value head": (
            lambda: ValueHeadWrapper(llama()),
            TypeError,
            r"expected a causal language model of transformers, got a ValueHeadWrapper; pass its \.pretrained_model",
        ),
        "data parallel": (lambda: nn.DataParallel(llama()), TypeError, r"got a DataParallel; pass its \.module"),
        "a plain module": (
            lambda: nn.Linear(2, 2),
            TypeError,
            r"got a Linear; load one with AutoModelForCausalLM\.from_pretrained\(\.\.\.\) or bavt_fast\.load\(\.\.\.\)",
        ),
        "a name": (lambda: "gpt2", TypeError, r"got a str; load one with .*bavt_fast\.load"),
    }


@pytest.mark.parametrize("what", refused())
def test_refused_with_the_remedy(tokenizer: Any, what: str) -> None:
    make, error, message = refused()[what]
    with pytest.raises(error, match=message):
        check_model(make(), tokenizer)


def test_the_mode_of_a_model_that_was_tried_is_kept(tokenizer: Any) -> None:
    model = build("GPTNeoX", **SIZES, intermediate_size=32).train()
    check_model(model, tokenizer)
    assert model.training


class Processor:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer


def test_what_is_no_tokenizer(tokenizer: Any) -> None:
    check_tokenizer(tokenizer)
    with pytest.raises(TypeError, match=r"expected a tokenizer of transformers, got a Processor; pass its \.token"):
        check_model(llama(), Processor(tokenizer))
    with pytest.raises(TypeError, match=r"got a Tokenizer; wrap it: PreTrainedTokenizerFast\(tokenizer_object"):
        check_tokenizer(tokenizer.backend_tokenizer)
    with pytest.raises(TypeError, match=r"got a str; load one with AutoTokenizer"):
        check_tokenizer("gpt2")
    with pytest.raises(TypeError, match=r"got a NoneType; load one"):
        check_model(llama(), None)
    with pytest.raises(TypeError, match=r"model: expected a model, got a tokenizer; the order is \(model, tokenizer\)"):
        check_model(tokenizer, llama())


def test_a_tokenizer_of_another_model_is_warned_of(tokenizer: Any) -> None:
    with pytest.warns(UserWarning, match=r"tokenizer: it has 1010 tokens, the model 1000: .*resize_token_embeddings"):
        check_model(llama(vocab_size=1000), tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_model(llama(), tokenizer)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda model: model.half(), "torch.float16, cpu, "),
        (lambda model: model.to("meta"), "torch.float32, meta, "),
        (lambda model: model.resize_token_embeddings(2000, mean_resizing=False), r"torch.float32, cpu, \(2000, 32\)"),
    ],
)
def test_a_model_that_changes_behind_a_generator_is_refused(tokenizer: Any, change: Any, got: str, begun: bool) -> None:
    generator = TorchGenerator(tiny_model(), tokenizer, delimiter=")")
    ask = [StepRequest("4 5 ")], [1], [2]
    if begun:
        generator.propose(*ask)
    change(generator.model)
    told = rf"model: expected the input embedding as it was when the generator was made \(torch.float32, .*got {got}"
    with pytest.raises(ValueError, match=told):
        generator.propose(*ask)
    with pytest.raises(ValueError, match=told):
        generator.submit([0], *ask)
    with pytest.raises(ValueError, match=told):
        generator.read([ask[0][0].node])
    assert generator.discard([0]) == {}
