"""lm-evaluation-harness on a local task: our class against its own, on the exported model."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evo.cli import main
from evo.embedded import teacher_path
from evo.errors import UserError
from evo.huggingface.config import ExportConfig
from evo.huggingface.export_checkpoint import export
from evo.model import checkpoint
from tests.support import tiny_checkpoints
from tests.support.cuts import random_subnet
from tests.support.winners import saved, sized
from training.evaluation import checkpoint_lm
from training.evaluation.checkpoint_lm import CheckpointLM
from training.evaluation.harness import run_tasks

TEACHER = teacher_path()
QUESTIONS = [
    ("import o", ["\nimport s", "xyz", ".path as p"], 0),
    ("for i in range(", ["10):", "the"], 0),
    ("def __init__(self, name):\n    self.name =", [" name", " self", " None\n"], 0),
    ("", ["class Error(Exception):", "zzzz qqqq"], 0),
    ("raise ValueError('bad " * 30, ["value')", ")('"], 1),
    ("return ", ["True", "False", "None"], 1),
    ("x = y[", ["0", "1", "i", "n", "0]"], 2),
]
TASKS = ["local_choice", "local_words", "local_text"]


@pytest.fixture(autouse=True, scope="module")
def own_caches(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("caches")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(root / "modules"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(root / "datasets"))
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Three tasks in YAML, their samples in JSON lines beside them."""
    directory = tmp_path_factory.mktemp("tasks")

    def write(name: str, rows: list[dict], **settings: object) -> None:
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        described = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(directory / f"{name}.jsonl")}},
            "test_split": "test",
            **settings,
        }
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(described))

    questions = [{"text": q, "choices": c, "answer": a} for q, c, a in QUESTIONS]
    write(
        "local_choice", questions, output_type="multiple_choice", doc_to_text="{{text}}",
        doc_to_choice="{{choices}}", doc_to_target="answer",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )  # fmt: skip
    prompts = [{"text": q or "import", "answer": c[a]} for q, c, a in QUESTIONS]
    write(
        "local_words", prompts, output_type="generate_until", doc_to_text="{{text}}",
        doc_to_target="{{answer}}", generation_kwargs={"until": ["\n\n", ":"], "max_gen_toks": 20},
        metric_list=[{"metric": "exact_match"}],
    )  # fmt: skip
    texts = [{"text": "def f(x):\n    return x\n" * n} for n in (1, 7, 60)]
    write(
        "local_text", texts, output_type="loglikelihood_rolling", doc_to_text="",
        doc_to_target="{{text}}", metric_list=[{"metric": "word_perplexity"},
                                               {"metric": "bits_per_byte"}],
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def winner(tmp_path_factory) -> Path:
    """A layer-wise cut of the embedded teacher."""
    stored = checkpoint.load(TEACHER)
    rng = np.random.default_rng(3)
    subnet = random_subnet(stored.architecture.dimensions, rng, uniform=False)
    return saved(TEACHER, tmp_path_factory.mktemp("winner") / "model", subnet)


def by_the_harness(directory: Path, tasks: Path, **settings: object) -> dict:
    """Scores and samples of the harness's own class, through transformers."""
    return simple_evaluate(
        model=HFLM(
            pretrained=str(directory), trust_remote_code=True, device="cpu", batch_size=3,
            dtype="float32",
        ),
        tasks=TASKS,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        **settings,
    )  # fmt: skip


def numbers(results: dict) -> dict[str, float]:
    return {
        f"{task}/{metric}": value
        for task, metrics in results.items()
        for metric, value in metrics.items()
        if isinstance(value, float | int)
    }


def test_same_scores_as_the_harness_through_the_export(winner, tasks, tmp_path, capsys):
    export(ExportConfig(winner, tmp_path / "hf"))
    theirs = by_the_harness(tmp_path / "hf", tasks)
    ours = run_tasks(checkpoint.load(winner), TASKS, include_path=tasks, batch_size=4)
    expected = numbers(theirs["results"])
    assert len(expected) > 6
    assert numbers(ours["results"]) == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert ours["n-samples"]["local_choice"]["effective"] == len(QUESTIONS)

    out = tmp_path / "results.json"
    command = ["eval", str(winner), "--tasks", *TASKS, "--include-path", str(tasks)]
    assert main([*command, "--limit", "2", "--micro-batch", "2", "--out", str(out)]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown == json.loads(out.read_text())
    assert shown["n-samples"]["local_text"] == {"original": 3, "effective": 2}


class Request:
    def __init__(self, *args: object) -> None:
        self.args = args


def lm(directory: Path, **settings: object) -> CheckpointLM:
    values = {"dtype": torch.float32, "batch_size": 3, "device": "cpu"} | settings
    return CheckpointLM(checkpoint.load(directory), **values)


@pytest.mark.parametrize(
    ("native", "begins"), [(False, False), (False, True), (True, False)],
    ids=["layerwise", "begins", "uniform"],
)  # fmt: skip
def test_every_kind_of_request_against_the_harness(native, begins, winner, tmp_path, monkeypatch):
    """The numbers and texts themselves, longer than the model takes among them; also where the
    tokenizer itself puts a token before every text, and through a class that is not ours."""
    if native:
        winner = sized(TEACHER, tmp_path / "winner", channels=96, groups=4, layers=5, neurons=300)
    if begins:
        winner = shutil.copytree(winner, tmp_path / "winner")
        tokenizer = tokenizers.Tokenizer.from_file(str(winner / "tokenizer.json"))
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|endoftext|> $A",
            special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))],
        )
        tokenizer.save(str(winner / "tokenizer.json"))
    export(ExportConfig(winner, tmp_path / "hf", native=native))
    theirs = HFLM(pretrained=str(tmp_path / "hf"), trust_remote_code=True, device="cpu",
                  batch_size=2, dtype="float32")  # fmt: skip
    monkeypatch.setattr(checkpoint_lm, "MOST_LOGITS", 5 * 2048)  # several parts
    ours = lm(winner)
    assert (ours.tok_encode("import")[0] == ours.eot_token_id) == begins
    pairs = [Request(q, c) for q, choices, _ in QUESTIONS for c in choices]
    for (one, greedy), (other, also) in zip(
        ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-3)
        assert greedy == also
    texts = [Request("import os\n" * n) for n in (1, 5, 200)] + [Request("<|endoftext|>import os")]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        theirs.loglikelihood_rolling(texts), rel=1e-4
    )
    settings = [
        {"until": ["\n"], "max_gen_toks": 12},
        {"until": [], "max_gen_toks": 12, "do_sample": False},
    ]
    prompts = [Request(q or "def", one) for one in settings for q, _, _ in QUESTIONS]
    assert ours.generate_until(prompts) == theirs.generate_until(prompts)


