"""What a Hugging Face checkpoint says of its tokens, as the files that a checkpoint of ours has.

A fast tokenizer is made where there is a slow one alone, and the ids in `config.json` at which
generation begins and ends are written down in `generation_config.json`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evo.errors import UserError, first_line
from evo.huggingface.source_config import SourceConfig
from evo.model import tokenizer as tokenizers

SLOW = (("vocab.json", "merges.txt"), ("tokenizer.model",))
"""The files of tokenizers that transformers can convert."""

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@contextmanager
def tokenizer_files(source: SourceConfig) -> Iterator[Path]:
    """A temporary directory with all that a checkpoint says of its tokens.

    Raises:
        UserError: a slow tokenizer that cannot be converted here, or settings of generation that
            are none.
    """
    directory = source.path.parent
    with tempfile.TemporaryDirectory(prefix="evo-tokenizer-") as temporary:
        files = Path(temporary)
        for name in tokenizers.FILES:
            if (directory / name).is_file():
                shutil.copy(directory / name, files / name)
        if not (files / "tokenizer.json").is_file():
            _convert(directory, files)
        settings = _generation_settings(source)
        if settings:
            (files / tokenizers.GENERATION).write_text(json.dumps(settings, indent=2) + "\n")
        yield files


def _convert(directory: Path, files: Path) -> None:
    slow = next((names for names in SLOW if all((files / name).is_file() for name in names)), None)
    if slow is None:
        return
    described = f"{directory} has {' and '.join(slow)}, but no tokenizer.json"
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{described}: install transformers, which makes one of them")
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        content = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # each converter raises kinds of its own
        raise UserError(
            f"{described}, and transformers makes none of them: {first_line(error)}"
        ) from error
    (files / "tokenizer.json").write_text(content, encoding="utf-8")


def _generation_settings(source: SourceConfig) -> dict[str, Any]:
    """The content of `generation_config.json`, with the ids that only `config.json` has."""
    said = {name: source.fields[name] for name in IDS if source.has(name)}
    for name, value in said.items():
        _check_ids(source.path, name, value)
    path = source.path.parent / tokenizers.GENERATION
    settings = tokenizers.generation_settings(path.parent)
    for name in IDS:
        if settings.get(name) is not None:
            _check_ids(path, name, settings[name])
    return {**said, **{name: value for name, value in settings.items() if value is not None}}


def _check_ids(path: Path, name: str, value: Any) -> None:
    ids = value if isinstance(value, list) else [value]
    if not ids or any(type(identifier) is not int or identifier < 0 for identifier in ids):
        raise UserError(f"{path}: {name} is {value!r}, but a token id or a list of them is needed")
