"""Score candidates: teacher weights, text and a genome in, summed NLL out. Knows nothing of Ray."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from litgpt.config import Config
from litgpt.model import GPT
from numpy.typing import NDArray
from torch import Tensor

from evo.cost import parameters
from evo.errors import UserError
from evo.extract import extract
from evo.model import architecture_of
from evo.nll import summed_nll
from evo.subnet import Subnet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICE_SHARE = 0.5
"""The teacher is kept on the GPU where it fills no more than this share of its free memory."""


@dataclass(frozen=True)
class ScoringSettings:
    """How candidates are scored. All but `cache_bytes` can change the last bits of a fitness.

    Attributes:
        device: `cpu` or `cuda`.
        dtype: of weights and activations, `float32` or `bfloat16`; by default float32 on CPU and
            bfloat16 on CUDA. NLL is summed in float64 all the same.
        micro_batch: sequences that run through a candidate at once.
        threads: CPU threads of a worker.
        cache_bytes: a worker keeps the last extracted candidates while they fit in so many bytes;
            the one being scored is kept whatever its size.

    Raises:
        UserError: a value that makes no sense.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] | None = None
    micro_batch: int = 8
    threads: int = 1
    cache_bytes: int = 2**28

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"no device {self.device}: scoring runs on cpu or cuda")
        if self.dtype is None:
            default = "bfloat16" if self.device == "cuda" else "float32"
            object.__setattr__(self, "dtype", default)
        if self.dtype not in DTYPES:
            raise UserError(f"no scoring dtype {self.dtype}: it is one of {', '.join(DTYPES)}")
        for name, least in (("micro_batch", 1), ("threads", 1), ("cache_bytes", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give at least {least}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return DTYPES[str(self.dtype)]


@dataclass(frozen=True)
class ShardScore:
    """What a candidate scored on one shard.

    Attributes:
        nll: of each sequence, summed over its targets in float64, nats; empty where the candidate
            failed.
        tokens: targets that were scored; 0 where the candidate failed.
        seconds: wall-clock time, extraction included where it was needed.
        failure: why the candidate has no NLL, or None.
    """

    nll: tuple[float, ...]
    tokens: int
    seconds: float
    failure: str | None = None


class Scorer:
    """Scores the subnets of one teacher on one text."""

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, Tensor],
        tied: bool,
        blocks: NDArray[np.integer],
        settings: ScoringSettings,
    ) -> None:
        """Nothing is copied but, on CUDA, a teacher that fits on the device.

        Args:
            config: the teacher's.
            weights: the teacher's, by litgpt's names; only read, so they may be shared memory.
            tied: whether the teacher's embedding and output head are one matrix.
            blocks: token ids, shape [N, T].
            settings: how to score.

        Raises:
            UserError: the sequences are longer than the teacher takes, or CUDA is asked for where
                there is none.
        """
        if blocks.shape[1] - 1 > config.block_size:
            raise UserError(
                f"sequences of {blocks.shape[1]} tokens are too long: this teacher takes at most "
                f"{config.block_size}"
            )
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise UserError("scoring on cuda was asked for, but torch sees no CUDA device here")
        self._config = config
        self._architecture = architecture_of(config, tied=tied)
        self._tied = tied
        self._blocks = blocks
        self._settings = settings
        self._weights = _on_device(weights) if settings.device == "cuda" else dict(weights)
        self._models: OrderedDict[str, GPT] = OrderedDict()

    @property
    def held(self) -> tuple[str, ...]:
        """The ids of the candidates whose weights are kept, the last scored one last."""
        return tuple(self._models)

    def score(self, genome: bytes, candidate_id: str, rows: tuple[int, int]) -> ShardScore:
        """The NLL of one candidate on one shard.

        The shard is cut into micro-batches from its first row on, so the result depends on nothing
        but the candidate, the rows and the settings. Where memory runs out, the micro-batch is
        halved, for this call.

        Args:
            genome: as `Subnet.pack` makes it.
            candidate_id: the subnet's id; a candidate that was just scored is not extracted again.
            rows: the first block and the one after the last.
        """
        began = time.perf_counter()
        micro_batch = self._settings.micro_batch
        while True:
            try:
                nll = summed_nll(
                    self._model(genome, candidate_id),
                    self._blocks[slice(*rows)],
                    micro_batch=micro_batch,
                )
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).strip().split("\n")[0] or type(error).__name__
            self._release_memory(candidate_id)
            if micro_batch == 1:
                return _failed(f"out of memory with one sequence at a time: {reason}", began)
            micro_batch //= 2
        wrong = np.flatnonzero(~np.isfinite(nll))
        if len(wrong):
            return _failed(f"NLL of sequence {rows[0] + wrong[0]} is {nll[wrong[0]]}", began)
        tokens = nll.size * (self._blocks.shape[1] - 1)
        return ShardScore(tuple(nll.tolist()), tokens, time.perf_counter() - began)

    def _model(self, genome: bytes, candidate_id: str) -> GPT:
        if candidate_id not in self._models:
            subnet = Subnet.unpack(genome, self._architecture.dimensions)
            size = self._bytes(parameters(self._architecture, subnet.widths))
            held = sum(self._bytes(_parameters(model)) for model in self._models.values())
            while self._models and held + size > self._settings.cache_bytes:
                held -= self._bytes(_parameters(self._models.popitem(last=False)[1]))
            self._models[candidate_id] = extract(
                self._config,
                self._weights,
                subnet,
                tied=self._tied,
                dtype=self._settings.torch_dtype,
                device=self._settings.device,
                sequence_length=self._blocks.shape[1],
            )
        self._models.move_to_end(candidate_id)
        return self._models[candidate_id]

    def _bytes(self, parameter_count: int) -> int:
        return parameter_count * self._settings.torch_dtype.itemsize

    def _release_memory(self, candidate_id: str) -> None:
        for other in [name for name in self._models if name != candidate_id]:
            del self._models[other]
        if self._settings.device == "cuda":
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on either kind of device."""
    # The CPU allocator of torch, and cuBLAS, raise plain RuntimeErrors.
    text = str(error)
    return (
        isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        or ("DefaultCPUAllocator" in text and "memory" in text)
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )


def _failed(reason: str, began: float) -> ShardScore:
    return ShardScore((), 0, time.perf_counter() - began, reason)


def _parameters(model: GPT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _on_device(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights on the GPU, tied ones once; or as they are, where they would not fit."""
    unique = {id(tensor): tensor for tensor in weights.values()}
    free, _ = torch.cuda.mem_get_info()
    if sum(tensor.nbytes for tensor in unique.values()) > DEVICE_SHARE * free:
        return dict(weights)
    moved = {key: tensor.to("cuda") for key, tensor in unique.items()}
    return {name: moved[id(tensor)] for name, tensor in weights.items()}
