"""The settings of `evo search`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evo.algorithms.settings import Budget, Rates
from evo.data.reading import Reading
from evo.data.text_weights import check_weights
from evo.errors import UserError
from evo.genome import COSTS, PROXIES, RANKINGS, SPACES
from evo.quantities import Count
from evo.search.screening.rung_settings import Rungs
from evo.search.stopping import Stopping
from workers.settings import POOL_IDLE, PoolSettings, ScoringSettings

if TYPE_CHECKING:
    from evo.genome.width_limits import WidthLimits

ALGORITHMS = ("evolution", "random", "local", "one-plus-lambda", "one-shot")

FITNESSES = ("perplexity", "kl", *PROXIES)

REST = "rest"
"""The text of gradients that consists of what --max-tokens leaves of the fitness text."""


@dataclass(frozen=True)
class SearchConfig(Reading, Stopping):
    """Search a teacher for its best subnets, one search for every space and bin.

    Running the same command again resumes.

    Attributes:
        teacher: checkpoint directory in litgpt's layout (`evo import` makes one).
        text: source of the fitness text: stdlib:train, stdlib:validation, hf:REPO[:CONFIG]:SPLIT,
            or a path or glob of .txt, .jsonl, .parquet or .npy. Several are mixed.
        bins: ranges of the cost: 385M-426M, 400M or 40% (of the teacher; plus or minus 5%), or a
            litgpt model's name. FLOPs are written 1.5G-2G, bytes 10MB-12MB or 16MiB, latencies
            1.5ms-2ms or 800us (of a latency, no model's name).
        out: run directory.
        cost: what bins are ranges of: parameters; flops (of one token's forward pass); kv-cache
            (bytes of the keys and values of one sequence, two per element); or latency (time in
            which a worker decodes one token of one sequence: predicted for proposals, then measured
            once for each candidate, which fails if it is outside the bin).
        cost_length: tokens of the sequence for which flops, kv-cache and latency are; by default
            --sequence-length, for latency at most 256.
        multiple_of: widths are multiples of these: channels=64 neurons=64, also layers, groups;
            the teacher's own width is used only where it is one.
        floors: the least widths: layers=4 channels=512, also groups, neurons.
        expressible_in: export refuses a teacher whose networks `evo export` cannot write, litgpt
            takes it all the same; hf keeps a search within what `evo export --native` can write,
            the class of transformers for the teacher's family: uniform spaces, and of a GPT-NeoX
            channels that are heads' worth, at least as many as its heads have.
        spaces: coarse-uniform, coarse-layerwise, fine-uniform, fine-layerwise.
        population: candidates of a generation.
        generations: generations after the first, random one.
        patience: end a search after so many generations without a better best.
        seed: of all randomness; the same seed gives the same history on any number of workers.
        algorithm: evolution, or a baseline: random (samples only), local (mutates the best),
            one-plus-lambda (offspring of the best by level switches, as EvoPress does it), one-shot
            (no search: the teacher's order, cut once at the teacher's proportions).
        start_from: directory of another run of the same teacher, whose best candidates, brought
            into each space and bin, are half of the first generation. They are copied: it does
            not matter if that run goes on.
        niches: layers keeps the elites apart by their number of layers (MAP-Elites): candidates
            compete with those of their own depth, and the search ends with good ones of every
            depth. With evolution only. none keeps the best of all. By default layers with
            --select, and none without it.
        elites: how many of the best candidates are parents; each niche has an even share, at least
            one.
        mutation_rate: share of offspring that mutate one elite.
        crossover_rate: share that recombine two elites; the rest are random samples.
        proposals: candidates that are proposed for each of half of a generation's places, of which
            a model of all scores so far (a Gaussian process over shapes) chooses; the other
            offspring are taken as they come, and with 1 all are.
            With evolution and a fitness that is scored only, where it is 16 by default.
        gate_text: text for gradients of gates, by which half of the offspring in fine spaces swap
            kept units for dropped ones: rest (what --max-tokens leaves of the fitness text, the
            default where that is given), another source, or none. With evolution and --fitness
            perplexity only.
        text_weights: how much each source of a mixed text counts; by default by its tokens.
        fitness: what is minimised: perplexity; kl (divergence from the teacher, nats per token); or
            how much is kept of what matters by magnitude (of weights) or activation (contributions
            on text), for which nothing is scored but the winners.
        kl_top_k: the divergence over the teacher's so many likeliest tokens and one for all others,
            at least 512; by default over the whole vocabulary.
        order: what "the first n" means: index (as stored, the paper's), magnitude (of weights) or
            activation (contributions on text).
        order_text: source for the activation order; by default the fitness text.
        head_sizes: channels that an attention head of a candidate may have, one number for all its
            layers; by default the teacher's own. Heads keep their leading rotary pairs.
        in_bin: fit moves every proposal into its bin; reject draws until one is in it, as the
            paper does.
        rungs: stages of scoring, each by the share of the text that it uses; the last uses all.
            Or full: every candidate is scored on all of the text, as in the paper.
        survivors: the largest share of a stage's candidates that goes on to the next.
        rung_confidence: a candidate that is worse than the last who would be an elite, with this
            confidence on the sequences so far, is not scored further; 1 to drop none by it.
        sequence_length: tokens of a sequence; by default the teacher's block size, at most 2048.
        max_tokens: use so many tokens of the text at most, evenly spaced; by default all. Of a
            mixed text each source gives at most an even part.
        shard_tokens: tokens of a unit of work, one candidate on one slice of the text.
        micro_batch: sequences that run through a candidate at once; by default 8 on CPU, and on
            a GPU what fits, found once and written into the run's settings.
        dtype: float32 or bfloat16; by default float32 on CPU and bfloat16 on CUDA.
        threads: CPU threads of a worker.
        workers: how many; by default as many as the cluster has room for. May differ at every
            start.
        gpus_per_worker: 0 scores on CPU; a fraction lets several workers share a GPU.
        pool: name of a pool of workers that searches of the same teacher share on one Ray cluster,
            each with its own text. Whoever comes first starts it, as many workers as it asks for,
            and loads the teacher; by default a search has workers of its own.
        pool_idle: seconds for which a named pool waits for another search when its last one has
            left, or is not heard of any more; 0 ends it at once. Counts where the search starts it.
        select: YAML file of flags of `evo select`: when the searches have ended, a train-off in
            each bin chooses the winner that trains best. May differ at every start.
        score_cache: whether to take scores from earlier runs with the same teacher, text and
            scoring settings, and to leave them to later ones, in ~/.cache/evo/scores ($EVO_CACHE
            moves it, rm -r clears it). It changes nothing but times. May differ at every start.

    Raises:
        UserError: a value that makes no sense.
    """

    teacher: Path
    text: list[str] | str
    bins: list[str]
    out: Path
    cost: Literal["parameters", "flops", "kv-cache", "latency"] = "parameters"
    cost_length: int | None = None
    multiple_of: list[str] = field(default_factory=list)
    floors: list[str] = field(default_factory=list)
    expressible_in: Literal["litgpt", "export", "hf"] = "export"
    spaces: list[str] = field(default_factory=lambda: ["coarse-uniform"])
    population: int = 50
    generations: int = 100
    patience: int | None = None
    seed: int = 0
    algorithm: Literal["evolution", "random", "local", "one-plus-lambda", "one-shot"] = "evolution"
    start_from: Path | None = None
    niches: Literal["layers", "none"] | None = None
    elites: int = 10
    mutation_rate: float = 0.5
    crossover_rate: float = 0.4
    proposals: int | None = None
    gate_text: str | None = None
    text_weights: list[float] | None = None
    fitness: Literal["perplexity", "kl", "magnitude", "activation"] = "perplexity"
    kl_top_k: int | None = None
    order: Literal["index", "magnitude", "activation"] = "activation"
    order_text: str | None = None
    head_sizes: list[int] | None = None
    in_bin: Literal["fit", "reject"] = "fit"
    rungs: list[str] = field(default_factory=lambda: ["1/32", "1/8"])
    survivors: float = 0.125
    rung_confidence: float = 0.9
    sequence_length: int | None = None
    max_tokens: Count | None = None
    shard_tokens: Count = 16384
    micro_batch: int | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    threads: int = 1
    workers: int | None = None
    gpus_per_worker: float = 0
    pool: str | None = None
    pool_idle: float = POOL_IDLE
    select: Path | None = None
    score_cache: bool = True

    def __post_init__(self) -> None:
        Reading.__post_init__(self)
        Stopping.__post_init__(self)
        self._check_choices()
        self._check_algorithm()
        check_weights(self.sources, self.text_weights)
        if self.kl_top_k is not None and self.fitness != "kl":
            raise UserError(f"--kl-top-k {self.kl_top_k} is of use with --fitness kl only")
        for name in ("bins", "spaces"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{name} {' '.join(values)}: give at least one, each once")
        sizes = self.head_sizes
        if sizes is not None and (not sizes or len(set(sizes)) < len(sizes)):
            raise UserError(f"--head-sizes {' '.join(map(str, sizes))}: give some, each once")
        if sizes is not None and self.fitness in PROXIES:
            raise UserError(
                f"--fitness {self.fitness} knows no head sizes: leave --head-sizes away"
            )
        for space in self.spaces:
            if space not in SPACES:
                raise UserError(f"unknown space {space!r}: the spaces are {', '.join(SPACES)}")
        if self.expressible_in not in ("litgpt", "export", "hf"):
            raise UserError(f"--expressible-in {self.expressible_in}: give litgpt, export or hf")
        for space in self.spaces:
            if self.expressible_in == "hf" and not space.endswith("uniform"):
                raise UserError(
                    f"--expressible-in {self.expressible_in}: layers of {space} differ in width, "
                    "which no class of transformers can say; give uniform spaces"
                )
        if self.cost_length is not None and (self.cost == "parameters" or self.cost_length < 1):
            raise UserError(
                f"--cost-length {self.cost_length}: give at least 1, and with --cost flops, "
                "kv-cache or latency only"
            )
        if self.cost == "latency" and self.fitness in PROXIES:
            raise UserError(
                f"--cost latency is measured where candidates are scored, which --fitness "
                f"{self.fitness} does not: leave one of them away"
            )
        if self.shard_tokens < 1:
            raise UserError(f"shards of {self.shard_tokens} tokens cannot be: give at least 1")
        if self.target_perplexity is not None and self.fitness != "perplexity":
            raise UserError(f"--target-perplexity needs --fitness perplexity, not {self.fitness}")
        if self.max_gpu_hours is not None and not self.gpus_per_worker:
            raise UserError(
                "--max-gpu-hours needs workers with GPUs: give --gpus-per-worker, or --max-hours"
            )
        if self.pool_idle < 0:
            raise UserError(f"--pool-idle {self.pool_idle:g} cannot be: give 0 seconds or more")
        if self.seed < 0:
            raise UserError(f"a seed of {self.seed} cannot be: give 0 or more")
        # Each of these validates its own part; numpy is imported only where widths are limited.
        _ = self.budget, self.rates, self.rung_settings, self.scoring, self.pool_settings
        if self.multiple_of or self.floors:
            _ = self.limits

    def _check_algorithm(self) -> None:
        if self.select is not None and self.algorithm == "one-shot":
            raise UserError(
                "--algorithm one-shot has one candidate, and --select lets several train for its "
                "place: leave one of them away"
            )
        if self.proposals not in (None, 1) and self.algorithm != "evolution":
            raise UserError(
                f"--proposals {self.proposals} chooses offspring of evolution, and --algorithm "
                f"{self.algorithm} has none: leave one of them away"
            )
        if self.proposals not in (None, 1) and self.fitness in PROXIES:
            raise UserError(
                f"--proposals {self.proposals} saves scoring, and --fitness {self.fitness} scores "
                "nothing: leave one of them away"
            )
        if self.gates and not self.can_gate:
            raise UserError(
                f"--gate-text {self.gate_text} makes offspring of evolution in fine spaces by "
                "gradients of the perplexity: leave it away, or give --spaces fine-uniform or "
                "fine-layerwise, --algorithm evolution and --fitness perplexity"
            )
        if self.niches == "layers" and self.algorithm != "evolution":
            raise UserError(
                f"--niches layers keeps elites of every number of layers, and --algorithm "
                f"{self.algorithm} keeps none: leave one of them away"
            )
        if self.algorithm == "one-shot" and self.in_bin == "reject":
            raise UserError(
                "--algorithm one-shot moves its candidate into the bin, which --in-bin reject "
                "rules out: leave one of them away"
            )
        if self.algorithm == "one-shot" and self.start_from is not None:
            raise UserError(
                "--algorithm one-shot has one candidate and begins with no others: leave "
                "--start-from away"
            )
        if self.start_from is not None and self.in_bin == "reject":
            raise UserError(
                "--start-from moves candidates into the bins, which --in-bin reject rules out: "
                "leave one of them away"
            )

    def _check_choices(self) -> None:
        choices = (
            ("order", RANKINGS),
            ("algorithm", ALGORITHMS),
            ("fitness", FITNESSES),
            ("cost", COSTS),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise UserError(
                    f"unknown {name} {getattr(self, name)!r}: give one of {', '.join(known)}"
                )
        if self.niches not in (None, "layers", "none"):
            raise UserError(f"unknown niches {self.niches!r}: give layers or none")

    @property
    def sources(self) -> list[str]:
        """The sources of the fitness text."""
        return [self.text] if isinstance(self.text, str) else self.text

    @property
    def gates(self) -> bool:
        """Whether the user has named a text for gradients of gates."""
        return self.gate_text not in (None, "none")

    @property
    def can_gate(self) -> bool:
        """Whether a search may make offspring by gradients of gates."""
        fine = any(space.startswith("fine") for space in self.spaces)
        return fine and self.algorithm == "evolution" and self.fitness == "perplexity"

    @property
    def budget(self) -> Budget:
        """How long a search goes on."""
        return Budget(self.population, self.generations, self.patience)

    @property
    def rates(self) -> Rates:
        """Where offspring come from."""
        proposals = 1 if self.proposals is None else self.proposals
        return Rates(self.elites, self.mutation_rate, self.crossover_rate, proposals)

    @property
    def limits(self) -> WidthLimits:
        """What the widths are restricted to."""
        from evo.genome.width_limits import WidthLimits

        return WidthLimits.parse(self.multiple_of, self.floors)

    @property
    def rung_settings(self) -> Rungs:
        """Who goes on from stage to stage of scoring."""
        return Rungs.parse(self.rungs, self.survivors, self.rung_confidence)

    @property
    def scoring(self) -> ScoringSettings:
        """How candidates are scored."""
        device: Literal["cpu", "cuda"] = "cuda" if self.gpus_per_worker else "cpu"
        return ScoringSettings(
            device=device,
            dtype=self.dtype,
            micro_batch=self.micro_batch,
            threads=self.threads,
            device_share=min(1.0, self.gpus_per_worker) if self.gpus_per_worker else 1.0,
        )

    @property
    def pool_settings(self) -> PoolSettings:
        """How many workers, and on what."""
        return PoolSettings(workers=self.workers, gpus_per_worker=self.gpus_per_worker)


FREE = (
    "workers", "gpus_per_worker", "pool", "pool_idle", "select", "score_cache", "teacher", "out",
    "text", "order_text", "gate_text", "text_field", "on_bad_line", "bos",
)  # fmt: skip
"""Settings that may differ when a run is resumed: the teacher and all texts are compared by their
hashes, which stand beside the paths and are over all that is read of them."""