def test_likelihoods_are_those_of_a_plain_forward(winner):
    """In bfloat16 they are near."""
    ours = lm(winner)
    context, continuation = "import os\nimport ", "sys\nprint(sys.path)"
    (found, greedy), = ours.loglikelihood([Request(context, continuation)])  # fmt: skip
    ids = torch.tensor([ours.tok_encode(context + continuation)])
    start = len(ours.tok_encode(context.rstrip()))
    with torch.inference_mode():
        logs = ours.network(ids).log_softmax(-1)[0, :-1]
    expected = logs.gather(1, ids[0, 1:, None])[start - 1 :].sum().item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert greedy == bool((logs.argmax(-1) == ids[0, 1:])[start - 1 :].all())
    half = lm(winner, dtype=torch.bfloat16)
    assert half.network.lm_head.weight.dtype == torch.bfloat16
    (near, _), = half.loglikelihood([Request(context, continuation)])  # fmt: skip
    assert near == pytest.approx(expected, rel=0.03)
    assert math.isfinite(near)


def test_choices_of_one_token_share_a_row(winner):
    """Also beside what is longer and begins as one of them does."""
    ours, rows = lm(winner), []
    ours.network.transformer.wte.register_forward_hook(
        lambda module, inputs, output: rows.append(inputs[0].size(0))
    )
    context, choices = "x = y[", ["0", "1", "i", "n"]
    assert all(len(ours.tok_encode(one)) == 1 for one in choices)
    together = ours.loglikelihood([Request(context, one) for one in choices])
    assert rows == [1]
    others = [Request("import os", "\n"), Request(context, "0]")]
    mixed = ours.loglikelihood([Request(context, one) for one in choices] + others)
    assert sum(rows) == 4
    alone = [ours.loglikelihood([one])[0] for one in others]
    for (one, greedy), (other, also) in zip(together + alone, mixed, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
        assert greedy == also
    apart = [ours.loglikelihood([Request(context, one)])[0] for one in choices]
    assert [one for one, _ in apart] == pytest.approx([one for one, _ in together], abs=1e-5)


def test_groups_tags_and_patterns(winner, tasks):
    """As many results as lm-evaluation-harness makes of these names, each task once."""
    (tasks / "together.yaml").write_text(
        yaml.safe_dump(
            {
                "group": "local_group",
                "task": ["local_choice"],
                "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
            }
        )
    )
    stored = checkpoint.load(winner)
    found = run_tasks(stored, ["local_[ct]*"], include_path=tasks, limit=2)["results"]
    assert set(found) == {"local_choice", "local_text"}
    found = run_tasks(stored, ["local_group", "local_text"], include_path=tasks)["results"]
    assert found["local_group"]["acc,none"] == found["local_choice"]["acc,none"]
    assert "local_text" in found
    with pytest.raises(UserError, match="'local_choice': found in both"):
        run_tasks(stored, ["local_group", "local_choice"], include_path=tasks)


@pytest.mark.parametrize(
    ("was", "instead", "message"),
    [
        ("/local_choice.jsonl", "/nowhere.jsonl", "FileNotFoundError: Unable to find"),
        ("output_type: multiple_choice", "output_type: wild", "invalid output_type 'wild'"),
        ("{{text}}", "{{other}}", "'other' is undefined"),
        ("test_split: test", "test_split: test\nunsafe_code: true", "runs code that the model"),
        (
            "{{text}}",
            "{% if answer %}{{other}}{% endif %}",
            "a task fails: UndefinedError: 'other'",
        ),
        (
            "metric_list:",
            "process_results: !function broken.wrong\nmetric_list:",
            "IndexError: none",
        ),
    ],
)
def test_tasks_that_cannot_be_run(was, instead, message, winner, tasks, tmp_path, capsys):
    described = (tasks / "local_choice.yaml").read_text()
    assert was in described
    (tmp_path / "task.yaml").write_text(described.replace(was, instead))
    (tmp_path / "broken.py").write_text(
        "def wrong(doc, results): raise IndexError('none of these')"
    )
    command = ["eval", str(winner), "--tasks", "local_choice", "--include-path", str(tmp_path)]
    assert main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("evo eval: --tasks")
    assert message in last


def test_metrics_that_are_no_numbers_of_json(winner, tasks, tmp_path, capsys):
    """Numpy's, and such as are not finite."""
    (tmp_path / "metrics.py").write_text(
        "import numpy as np\n"
        "def process(doc, results): return {'half': 1, 'endless': 1}\n"
        "def half(values): return np.float32(0.5)\n"
        "def endless(values): return float('inf')\n"
    )
    metrics = [f"- metric: {name}\n  aggregation: !function metrics.{name}\n"
               for name in ("half", "endless")]  # fmt: skip
    described = yaml.safe_load((tasks / "local_choice.yaml").read_text())
    del described["metric_list"]
    (tmp_path / "task.yaml").write_text(
        yaml.safe_dump(described)
        + "process_results: !function metrics.process\nmetric_list:\n"
        + "".join(metrics)
    )
    command = ["eval", str(winner), "--tasks", "local_choice", "--include-path", str(tmp_path)]
    assert main(command) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    found = json.loads(shown, parse_constant=pytest.fail)["results"]["local_choice"]
    assert (found["half,none"], found["endless,none"]) == (0.5, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True, "temperature": 0.7}, "evo generates greedily only"),
        ({"num_beams": 4}, "generation with num_beams 4: evo generates greedily only"),
        ({"max_gen_toks": 256}, "256 new tokens, but the model takes 256"),
    ],
)
def test_generation_that_is_refused(settings, message, winner):
    with pytest.raises(UserError, match=message):
        lm(winner).generate_until([Request("a", settings)])


