"""What vs_whittle.py runs inside whittle's own environment. Nothing of evo is here.

    python whittle_search.py search JOB.json OUT.json       one search in one bin
    python whittle_search.py abilities JOB.json OUT.json    extraction, counts, what its spaces draw
    python whittle_search.py command JOB.json LOG           `whittle search` as it is, to be killed

Evaluating a sub-network is whittle's `select_sub_network` or `set_sub_network` and litgpt's
`validate`, as in `whittle.search_sub_networks._objective`; proposing is its `AskTellScheduler` over
its `methods`. What whittle lacks and is added here is the bin, see `Bin` and `search_in_bin`.
"""

from __future__ import annotations

import inspect
import json
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning
import numpy as np
import torch
import whittle.metrics.parameters
import whittle.models.gpt.extract
import whittle.search.search
import whittle.search_sub_networks as command
import yaml
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.pretrain import validate
from litgpt.utils import copy_config_files, load_checkpoint
from syne_tune.config_space import lograndint, randint
from whittle.args import SearchArgs
from whittle.metrics import compute_parameters
from whittle.models.gpt import GPT
from whittle.models.gpt.checkpoint import load_checkpoint as load_saved
from whittle.models.gpt.checkpoint import save_sub_network
from whittle.models.gpt.extract import extract_current_sub_network
from whittle.sampling.random_sampler import RandomSampler
from whittle.search import multi_objective_search
from whittle.search.ask_tell_scheduler import AskTellScheduler
from whittle.search.baselines import MethodArguments, methods
from whittle.search.search_spaces import SmallSearchSpace, search_spaces

PENALISED = ("nsga2", "local_search")
"""These get an answer for every proposal; the others simply propose again."""

PROPOSALS = 100_000
"""So many for one candidate in the bin, at most."""

Job = dict[str, Any]


class Bin:
    """The bin, in the place of whittle's `ParamBins`, which has no lower end and no fixed range."""

    def __init__(self, model: Any, sampler: RandomSampler, low: int, high: int) -> None:
        self.model, self.sampler, self.low, self.high = model, sampler, low, high
        self.asked = 0

    def parameters(self, config: Job) -> float:
        """By whittle's own count, of whittle's own choice of space."""
        return self.sampler.get_parameters(self.model, self.sampler.search_space.cast(config))

    def outside(self, config: Job) -> float:
        """How many parameters too few or too many."""
        self.asked += 1
        count = self.parameters(config)
        return max(self.low - count, count - self.high, 0)

    def put_in_bin(self, config: Job) -> bool:
        """What whittle's stratified random search asks."""
        return self.outside(config) == 0


def teacher_for_whittle(source: Path, directory: Path) -> Path:
    """The checkpoint without the settings that whittle's litgpt is too old to know.

    Raises:
        ValueError: such a setting is not off, so that the network would be another one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    copy_config_files(source, directory)
    settings = yaml.safe_load((source / "model_config.yaml").read_text())
    known = {field.name for field in fields(Config)}
    if unknown := {name: value for name, value in settings.items() if name not in known and value}:
        raise ValueError(f"this litgpt does not know {unknown}")
    kept = {name: value for name, value in settings.items() if name in known}
    (directory / "model_config.yaml").write_text(yaml.safe_dump(kept))
    target = directory / "lit_model.pth"
    if not target.exists():
        target.symlink_to(source / "lit_model.pth")
    return directory


class Evaluator:
    """The super-network and its text, as `whittle.search_sub_networks.main` sets them up."""

    def __init__(self, job: Job) -> None:
        self.fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="32-true")
        self.fabric.launch()
        self.fabric.seed_everything(job["seed"], verbose=False)
        directory = Path(job["teacher"])
        with self.fabric.init_module(empty_init=False):
            model = GPT(Config.from_file(directory / "model_config.yaml"))
        self.model = self.fabric.setup(model)
        load_checkpoint(self.fabric, self.model, directory / "lit_model.pth")
        blocks = torch.from_numpy(np.load(job["text"])).long()
        self.model.max_seq_length = blocks.shape[1] - 1
        self.batches = list(blocks.split(job["micro_batch"]))
        self.eval = EvalArgs(max_iters=len(self.batches))

    @torch.no_grad()
    def nll(self, config: Job) -> float:
        """Mean NLL of a sub-network given by `set_sub_network`'s arguments."""
        self.model.set_sub_network(**config)
        return float(
            validate(self.fabric, self.model, self.batches, self.eval.max_iters, verbose=False)
        )


