"""What a pretraining run reads, checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evo import checkpoint
from evo.checkpoint import Checkpoint
from evo.errors import UserError
from evo.text import SAMPLED_TOKENS, Text, load_text, sequence_length_of


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        student: what is trained.
        teacher: what it is distilled from.
        text: to train on.
        validation: to validate on.
    """

    student: Checkpoint
    teacher: Checkpoint | None
    text: Text
    validation: Text | None

    @property
    def sequence_length(self) -> int:
        """Tokens of a block."""
        return self.text.blocks.shape[1]


def read_inputs(
    *,
    model: Path,
    teacher: Path | None,
    text: str,
    tokens: int,
    validation_text: str | None,
    validation_tokens: int,
    sequence_length: int | None,
) -> Inputs:
    """Load and check everything that a run reads.

    Args:
        model: checkpoint directory of what is trained.
        teacher: the one of what it is distilled from.
        text: source of the training text.
        tokens: how many the run needs; a shorter text is repeated.
        validation_text: source of the validation text.
        validation_tokens: how many of it to use, but at least one block.
        sequence_length: tokens of a block; by default the model's block size, 2048 at most.

    Raises:
        UserError: anything missing, damaged, or not fitting together.
    """
    student = checkpoint.load(model)
    length = sequence_length_of(sequence_length, student.config.block_size)
    if tokens < length:
        raise UserError(f"--tokens {tokens} is less than one sequence of {length}")
    taught_by = None if teacher is None else checkpoint.load(teacher)
    vocabulary = student.vocabulary
    if taught_by is not None:
        _check_teacher(student, taught_by, length)
        vocabulary = min(vocabulary, taught_by.vocabulary)

    def read(source: str, most: int) -> Text:
        return load_text(
            source,
            tokenizer=student.tokenizer,
            vocabulary=vocabulary,
            sequence_length=length,
            max_tokens=most,
        )

    validation = None
    if validation_text is not None:
        validation = read(validation_text, max(length, validation_tokens))
    # A short run, too, draws from all of the text; only a stream from the hub may have no end.
    most = tokens if text.startswith("hf:") else max(tokens, SAMPLED_TOKENS)
    return Inputs(student, taught_by, read(text, most), validation)


def _check_teacher(student: Checkpoint, teacher: Checkpoint, sequence_length: int) -> None:
    if sequence_length > teacher.config.block_size:
        raise UserError(
            f"--sequence-length {sequence_length} is more than the teacher's block "
            f"size of {teacher.config.block_size}"
        )
    one, other = student.tokenizer, teacher.tokenizer
    if one is not None and other is not None and one.hash != other.hash:
        raise UserError(
            f"{teacher.path} has another tokenizer than {student.path}: a teacher must "
            "read the same token ids"
        )