def test_continuations_that_are_refused(winner):
    """Where the harness's own class has assertions."""
    with pytest.raises(UserError, match="'s' after 'import o', but the tokenizer leaves no token"):
        lm(winner).loglikelihood([Request("import o", "s")])
    with pytest.raises(UserError, match="a continuation is beyond the model's 256 tokens"):
        lm(winner).loglikelihood([Request("import", " os" * 257)])


def test_refusals(winner, tasks, tmp_path, capsys):
    stored = checkpoint.load(winner)
    with pytest.raises(UserError, match="--tasks local_chance: lm-evaluation-harness knows no"):
        run_tasks(stored, ["local_chance"], include_path=tasks)
    with pytest.raises(UserError, match="nowhere is no directory"):
        run_tasks(stored, TASKS, include_path=tmp_path / "nowhere")
    bare = checkpoint.load(tiny_checkpoints.llama(tmp_path / "bare"))
    with pytest.raises(UserError, match="has no tokenizer, but tasks are text"):
        run_tasks(bare, TASKS, include_path=tasks)
    for given, message in [
        ([], "give one of --text SOURCE and --tasks TASK"),
        (["--text", "stdlib:train", "--tasks", "a"], "give one of --text SOURCE and --tasks TASK"),
        (["--text", "stdlib:train", "--limit", "3"], "--limit is of use with --tasks, not with"),
        (["--tasks", "a", "--stride", "3"], "--stride is of use with --text, not with --tasks"),
        (["--tasks", "a", "--micro-batch", "0"], "--micro-batch 0"),
        (["--tasks", "a", "--limit", "0"], "--limit 0: it must be at least 1"),
        (["--tasks", "a", "--few-shot", "-1"], "--few-shot -1: it must be at least 0"),
    ]:
        assert main(["eval", str(winner), *given]) == 2
        assert message in capsys.readouterr().err