def search_in_bin(job: Job, evaluator: Evaluator) -> tuple[list[Job], int]:
    """One of whittle's strategies over its `SmallSearchSpace`, kept in the bin.

    `evaluations` are candidates in the bin: proposals outside cost their parameter count and no
    forward pass. The second objective is a constant, so that the multi-objective strategies spend
    all on the NLL.
    """
    full = evaluator.model.config
    space = SmallSearchSpace(full)
    # from evo's least width on: its own least of 64 lies above the mid-point that its strategies
    # start from, (160 - 64) / 2, and that is an AssertionError
    space.config_space["n_embd"] = lograndint(full.head_size, full.n_embd)
    sampler = RandomSampler(space, seed=job["seed"])
    bin = Bin(evaluator.model, sampler, *job["bin"])
    names = ["objective_1", "objective_2"]
    arguments = MethodArguments(space.config_space, names, ["min", "min"], job["seed"], bin)
    scheduler = AskTellScheduler(methods[job["strategy"]](arguments))
    trace: list[Job] = []
    since = 0
    while len(trace) < job["evaluations"]:
        trial = scheduler.ask()
        if outside := bin.outside(trial.config):
            if job["strategy"] in PENALISED:
                scheduler.tell(trial, {names[0]: 100 + outside, names[1]: 0.0})
            since += 1
            if since > PROPOSALS:
                raise SystemExit(f"none of {PROPOSALS} proposals was in the bin")
            continue
        since = 0
        config = space.cast(trial.config)
        began = time.perf_counter()
        nll = evaluator.nll(config)
        seconds = time.perf_counter() - began
        scheduler.tell(trial, {names[0]: nll, names[1]: 0.0})
        trace.append(_entry(job, nll, compute_parameters(evaluator.model), config, seconds))
    return trace, bin.asked


def search_as_shipped(job: Job, evaluator: Evaluator) -> tuple[list[Job], int]:
    """`multi_objective_search` with the objective, objectives and space of `whittle search`.

    There is no bin: what lies in it is picked from all that was evaluated.
    """
    full = evaluator.model.config
    space = {  # as in whittle.search_sub_networks.main
        "embed_dim": lograndint(1, full.n_embd),
        "num_heads": randint(1, full.n_head),
        "mlp_ratio": randint(1, 4),
        "depth": randint(1, full.n_layer),
    }
    trace: list[Job] = []

    def objective(config: Job, **arguments: Any) -> tuple[float, float]:
        began = time.perf_counter()
        nll, count = command._objective(config, **arguments)
        widths = {
            "sub_network_n_embd": config["embed_dim"],
            "sub_network_intermediate_size": config["mlp_ratio"] * config["embed_dim"],
            "sub_network_num_heads": config["num_heads"],
            "sub_network_n_layers": config["depth"],
        }
        trace.append(_entry(job, nll, count, widths, time.perf_counter() - began))
        return nll, count

    arguments = {
        "fabric": evaluator.fabric,
        "model": evaluator.model,
        "val_dataloader": evaluator.batches,
        "eval": evaluator.eval,
        "verbose": False,
    }
    multi_objective_search(
        objective,
        space,
        search_strategy=job["strategy"],
        num_samples=job["evaluations"],
        objective_kwargs=arguments,
        seed=job["seed"],
        verbose=False,
    )
    return trace, job["evaluations"]


def _entry(job: Job, nll: float, count: float, config: Job, seconds: float) -> Job:
    """One evaluation; layer-wise lists of equal widths become one number."""
    config = {k: int(v[0]) if isinstance(v, list) else int(v) for k, v in config.items()}
    at = time.time() - job["started"]
    return {"at": at, "nll": nll, "params": int(count), "seconds": seconds, "subnet": config}


def search(job: Job) -> Job:
    """A search, its times since the process was started, and its memory."""
    evaluator = Evaluator(job)
    ready = time.time() - job["started"]
    full = evaluator.nll({"sub_network_n_layers": evaluator.model.config.n_layer})
    began = time.time() - job["started"]
    run = search_as_shipped if job["as_shipped"] else search_in_bin
    trace, asked = run(job, evaluator)
    return {
        "teacher_nll": full,
        "ready": ready,
        "search_seconds": time.time() - job["started"] - began,
        "proposals": asked,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "trace": trace,
    }


