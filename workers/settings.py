"""How candidates are scored, and by how many workers: settings without Ray and torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evo.errors import UserError

if TYPE_CHECKING:
    from evo.model.kl import Divergence

DTYPES = ("float32", "bfloat16")
CPU_MICRO_BATCH = 8

POOL_IDLE = 600.0
"""Seconds for which a shared pool without users waits for the next search."""


@dataclass(frozen=True)
class ScoringSettings:
    """How candidates are scored. All but the memory allowed can change a fitness's last bits.

    Attributes:
        device: `cpu` or `cuda`.
        dtype: of weights and activations, `float32` or `bfloat16`; by default float32 on CPU and
            bfloat16 on CUDA. NLL is summed in float64 all the same.
        micro_batch: sequences that run through a candidate at once; by default 8 on CPU. On CUDA
            it must be given: `workers.tasks.micro_batch` finds it.
        threads: CPU threads of a worker.
        divergence: from the teacher, to be measured besides the NLL; None: it is not.
        latency_length: with a candidate's first sequences, the latency of decoding is measured
            too, at this length; None: it is not.
        cache_bytes: a worker keeps the last extracted candidates while they fit in so many bytes;
            the one being scored, and on CUDA the next one, are kept whatever their size.
        teacher_bytes: what of the teacher's own states, for the divergence, a worker keeps.
        device_share: the part of a GPU's memory that is one worker's.

    Raises:
        UserError: a value that makes no sense.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] | None = None
    micro_batch: int | None = None
    threads: int = 1
    divergence: Divergence | None = None
    latency_length: int | None = None
    cache_bytes: int = 2**28
    teacher_bytes: int = 2**31
    device_share: float = 1.0

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"no device {self.device}: scoring runs on cpu or cuda")
        if self.dtype is None:
            default = "bfloat16" if self.device == "cuda" else "float32"
            object.__setattr__(self, "dtype", default)
        if self.dtype not in DTYPES:
            raise UserError(f"no scoring dtype {self.dtype}: it is one of {', '.join(DTYPES)}")
        if self.micro_batch is None and self.device == "cpu":
            object.__setattr__(self, "micro_batch", CPU_MICRO_BATCH)
        least = {"micro_batch": 1, "threads": 1, "cache_bytes": 0, "teacher_bytes": 0}
        for name, value in least.items():
            if getattr(self, name) is not None and getattr(self, name) < value:
                raise UserError(f"{name} is {getattr(self, name)}: give at least {value}")


@dataclass(frozen=True)
class PoolSettings:
    """How many workers there are, and on what.

    Attributes:
        workers: how many to ask for; by default as many as the cluster has room for, which is
            looked at again while the pool lives.
        gpus_per_worker: of Ray's GPUs, a fraction where several workers share one; 0 on CPU.
        start_timeout: seconds in which at least one worker must have started.

    Raises:
        UserError: a value that makes no sense.
    """

    workers: int | None = None
    gpus_per_worker: float = 0
    start_timeout: float = 300

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"{self.workers} workers cannot score anything: ask for at least 1")
        if self.gpus_per_worker < 0:
            raise UserError(f"{self.gpus_per_worker} GPUs per worker: give 0 (on CPU) or more")
        if self.start_timeout <= 0:
            raise UserError(f"a start timeout of {self.start_timeout} s: give more than 0")


def check_devices(scoring: ScoringSettings, pool: PoolSettings) -> None:
    """Check that the device of scoring and the GPUs of a worker fit together.

    Raises:
        UserError: GPUs without `cuda`, or the other way round.
    """
    if (scoring.device == "cuda") != (pool.gpus_per_worker > 0):
        raise UserError(
            f"device {scoring.device} and {pool.gpus_per_worker:g} GPUs per worker do not "
            "fit together: scoring on cuda needs GPUs, on cpu none"
        )
