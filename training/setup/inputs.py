"""What a pretraining run reads, checked before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evo.data.token_blocks import Text, load_text, sequence_length_of
from evo.errors import UserError
from evo.model import checkpoint
from evo.model.checkpoint import Checkpoint
from training.data.training_text import TrainingText, open_training_text
from training.teacher.stored_logits import TeacherLogits, open_teacher_logits


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        student: what is trained.
        teacher: what it is distilled from.
        teacher_logits: what was kept of its logits, instead of running it.
        text: to train on.
        validation: to validate on.
    """

    student: Checkpoint
    teacher: Checkpoint | None
    teacher_logits: TeacherLogits | None
    text: TrainingText
    validation: Text | None

    @property
    def sequence_length(self) -> int:
        """Tokens of a block."""
        return self.text.sequence_length


def read_inputs(
    *,
    model: Path,
    teacher: Path | None,
    teacher_logits: Path | None,
    text: Sequence[str],
    text_weights: Sequence[float] | None,
    shuffle_tokens: int,
    tokens: int,
    validation_text: str | None,
    validation_tokens: int,
    sequence_length: int | None,
) -> Inputs:
    """Load and check everything that a run reads.

    Args:
        model: checkpoint directory of what is trained.
        teacher: the one of what it is distilled from; beside its logits, only compared with them.
        teacher_logits: a directory of `evo cache-logits`.
        text: sources of the training text.
        text_weights: how much each counts; None: by tokens.
        shuffle_tokens: of the window within which a stream is shuffled.
        tokens: how many the run needs; a shorter text is repeated.
        validation_text: source of the validation text.
        validation_tokens: how many of it to use, but at least one block.
        sequence_length: tokens of a block; by default that of the teacher's logits, else the
            model's block size, 2048 at most.

    Raises:
        UserError: anything missing, damaged, or not fitting together.
    """
    student = checkpoint.load(model)
    kept = None if teacher_logits is None else open_teacher_logits(teacher_logits)
    if sequence_length is None and kept is not None:
        sequence_length = kept.settings.sequence_length
    length = sequence_length_of(sequence_length, student.config.block_size)
    if tokens < length:
        raise UserError(f"--tokens {tokens} is less than one sequence of {length}")
    taught_by = None if teacher is None else checkpoint.load(teacher)
    vocabulary = student.vocabulary
    if taught_by is not None:
        _check_teacher(student, taught_by, length)
        vocabulary = min(vocabulary, taught_by.vocabulary)
    if kept is not None:
        _check_logits(student, taught_by, kept)
        vocabulary = min(vocabulary, kept.settings.vocabulary)

    training = open_training_text(
        text,
        text_weights,
        student=student,
        vocabulary=vocabulary,
        sequence_length=length,
        tokens=tokens,
        shuffle_tokens=shuffle_tokens,
    )
    validation = None
    if validation_text is not None:
        validation = load_text(
            validation_text,
            tokenizer=student.tokenizer,
            vocabulary=vocabulary,
            sequence_length=training.sequence_length,
            max_tokens=max(training.sequence_length, validation_tokens),
        )
    if kept is not None:
        for source in training.sources:
            kept.check_text(source.known_blocks("--teacher-logits"), source.name)
        kept.check_files()
    return Inputs(student, taught_by, kept, training, validation)


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


def _check_logits(student: Checkpoint, teacher: Checkpoint | None, kept: TeacherLogits) -> None:
    of = kept.settings
    if teacher is not None and teacher.hash != of.teacher_hash:
        raise UserError(
            f"{kept.directory} has the logits of another teacher ({of.teacher}) than "
            f"{teacher.path}: make it again, or leave out --teacher"
        )
    own = student.tokenizer
    if own is not None and of.tokenizer_hash is not None and own.hash != of.tokenizer_hash:
        raise UserError(
            f"{kept.directory} was made with another tokenizer than that of {student.path}: a "
            "teacher must read the same token ids"
        )
    if of.vocabulary > student.config.padded_vocab_size:
        raise UserError(
            f"{kept.directory} has the probabilities of {of.vocabulary} tokens, but {student.path} "
            f"has only {student.config.padded_vocab_size}: make it with --vocabulary"
        )
