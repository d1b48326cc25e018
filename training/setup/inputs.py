"""What a pretraining run reads, checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass

from evo.data.token_blocks import Text, load_text, sequence_length_of
from evo.errors import UserError
from evo.model import checkpoint
from evo.model.checkpoint import Checkpoint
from training.config import PretrainConfig
from training.data.training_text import TrainingText, open_training_text
from training.loop.run_settings import default_validation_tokens
from training.teacher.stored_logits import TeacherLogits, open_teacher_logits

Teacher = Checkpoint | TeacherLogits
"""What a student is distilled from: a network that runs beside it, or its stored logits."""


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        student: the network to train.
        teacher: what the student is distilled from; None without distillation.
        text: the training text.
        validation: the validation text; None without validation.
    """

    student: Checkpoint
    teacher: Teacher | None
    text: TrainingText
    validation: Text | None

    @property
    def running_teacher(self) -> Checkpoint | None:
        """The teacher, if it runs beside the student."""
        return self.teacher if isinstance(self.teacher, Checkpoint) else None

    @property
    def teacher_logits(self) -> TeacherLogits | None:
        """The teacher's stored logits, if the student is distilled from them."""
        return self.teacher if isinstance(self.teacher, TeacherLogits) else None


def read_inputs(config: PretrainConfig) -> Inputs:
    """Load and check everything that a run reads.

    Raises:
        UserError: an input is missing, damaged, or does not fit the others.
    """
    student = checkpoint.load(config.model)
    vocabulary = student.vocabulary
    sequence_length = config.sequence_length
    logits = None
    if config.teacher_logits is not None:
        logits = open_teacher_logits(config.teacher_logits)
        vocabulary = min(vocabulary, logits.settings.vocabulary)
        sequence_length = sequence_length or logits.settings.sequence_length
    length = sequence_length_of(sequence_length, student.config.block_size)
    if config.tokens < length:
        raise UserError(f"--tokens {config.tokens} is less than one sequence of {length}")
    network = None
    if config.teacher is not None:
        network = checkpoint.load(config.teacher)
        _check_teacher(student, network, length)
        vocabulary = min(vocabulary, network.vocabulary)
    if logits is not None:
        _check_logits(student, network, logits)

    text = open_training_text(
        config.sources,
        config.text_weights,
        student=student,
        vocabulary=vocabulary,
        sequence_length=length,
        tokens=config.tokens,
        shuffle_tokens=config.shuffle_tokens,
        reading=config.reading,
    )
    validation = None
    if config.validation_text is not None:
        tokens = config.validation_tokens or default_validation_tokens(config.tokens)
        tokens -= tokens % text.sequence_length  # as recorded, so that a run goes on with as many
        validation = load_text(
            config.validation_text,
            tokenizer=student.tokenizer,
            vocabulary=vocabulary,
            sequence_length=text.sequence_length,
            max_tokens=max(text.sequence_length, tokens),
            reading=config.reading,
        )
    if logits is not None:
        for source in text.sources:
            logits.check_text(source.known_blocks("--teacher-logits"), source.name)
        logits.check_files()
    return Inputs(student, network if logits is None else logits, text, validation)


def _check_teacher(student: Checkpoint, teacher: Checkpoint, sequence_length: int) -> None:
    if sequence_length > teacher.config.block_size:
        raise UserError(
            f"--sequence-length {sequence_length} is more than the teacher's block "
            f"size of {teacher.config.block_size}"
        )
    if student.tokenizer is None or teacher.tokenizer is None:
        return
    if not teacher.tokenizer.ids.include(student.tokenizer.ids):
        raise UserError(
            f"{teacher.path} has another tokenizer than {student.path}: a teacher must "
            "read the same token ids (same vocabulary, merges, normaliser, pre-tokeniser; its "
            "added tokens may be more)"
        )


def _check_logits(student: Checkpoint, teacher: Checkpoint | None, logits: TeacherLogits) -> None:
    stored = logits.settings
    if teacher is not None and teacher.hash != stored.teacher_hash:
        raise UserError(
            f"{logits.directory} has the logits of another teacher ({stored.teacher}) than "
            f"{teacher.path}: make it again, or leave out --teacher"
        )
    ids = stored.token_ids
    if student.tokenizer is not None and not (ids is None or ids.include(student.tokenizer.ids)):
        raise UserError(
            f"{logits.directory} was made with another tokenizer than that of {student.path}: a "
            "teacher must read the same token ids"
        )
    if stored.vocabulary > student.config.padded_vocab_size:
        raise UserError(
            f"{logits.directory} has the probabilities of {stored.vocabulary} tokens, but "
            f"{student.path} has only {student.config.padded_vocab_size}: make it with --vocabulary"
        )
