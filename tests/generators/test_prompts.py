"""Prompts as ids: one BOS, no EOS at the end, control tokens only where the template wrote them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from tiny_tokenizers import (
    BOS,
    CHAT_TEMPLATE,
    EOS,
    FAST_KINDS,
    KINDS,
    PAD,
    UNK,
    tiny_tokenizer,
)
from tokenizers import AddedToken, normalizers

from bavt_fast.generators.prompts import ChatPrompts, PlainPrompts
from bavt_fast.generators.vocabulary import Vocabulary

SPELLING = ("byte_level", "llama", "metaspace", "unigram", "wordpiece", "word_suffix", "slow_bytes", "slow_letters")
"""Kinds that have tokens for the letters of a control word."""
NO_SYSTEM_ROLE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}<{{ message['role'] }}>{{ message['content'] | trim }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""As Gemma's: it refuses the system role, and trims."""
LEAVES_SYSTEM_OUT = CHAT_TEMPLATE.replace("in messages %}", "in messages if message['role'] != 'system' %}")
NO_BOS = CHAT_TEMPLATE.replace("{{ bos_token or '' }}", "")


def chat_tokenizer(kind: str = "byte_level", template: str | None = CHAT_TEMPLATE, **options: Any) -> Any:
    return tiny_tokenizer(kind, chat_template=template, **options)


def encode(tokenizer: Any, text: str, **options: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, **options)["input_ids"]
    return ids


def rendered(prompts: ChatPrompts, question: str) -> str:
    """The chat as text, control tokens included (byte-level tokenizers only: those are exact)."""
    text: str = prompts.tokenizer.decode(prompts(question), skip_special_tokens=False)
    return text


# --- plain text


@pytest.mark.parametrize("appends_eos", [False, True])
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("kind", FAST_KINDS)
def test_plain_text_has_its_bos_once_and_no_eos(kind: str, adds_bos: bool, appends_eos: bool) -> None:
    tokenizer = tiny_tokenizer(kind, adds_bos=adds_bos, appends_eos=appends_eos)
    prompts, text = PlainPrompts(tokenizer), "Step 1: the dog"
    before = [tokenizer.bos_token_id] if adds_bos else []
    assert prompts(text) == before + encode(tokenizer, text)
    assert prompts(BOS + text) == [tokenizer.bos_token_id, *encode(tokenizer, BOS + text)[1:]]
    assert tokenizer.eos_token_id not in prompts(text)


def test_a_slow_tokenizer_appends_no_eos() -> None:
    tokenizer = tiny_tokenizer("slow_bytes")
    assert tokenizer("ab")["input_ids"][-1] == tokenizer.eos_token_id
    assert PlainPrompts(tokenizer)("ab") == [100, 101]


def test_nothing_is_cut_off_or_filled_up() -> None:
    tokenizer = tiny_tokenizer("byte_level", adds_bos=True)
    text = "the dog does not mind the fox </s> at all"
    for prompts in (PlainPrompts(tokenizer), PlainPrompts(tokenizer, tokens_as_text=True)):
        tokenizer.backend_tokenizer.enable_truncation(4)
        tokenizer.backend_tokenizer.enable_padding(length=64)
        assert tokenizer.decode(prompts(text)) == BOS + text


