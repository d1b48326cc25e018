"""Make the embedded teacher again: its tokenizer, its shape, its training.

    python -m evo.embedded.make --out DIR [--tokens N]

writes `teacher/`, `log.jsonl` and `SHA256SUMS` in DIR. The text depends on the
version of Python and the last bits of the weights on the processor, so the checksums say whether
the shipped files are whole, not that another machine makes the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from evo.data.sources import documents
from evo.model import checkpoint
from evo.model.litgpt import GPT, Config
from training.config import PretrainConfig
from training.loop.init_weights import initialise
from training.pretrain import pretrain

VOCABULARY = 2048
END_OF_TEXT = "<|endoftext|>"
TOKENS = 16_000_000
LEARNING_RATE = 3e-3
SHAPE = Config(
    name="evo-embedded",
    n_layer=8,
    n_embd=160,
    n_head=10,
    intermediate_size=640,
    block_size=256,
    vocab_size=VOCABULARY,
    padded_vocab_size=VOCABULARY,
    rotary_percentage=0.25,
    parallel_residual=True,
    bias=True,
    norm_class_name="LayerNorm",
    mlp_class_name="GptNeoxMLP",
)


def make_tokenizer(directory: Path) -> None:
    """Train a byte-level BPE on `stdlib:train`; every byte is a token, so all text can be said."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents("stdlib:train"), trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "model_max_length": SHAPE.block_size,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")


def make_start(directory: Path, tokenizer: Path) -> None:
    """Write a checkpoint in the teacher's shape, with random weights."""
    model = GPT(SHAPE)
    initialise(model, torch.Generator().manual_seed(0))
    checkpoint.save(directory, model, tokenizer_from=tokenizer)


def checksums(directory: Path) -> str:
    """SHA-256 of the files in a directory, as `sha256sum -c` reads them beside it."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(directory.parent)}\n"
        for path in sorted(directory.iterdir())
    ]
    return "".join(lines)


def make(out: Path, tokens: int = TOKENS) -> None:
    """Make the teacher; called again after an interruption, it goes on with the training.

    Args:
        out: where to put the result; `out/work` holds what is needed on the way.
        tokens: how long to train.
    """
    work = out / "work"
    if not (start := work / "start").is_dir():
        shutil.rmtree(tokenizer := work / "tokenizer", ignore_errors=True)
        tokenizer.mkdir(parents=True)
        make_tokenizer(tokenizer)
        make_start(start, tokenizer)
    pretrain(
        PretrainConfig(
            model=start,
            text="stdlib:train",
            tokens=tokens,
            out=work / "run",
            init="random",
            validation_text="stdlib:validation",
            validation_tokens=200_000,
            batch_tokens=8192,
            learning_rate=LEARNING_RATE,
            precision="bfloat16",
            validate_every=150,
            checkpoint_every=100,
        )
    )
    trained = checkpoint.load(work / "run" / "model")
    shutil.rmtree(teacher := out / "teacher", ignore_errors=True)
    checkpoint.save(teacher, trained.model(), tokenizer_from=start, dtype=torch.bfloat16)
    (out / "SHA256SUMS").write_text(checksums(teacher))
    shutil.copy(work / "run" / "log.jsonl", out / "log.jsonl")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the embedded teacher again.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    arguments = parser.parse_args()
    make(arguments.out, arguments.tokens)
