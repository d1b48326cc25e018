"""`litgpt pretrain` on token blocks, timed by when it asks for each step's first block.

    python -m benchmarks.training.litgpt_pretrain SETTINGS.json

Everything is litgpt's own (its loop, torch.compile as it always calls it, its CSV logger), but the
data module, which has the blocks in memory. A process of its own, as that of our command is.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.pretrain import setup
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Blocks(Dataset[Tensor]):
    """Rows of a text, read in their order, and when each was read."""

    def __init__(self, text: Path) -> None:
        self._rows = np.load(text)
        self.read_at: list[float] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Tensor:
        self.read_at.append(time.perf_counter())
        return torch.from_numpy(self._rows[index])


class BlocksModule(DataModule):
    """What litgpt trains on, and looks at before it begins."""

    def __init__(self, text: Path) -> None:
        super().__init__()
        self.train, self.validation = Blocks(text), Blocks(text)
        self._batch = 1

    def connect(self, batch_size: int = 1, **_: Any) -> None:
        """Called by litgpt."""
        self._batch = batch_size

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Called by litgpt."""
        return DataLoader(self.train, self._batch)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Called by litgpt."""
        return DataLoader(self.validation, self._batch)


def main() -> None:
    """Train; the last line printed is the seconds of each measured step."""
    given = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(given["threads"])
    length, batch, steps = given["length"], given["batch"], given["steps"]
    config = Config.from_name(
        given["name"], block_size=length - 1, padded_vocab_size=given["vocabulary"]
    )
    data = BlocksModule(Path(given["text"]))
    with tempfile.TemporaryDirectory() as directory:
        setup(
            given["name"],
            model_config=config,
            out_dir=Path(directory),
            precision="32-true",
            data=data,
            train=TrainArgs(
                save_interval=None,
                global_batch_size=batch,
                micro_batch_size=given["micro_batch"],
                # One step more, so that the last one that counts ends when the next one begins.
                max_tokens=(steps + 1) * batch * (length - 1),
                max_norm=1.0,
                min_lr=given["learning_rate"] / 10,
                lr_warmup_steps=2,
            ),
            eval=EvalArgs(interval=1000, max_iters=1, final_validation=False),
            devices=1,
            logger_name="csv",
        )
    began = data.train.read_at[::batch]
    print(json.dumps(np.diff(began[given["warm_up"] : steps + 1]).tolist()))


if __name__ == "__main__":
    main()