def attempt(step: Callable[[], Any]) -> Any:
    """What a step gives, or how it fails, in one line."""
    try:
        return step()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def abilities(job: Job) -> Job:
    """Each given subnet in place, extracted, saved and reloaded; what whittle's spaces draw."""
    evaluator = Evaluator(job)
    model: Any = evaluator.model.module
    model.eval()
    tokens = evaluator.batches[0][:2, :-1]
    directory = Path(job["directory"])
    rows = []
    for number, given in enumerate(job["subnets"]):
        row = {"space": given["space"], "index": number}
        rows.append(row)
        row["in_place"] = attempt(lambda given=given: _in_place(model, given, tokens))
        if row["in_place"] != "runs":
            continue
        row["counted"] = attempt(lambda: int(compute_parameters(model)))
        row["extracted"] = attempt(lambda: _difference(extract_current_sub_network(model), tokens))
        row["saved"] = attempt(lambda n=number: _saved(model, job, directory / str(n), tokens))
        row["seconds"] = _seconds_of_a_score(evaluator, given["arguments"])
    return {
        "rows": rows,
        "spaces": {name: _drawn(kind(model.config)) for name, kind in search_spaces.items()},
        "lines": {
            "own_space": _line(command, "search_space = {"),
            "loop": _line(whittle.search.search, "for i in tqdm(range(num_samples)"),
            "resumed_state": _line(command, 'state = {"model": model, "iter_num": 0'),
            "in_memory": _line(whittle.search.search, "configs: list[dict[str, Any]] = []"),
            "extract_block": _line(whittle.models.gpt.extract, "block = model.transformer.h[i]"),
            "count_block": _line(whittle.metrics.parameters, "block = model.transformer.h[i]"),
            "extract_lists": _line(
                whittle.models.gpt.extract, "subnet_config.n_head = model.sub_network_num_heads"
            ),
        },
    }


def _seconds_of_a_score(evaluator: Evaluator, arguments: Job) -> float:
    """The fastest of some, after one that does not count."""
    seconds = []
    for _ in range(1 + SCORES):
        began = time.perf_counter()
        evaluator.nll(arguments)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


_expected: dict[str, torch.Tensor] = {}
SCORES = 5
"""A score is timed so many times."""


@torch.no_grad()
def _in_place(model: Any, given: Job, tokens: torch.Tensor) -> str:
    """Logits of the sub-network inside the super-network, written down for evo to compare."""
    model.set_sub_network(**given["arguments"])
    logits = model(tokens)
    _expected["logits"] = logits
    np.save(given["logits"], logits.numpy())
    return "runs"


@torch.no_grad()
def _difference(network: Any, tokens: torch.Tensor) -> float:
    """The largest difference to the logits in place."""
    return float((network.eval()(tokens) - _expected["logits"]).abs().max())


def _saved(model: Any, job: Job, directory: Path, tokens: torch.Tensor) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that the current sub-network is meant, as it is
        save_sub_network(model, Path(job["teacher"]), directory, copy_config_files=True)
    return _difference(load_saved(directory), tokens)


def _drawn(space: Any) -> str:
    """The kind of space that a hundred samples of a whittle search space show."""
    sampler = RandomSampler(space, seed=0)
    samples = [sampler.sample() for _ in range(100)]
    if any(key.startswith("sampled_") for sample in samples for key in sample):
        return "fine"
    lists = [value for sample in samples for value in sample.values() if isinstance(value, list)]
    return "coarse-layerwise" if any(len(set(one)) > 1 for one in lists) else "coarse-uniform"


def _line(module: ModuleType, text: str) -> str:
    """Where a line of whittle's source is.

    Raises:
        ValueError: it is not there.
    """
    for number, line in enumerate(inspect.getsource(module).splitlines(), 1):
        if line.strip().startswith(text):
            return f"{module.__name__.replace('.', '/')}.py:{number}"
    raise ValueError(f"{module.__name__} has no line {text!r}")


class Blocks(DataModule):
    """Token blocks for `whittle search`, whose data modules all download something."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def connect(self, **_: Any) -> None:
        """Nothing to set."""

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        """One batch of the blocks, and that is all."""
        return torch.utils.data.DataLoader(torch.from_numpy(np.load(self.path)).long()[:4], 4)

    train_dataloader = val_dataloader


def run_command(job: Job, log: Path) -> None:
    """`whittle search --resume auto`, which writes every evaluation's configuration to a log."""
    objective = command._objective

    def logged(config: Job, **arguments: Any) -> tuple[float, float]:
        result = objective(config, **arguments)
        with log.open("a") as file:
            file.write(json.dumps({key: int(value) for key, value in config.items()}) + "\n")
        return result

    command._objective = logged
    command.setup(
        Path(job["teacher"]),
        out_dir=Path(job["directory"]),
        precision="32-true",
        resume="auto",
        data=Blocks(job["text"]),
        search=SearchArgs(iterations=job["evaluations"], search_strategy=job["strategy"]),
        train=TrainArgs(max_seq_length=np.load(job["text"]).shape[1] - 1),
        eval=EvalArgs(max_iters=1),
        seed=job["seed"],
        save_checkpoints=False,
        verbose=False,
    )


def main() -> None:
    """See the top."""
    torch.set_num_threads(1)
    action, path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    job = json.loads(path.read_text())
    job["teacher"] = str(teacher_for_whittle(Path(job["source"]), Path(job["teacher"])))
    if action == "command":
        run_command(job, out)
        return
    result = {"search": search, "abilities": abilities}[action](job)
    assert not any(math.isnan(entry["nll"]) for entry in result.get("trace", ()))
    out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