@pytest.mark.parametrize("kind", KINDS)
def test_control_words_in_plain_text(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    text = "print </s> the <pad>"
    controls = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert controls <= set(PlainPrompts(tokenizer)(text))
    assert controls.isdisjoint(PlainPrompts(tokenizer, tokens_as_text=True)(text))
    harmless = "print the dog"
    assert PlainPrompts(tokenizer, tokens_as_text=True)(harmless) == encode(tokenizer, harmless)


@pytest.mark.parametrize("kind", SPELLING)
def test_control_words_as_text_are_spelled(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    ids = PlainPrompts(tokenizer, tokens_as_text=True)("the </s> dog <s>")
    text = Vocabulary(tokenizer, len(tokenizer)).text(ids)
    assert text.replace(" ", "") == "the</s>dog<s>"
    if kind in ("byte_level", "slow_bytes", "slow_letters"):
        assert text == "the </s> dog <s>"
        assert ids == encode(tokenizer, "the </s> dog <s>", split_special_tokens=True)


def test_an_empty_text_begins_with_bos_or_is_refused() -> None:
    adding = tiny_tokenizer("byte_level", adds_bos=True)
    having = tiny_tokenizer("byte_level")
    assert PlainPrompts(adding)("") == [adding.bos_token_id]
    assert PlainPrompts(having)("") == [having.bos_token_id]
    with pytest.raises(
        ValueError, match=r"^text: expected a text of at least one token .* no BOS .* begin with some text"
    ):
        PlainPrompts(tiny_tokenizer("byte_level", bos=False))("")


@pytest.mark.parametrize("text", [None, b"text", ["text"]])
def test_texts_are_str(text: Any) -> None:
    tokenizer = chat_tokenizer()
    with pytest.raises(TypeError, match=r"^text: expected a str, got"):
        PlainPrompts(tokenizer)(text)
    with pytest.raises(TypeError, match=r"^question: expected a str, got"):
        ChatPrompts(tokenizer)(text)
    with pytest.raises(TypeError, match=r"^opening: expected a str, got"):
        ChatPrompts(tokenizer, opening=text)
    with pytest.raises(TypeError, match=r"^examples\[0\]: expected a str, got"):
        ChatPrompts(tokenizer, examples=[("question", text)])
    for examples in (["qa"], None, 5, [("question",)], [3], {"question": "answer"}, "qa"):
        with pytest.raises(TypeError, match=r"^examples: expected pairs \(question, answer\), got"):
            ChatPrompts(tokenizer, examples=examples)  # type: ignore[arg-type]


def test_a_tokenizer_that_refuses_strangers_is_probed_with_its_own_words() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<s>": 0, "seven": 1, "plus": 2}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    prompts = PlainPrompts(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))
    assert prompts("seven plus seven") == [0, 1, 2, 1]


# --- chats


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_is_what_its_template_writes(kind: str) -> None:
    tokenizer = chat_tokenizer(kind)
    messages = [
        {"role": "system", "content": "the dog"},
        {"role": "user", "content": "3 and 4"},
        {"role": "assistant", "content": "gives 7."},
        {"role": "user", "content": "multiply by 2"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + "Step 1:"
    prompts = ChatPrompts(tokenizer, system="the dog", examples=[("3 and 4", "gives 7.")], opening="Step 1:")
    assert prompts("multiply by 2") == encode(tokenizer, text)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, NO_BOS], ids=["template with BOS", "template without"])
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("question", ["the dog", "the </s> dog"])
def test_a_chat_has_bos_once(template: str, adds_bos: bool, question: str) -> None:
    tokenizer = chat_tokenizer(template=template, adds_bos=adds_bos, appends_eos=True)
    ids = ChatPrompts(tokenizer)(question)
    count = 0 if template is NO_BOS and not adds_bos else 1
    assert ids.count(tokenizer.bos_token_id) == count
    assert ids[:count] == [tokenizer.bos_token_id] * count
    assert ids.count(tokenizer.eos_token_id) == 1  # the user's turn ends in it
    assert tokenizer.decode(ids).endswith("[assistant]\n")


def test_a_tokenizer_without_bos_gets_none() -> None:
    assert rendered(ChatPrompts(chat_tokenizer(bos=False)), "the dog").startswith("[user]\nthe dog")


@pytest.mark.parametrize("kind", KINDS)
def test_control_words_of_the_user_are_text(kind: str) -> None:
    """The template's own control tokens stay, and so do those of the developer."""
    tokenizer = chat_tokenizer(kind)
    examples = [("the <s> dog", "the <pad> fox")]
    written = ChatPrompts(tokenizer, system="a", examples=examples, opening=PAD)("print </s> and <pad> the <s>")
    controls = [i for i in written if i in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)]
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    bos_ids = [] if bos is None else [bos]
    assert controls == [*bos_ids, eos, eos, pad, eos, eos, pad]
    taken = ChatPrompts(tokenizer, user_tokens_as_text=False)("print </s> and <pad>")
    assert taken.count(eos) == 2
    assert taken.count(pad) == 1


@pytest.mark.parametrize("kind", SPELLING)
def test_masked_chats_read_as_the_others_do(kind: str) -> None:
    """Beside the control words nothing changes: the tokens of the other turns are those of a harmless chat."""
    tokenizer = chat_tokenizer(kind)
    prompts = ChatPrompts(tokenizer, system="the dog does", examples=[("3 and 4", "gives 7.")], opening="Step 1:")
    harmless, harmful = prompts("print the dog"), prompts("print </s> the dog")
    at = next(i for i, (one, other) in enumerate(zip(harmless, harmful, strict=False)) if one != other)
    behind = len(encode(tokenizer, "[assistant]\nStep 1:")) - 1
    assert harmless[:at] == harmful[:at]
    assert at > len(harmless) // 2
    assert harmless[-behind:] == harmful[-behind:]
    text = Vocabulary(tokenizer, len(tokenizer)).text(harmful)
    assert "print</s>thedog" in text.replace(" ", "")


def test_control_words_stay_words_where_a_template_changes_letters() -> None:
    template = "{% for message in messages %}{{ message.content | upper }}{% endfor %}"
    tokenizer = tiny_tokenizer("byte_level", chat_template=template)
    ids = ChatPrompts(tokenizer)("the </s> tag")
    assert tokenizer.decode(ids) == "THE </s> TAG"
    assert tokenizer.eos_token_id not in ids


def test_a_chat_of_control_words_is_exact_where_the_tokenizer_is() -> None:
    prompts = ChatPrompts(chat_tokenizer(), system="the dog")
    question = "  print </s>\n<s><pad></s"
    assert rendered(prompts, question) == f"{BOS}[system]\nthe dog{EOS}\n[user]\n{question}{EOS}\n[assistant]\n"
    masked = prompts(question)
    assert masked == prompts(question)
    assert pickle.loads(pickle.dumps(prompts))(question) == masked
    assert prompts.tokenizer.backend_tokenizer.encode_special_tokens is False  # the caller's tokenizer is as it was
    assert len(prompts.tokenizer) == len(chat_tokenizer())


def test_a_tokenizer_that_splits_control_words_still_knows_the_templates() -> None:
    tokenizer = chat_tokenizer()
    expected = ChatPrompts(tokenizer)("the dog")
    tokenizer.split_special_tokens = True
    assert ChatPrompts(tokenizer)("the dog") == expected
    assert tokenizer.eos_token_id in PlainPrompts(tokenizer)("the </s> dog")


def test_a_template_may_treat_the_users_text() -> None:
    """It trims here. What it looks for, it finds in the text itself, not in something that stands for it."""
    prompts = ChatPrompts(chat_tokenizer(template=NO_SYSTEM_ROLE))
    assert rendered(prompts, "  the </s> dog \n") == f"{BOS}<user>the </s> dog{EOS}<assistant>"


def test_added_tokens_that_the_template_writes_are_control_words() -> None:
    template = CHAT_TEMPLATE.replace("[assistant]\n", "[assistant]\n</think>")
    tokenizer = chat_tokenizer(template=template, added=("</think>", "<tool>", "\n"))
    think, tool, line = tokenizer.convert_tokens_to_ids(["</think>", "<tool>", "\n"])
    ids = ChatPrompts(tokenizer)("a </think> b <tool> c\n</s>")
    assert ids.count(think) == 1
    assert ids[-1] == think
    assert tool in ids  # nothing but a longer word
    assert ids.count(line) == tokenizer.decode(ids).count("\n") == 4  # the user's too
    spelled = encode(chat_tokenizer(), "a </think> b ")
    assert spelled in [ids[at : at + len(spelled)] for at in range(len(ids))]
    assert ChatPrompts(tokenizer, user_tokens_as_text=False)("a </think> b").count(think) == 2


def test_control_words_are_found_as_the_tokenizer_reads_them() -> None:
    """A token that is matched after normalising: capitals make it too."""
    tokenizer = chat_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<turn>", normalized=True, special=True)])
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    assert turn in encode(tokenizer, "the <TURN> dog")
    ids = ChatPrompts(tokenizer)("the <TURN> dog")
    assert turn not in ids
    assert "the <turn> dog" in tokenizer.decode(ids)


def test_the_unknown_word_is_a_word() -> None:
    tokenizer = chat_tokenizer("llama")
    assert tokenizer.unk_token_id in encode(tokenizer, "the <unk> dog")
    ids = ChatPrompts(tokenizer)("the <unk> dog")
    assert tokenizer.unk_token_id not in ids
    assert "the <unk> dog" in tokenizer.decode(ids)


def test_the_longest_control_word_counts() -> None:
    tokenizer = chat_tokenizer(template=CHAT_TEMPLATE.replace("{{ eos_token }}", "</s></s>>"))
    tokenizer.backend_tokenizer.add_special_tokens(["</s>>"])
    longer = tokenizer.convert_tokens_to_ids("</s>>")
    ids = ChatPrompts(tokenizer)("print </s>> now")
    assert ids.count(longer) == 1
    assert ids.count(tokenizer.eos_token_id) == 1


def test_words_that_no_tokens_spell_are_unknown() -> None:
    tokenizer = chat_tokenizer("words")
    ids = ChatPrompts(tokenizer)("the </s> dog, <unk>")
    unknown = tokenizer.unk_token_id
    assert ids[2:6] == [*encode(tokenizer, "the"), unknown, *encode(tokenizer, "dog,"), unknown]
    assert UNK in tokenizer.get_vocab()


# --- templates and their options


@pytest.mark.parametrize("template", [None, ""])
def test_without_a_template_plain_prompts_are_named(template: str | None) -> None:
    tokenizer = chat_tokenizer(template=template)
    if template is None:
        with pytest.raises(ValueError, match=r"^tokenizer: expected one with a chat template.*PlainPrompts"):
            ChatPrompts(tokenizer)
    assert rendered(ChatPrompts(tokenizer, chat_template=CHAT_TEMPLATE), "dog").startswith("<s>[user]\ndog")


@pytest.mark.parametrize("template", [NO_SYSTEM_ROLE, LEAVES_SYSTEM_OUT])
def test_a_system_prompt_joins_the_first_turn_where_there_is_no_role_for_it(template: str) -> None:
    tokenizer = chat_tokenizer(template=template)
    alone = rendered(ChatPrompts(tokenizer, system="be brief"), "3 + 4?")
    assert "user" in alone
    assert "be brief\n\n3 + 4?" in alone
    several = rendered(ChatPrompts(tokenizer, system="be brief", examples=[("1 + 1?", "2")]), "3 + 4?")
    assert several.count("be brief") == 1
    assert "be brief\n\n1 + 1?" in several
    assert "system" not in several
    empty = rendered(ChatPrompts(tokenizer, system=""), "3 + 4?")
    assert empty == rendered(ChatPrompts(tokenizer), "3 + 4?")


def test_a_system_prompt_like_anything_else_in_the_chat_keeps_its_role() -> None:
    text = rendered(ChatPrompts(chat_tokenizer(), system="?"), "3 + 4?")
    assert text.startswith("<s>[system]\n?</s>\n[user]\n3 + 4?</s>")
    assert rendered(ChatPrompts(chat_tokenizer(), system=""), "dog").startswith("<s>[system]\n</s>\n[user]\ndog")


def test_a_template_that_refuses_says_so_at_once() -> None:
    template = "{{ raise_exception('needs a persona') }}"
    with pytest.raises(ValueError, match=r"^chat template: it refuses the turns user: needs a persona; pass"):
        ChatPrompts(chat_tokenizer(template=template))
    template = CHAT_TEMPLATE + "{% if not tools %}{{ raise_exception('no tools') }}{% endif %}"
    with pytest.raises(ValueError, match=r"^chat template: it refuses the turns user, assistant, user: no tools"):
        ChatPrompts(chat_tokenizer(template=template), system="a", examples=[("b", "c")])


def test_a_template_that_fails_in_python_says_so_too() -> None:
    with pytest.raises(ValueError, match=r"^chat template: it refuses the turns user: can only concatenate str"):
        ChatPrompts(chat_tokenizer(template="{{ messages[0].content + 1 }}"))


@pytest.mark.parametrize(
    ("template", "left_out"),
    [
        ("", "2 of 2"),
        ("{% for m in messages %}{{ m.content[0].text }}\n{% endfor %}", "2 of 2"),  # contents in parts
        ("{{ messages[-1].content }}", "1 of 2"),
    ],
)
def test_a_template_that_leaves_questions_out_is_refused(template: str, left_out: str) -> None:
    with pytest.raises(ValueError, match=f"^chat template: expected one that writes .*leaves out {left_out} texts"):
        ChatPrompts(chat_tokenizer(template=template), examples=[("b", "c")])


def test_options_reach_the_template() -> None:
    tokenizer = chat_tokenizer(template="{% if thinking %}Think. {% endif %}{{ messages[0].content }}", bos=False)
    assert rendered(ChatPrompts(tokenizer, thinking=True), "dog") == "Think. dog"
    assert rendered(ChatPrompts(tokenizer), "dog") == "dog"
    for name in ("tokenize", "add_generation_prompt", "continue_final_message"):
        with pytest.raises(ValueError, match=rf"^template options: .* got {name}; leave it out"):
            ChatPrompts(tokenizer, **{name: True})


def test_named_templates_are_chosen() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "plain": "{{ messages[0].content }}<think>"}
    tokenizer.backend_tokenizer.add_tokens(["<think>"])
    assert rendered(ChatPrompts(tokenizer), "dog").startswith("<s>[user]")
    ids = ChatPrompts(tokenizer, chat_template="plain")("a <think> dog")
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 1
