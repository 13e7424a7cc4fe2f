"""The pocket model's tokenizer: byte-level BPE trained on its own texts, digits one by one, written HF-style."""

from itertools import islice
from json import dumps
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pocket.mix import documents
from pocket.template import BEGIN, CALL, CALL_END, CHAT_TEMPLATE, CONTROL, END, PAD, ChatFormat

VOCABULARY = 2048
_TEXTS = 20_000


def train_tokenizer(seed: int) -> Tokenizer:
    """A byte-level BPE of 2,048 entries. Digits stand alone, so that sums line up digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2, special_tokens=list(CONTROL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(_training_texts(seed), trainer)
    # Not special: a client that skips special tokens must still see where a call begins and ends.
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (CALL, CALL_END)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))])
    return tokenizer


def _training_texts(seed: int) -> list[str]:
    texts = islice(documents(Random(f"{seed}:tokenizer"), ChatFormat()), _TEXTS)
    return [_without_control(text) for text in texts]


def _without_control(text: str) -> str:
    for token in (*CONTROL, CALL, CALL_END):
        text = text.replace(token, "\n")
    return text


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, the chat template within."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, "bos_token": BEGIN, "eos_token": END,
        "pad_token": PAD, "add_bos_token": True, "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(dumps(config, indent=2, ensure_ascii=False) + "\n")
