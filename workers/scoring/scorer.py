"""Score candidates: teacher weights, text and a genome in, summed NLL out. Knows nothing of Ray."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo.errors import UserError
from evo.genome.cost import parameters
from evo.genome.subnet import Subnet
from evo.model.extract import extract
from evo.model.kl import summed_nll_and_divergence
from evo.model.layerwise_gpt import architecture_of
from evo.model.litgpt import GPT, Config
from evo.model.nll import summed_nll
from workers.scoring.decode_latency import decode_latency
from workers.scoring.gpu_memory import is_out_of_memory, on_device
from workers.scoring.teacher_states import TeacherCache, shared_model
from workers.settings import ScoringSettings


def torch_dtype(settings: ScoringSettings) -> torch.dtype:
    """The dtype of weights and activations."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[str(settings.dtype)]


@dataclass(frozen=True)
class ShardScore:
    """What a candidate scored on one shard.

    Attributes:
        nll: of each sequence, summed over its targets in float64, nats; empty where the candidate
            failed.
        tokens: targets that were scored; 0 where the candidate failed.
        seconds: wall-clock time, extraction included where it was needed; waiting for another
            thread's candidate is not, nor is measuring latency.
        failure: why the candidate has no NLL, or None.
        divergence: from the teacher, as the NLL; None where none was asked for.
        latency: of decoding one token, femtoseconds; None where it was not measured.
    """

    nll: tuple[float, ...]
    tokens: int
    seconds: float
    failure: str | None = None
    divergence: tuple[float, ...] | None = None
    latency: int | None = None


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
        if settings.micro_batch is None:
            raise ValueError("a scorer needs to know its micro-batch")
        self._config = config
        self._architecture = architecture_of(config, tied=tied)
        self._tied = tied
        self._blocks = blocks
        self._settings = settings
        self._micro_batch = settings.micro_batch
        self._weights = dict(weights)
        self._gathers: torch.cuda.Stream | None = None
        if settings.device == "cuda":
            self._weights = on_device(weights, settings.device_share)
            self._gathers = torch.cuda.Stream()
        self._teacher = self._teacher_cache() if settings.divergence else None
        self._models: OrderedDict[str, GPT] = OrderedDict()
        self._extracting, self._running = threading.RLock(), threading.RLock()

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The teacher's, where they are read from: on the GPU if they fit."""
        return self._weights

    @property
    def held(self) -> tuple[str, ...]:
        """The ids of the candidates whose weights are kept, the last scored one last."""
        return tuple(self._models)

    def score(self, genome: bytes, candidate_id: str, rows: tuple[int, int]) -> ShardScore:
        """The NLL of one candidate on one shard.

        The shard is cut into micro-batches from its first row on, so the result depends on nothing
        but the candidate, the rows and the settings. May be called by several threads: one runs its
        candidate while another extracts its own. Where memory runs out, the unit is tried again
        when it has the memory for itself, and then with the micro-batch halved, for this call.

        Args:
            genome: as `Subnet.pack` makes it.
            candidate_id: the subnet's id; a candidate that was just scored is not extracted again.
            rows: the first block and the one after the last.
        """
        began = time.perf_counter()
        micro_batch = self._micro_batch
        try:
            return self._attempt(genome, candidate_id, rows, micro_batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        with self._extracting, self._running:
            while True:
                self._release_memory(candidate_id)
                try:
                    return self._attempt(genome, candidate_id, rows, micro_batch)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = str(error).strip().split("\n")[0] or type(error).__name__
                if micro_batch == 1:
                    return _failed(f"out of memory with one sequence at a time: {reason}", began)
                micro_batch //= 2

    def _attempt(
        self, genome: bytes, candidate_id: str, rows: tuple[int, int], micro_batch: int
    ) -> ShardScore:
        with self._extracting:
            began = time.perf_counter()
            model = self.model(genome, candidate_id)
            extracted = time.perf_counter()
        with self._running:  # for which it may have waited
            began += time.perf_counter() - extracted
            nll, divergence = self.losses(model, rows, micro_batch)
        seconds = time.perf_counter() - began
        for name, values in (("NLL", nll), ("divergence", divergence)):
            if values is not None and not np.isfinite(values).all():
                wrong = np.flatnonzero(~np.isfinite(values))[0]
                return _failed(f"{name} of sequence {rows[0] + wrong} is {values[wrong]}", began)
        return ShardScore(
            tuple(nll.tolist()),
            nll.size * (self._blocks.shape[1] - 1),
            seconds,
            divergence=None if divergence is None else tuple(divergence.tolist()),
            latency=self._latency(model) if rows[0] == 0 else None,
        )

    def _latency(self, model: GPT) -> int | None:
        """While no other thread uses the device, of which this process knows."""
        if self._settings.latency_length is None:
            return None
        with self._extracting, self._running:
            return decode_latency(model, self._settings.latency_length)

    def losses(
        self, model: GPT, rows: tuple[int, int], micro_batch: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Summed NLL, and divergence where it is asked for, of each sequence of a shard.

        Returns when they are there: on CUDA, nothing of the model is in use any more.
        """
        blocks = self._blocks[slice(*rows)]
        if self._teacher is None or self._settings.divergence is None:
            return summed_nll(model, blocks, micro_batch=micro_batch), None
        return summed_nll_and_divergence(
            model,
            self._teacher.teacher,
            blocks,
            self._teacher.states(rows, micro_batch),
            self._settings.divergence,
            micro_batch=micro_batch,
        )

    def model(self, genome: bytes, candidate_id: str) -> GPT:
        """A candidate's network, extracted unless it is kept; not to be called by two threads."""
        if candidate_id not in self._models:
            subnet = Subnet.unpack(genome, self._architecture.dimensions)
            size = self._bytes(parameters(self._architecture, subnet.widths))
            held = sum(self._bytes(_parameters(model)) for model in self._models.values())
            while self._models and held + size > self._settings.cache_bytes:
                held -= self._bytes(_parameters(self._models.popitem(last=False)[1]))
            self._models[candidate_id] = self._extract(subnet)
        self._models.move_to_end(candidate_id)
        return self._models[candidate_id]

    def _extract(self, subnet: Subnet) -> GPT:
        """On CUDA in a stream of its own, so that it need not wait for what runs there."""
        with torch.cuda.stream(self._gathers):  # does nothing without a stream
            model = extract(
                self._config,
                self._weights,
                subnet,
                tied=self._tied,
                dtype=torch_dtype(self._settings),
                device=self._settings.device,
                sequence_length=self._blocks.shape[1],
            )
        if self._gathers is not None:
            self._gathers.synchronize()
        return model

    def _teacher_cache(self) -> TeacherCache:
        settings = self._settings
        assert settings.divergence is not None
        teacher = shared_model(
            self._config,
            self._weights,
            tied=self._tied,
            dtype=torch_dtype(settings),
            device=settings.device,
            sequence_length=self._blocks.shape[1],
        )
        return TeacherCache(teacher, self._blocks, settings.divergence, settings.teacher_bytes)

    def _bytes(self, parameter_count: int) -> int:
        return parameter_count * torch_dtype(self._settings).itemsize

    def _release_memory(self, candidate_id: str) -> None:
        for other in [name for name in self._models if name != candidate_id]:
            del self._models[other]
        if self._settings.device == "cuda":
            torch.cuda.empty_cache()


def _failed(reason: str, began: float) -> ShardScore:
    return ShardScore((), 0, time.perf_counter() - began, reason)


def _parameters(model: GPT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
