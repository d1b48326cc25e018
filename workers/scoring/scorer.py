"""Score candidates: teacher weights, text and a genome in, summed NLL out. Knows nothing of Ray."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from evo.errors import UserError, first_line
from evo.genome.cost import parameters
from evo.genome.operators.gate_swaps import GateGradients
from evo.genome.subnet import Subnet
from evo.model.extract import extract
from evo.model.gate_gradients import gate_gradients
from evo.model.kl import summed_nll_and_divergence
from evo.model.litgpt import GPT
from evo.model.network import Network
from evo.model.nll import summed_nll
from evo.search.shard_score import ShardScore
from workers.scoring.decode_latency import decode_latency
from workers.scoring.gpu_memory import is_out_of_memory, on_device
from workers.scoring.teacher_states import TeacherCache, shared_model
from workers.settings import ScoringSettings


def torch_dtype(settings: ScoringSettings) -> torch.dtype:
    """The dtype of weights and activations."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[str(settings.dtype)]


class Scorer:
    """Scores the subnets of one teacher on one text.

    Attributes:
        teacher: the teacher, its weights where they are read from: on the GPU if they fit.
    """

    def __init__(
        self,
        teacher: Network,
        blocks: NDArray[np.integer],
        settings: ScoringSettings,
    ) -> None:
        """Nothing is copied but, on CUDA, a teacher that fits on the device.

        Args:
            teacher: a uniform network; its weights are only read, so they may be shared memory.
            blocks: token ids, shape [N, T].
            settings: how to score.

        Raises:
            UserError: the sequences are longer than the teacher takes, or CUDA is asked for where
                there is none.
        """
        if blocks.shape[1] - 1 > teacher.config.block_size:
            raise UserError(
                f"sequences of {blocks.shape[1]} tokens are too long: this teacher takes at most "
                f"{teacher.config.block_size}"
            )
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise UserError("scoring on cuda was asked for, but torch sees no CUDA device here")
        if settings.micro_batch is None:
            raise ValueError("a scorer needs to know its micro-batch")
        self.teacher, self._architecture = teacher, teacher.architecture
        self._blocks = blocks
        self._settings = settings
        self._micro_batch = settings.micro_batch
        self._gathers: torch.cuda.Stream | None = None
        if settings.device == "cuda":
            weights = on_device(teacher.weights, settings.device_share, torch_dtype(settings))
            self.teacher = replace(teacher, weights=weights)
            self._gathers = torch.cuda.Stream()
        self._states = self._teacher_cache() if settings.divergence else None
        self._models: OrderedDict[str, GPT] = OrderedDict()
        self._extracting, self._running = threading.RLock(), threading.RLock()

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
                    reason = first_line(error)
                if micro_batch == 1:
                    return _failed(f"out of memory with one sequence at a time: {reason}", began)
                micro_batch //= 2

    def gates(self, genome: bytes, rows: tuple[int, int]) -> GateGradients | ShardScore:
        """The gradient of a candidate's gates on some sequences.

        Args:
            genome: as `Subnet.pack` makes it.
            rows: the first block and the one after the last.

        Returns:
            A failed score where memory runs out, though no candidate has any of it.
        """
        began = time.perf_counter()
        with self._extracting, self._running:
            for _ in range(2):
                try:
                    found = self._gates(genome, rows)
                    if self._settings.device == "cuda":
                        torch.cuda.empty_cache()  # other workers may share the GPU
                    return found
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = first_line(error)
                self._release_memory(None)
        return _failed(f"out of memory for gradients: {reason}", began)

    def _gates(self, genome: bytes, rows: tuple[int, int]) -> GateGradients:
        return gate_gradients(
            self.teacher,
            Subnet.unpack(genome, self._architecture.dimensions),
            self._blocks[slice(*rows)],
            dtype=torch_dtype(self._settings),
            device=self._settings.device,
        )

    def _attempt(
        self, genome: bytes, candidate_id: str, rows: tuple[int, int], micro_batch: int
    ) -> ShardScore:
        with self._extracting:
            began = time.perf_counter()
            model = self.model(genome, candidate_id)
            extracted = time.perf_counter()
            gathering = extracted - began
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
            gathering=gathering,
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
        if self._states is None or self._settings.divergence is None:
            return summed_nll(model, blocks, micro_batch=micro_batch), None
        return summed_nll_and_divergence(
            model,
            self._states.teacher,
            blocks,
            self._states.states(rows, micro_batch),
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
                self.teacher,
                subnet,
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
            self.teacher,
            dtype=torch_dtype(settings),
            device=settings.device,
            sequence_length=self._blocks.shape[1],
        )
        return TeacherCache(teacher, self._blocks, settings.divergence, settings.teacher_bytes)

    def _bytes(self, parameter_count: int) -> int:
        return parameter_count * torch_dtype(self._settings).itemsize

    def _release_memory(self, candidate_id: str | None) -> None:
        for other in [name for name in self._models if name != candidate_id]:
            del self._models[other]
        if self._settings.device == "cuda":
            torch.cuda.empty_cache()


def _failed(reason: str, began: float) -> ShardScore:
    return ShardScore.failed(reason, time.perf_counter() - began)


def _parameters(model: GPT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
