"""lm-evaluation-harness on local tasks, against sums of log-probabilities by a plain forward."""

import functools
import json
import math
import re
import shutil
from pathlib import Path

import lm_eval.tasks
import numpy as np
import pytest
import tokenizers
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._index import TaskIndex

from evo.cli import main
from evo.embedded import teacher_path
from evo.errors import UserError
from evo.huggingface.config import ExportConfig
from evo.huggingface.export_checkpoint import export
from evo.model import checkpoint
from tests.support import tiny_checkpoints
from tests.support.cuts import random_subnet
from tests.support.winners import saved, sized
from training.evaluation.harness import run_tasks
from training.evaluation.harness_model import HarnessModel
from training.evaluation.task_settings import TaskSettings

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
TEXTS = ["def f(x):\n    return x\n" * n for n in (1, 7, 60)]
TASKS = ["local_choice", "local_words", "local_text"]


@pytest.fixture(autouse=True, scope="module")
def own_caches(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("caches")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(root / "modules"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(root / "datasets"))
        patch.setattr(TaskIndex, "build", staticmethod(read_once(TaskIndex.build)))
        yield


def read_once(build):
    """The harness's own tasks, whose reading takes 15 seconds, are read once for all tests."""
    own = functools.cache(lambda root: build([root]))

    def built(paths):
        index = {}
        for path in paths:
            index.update(
                own(path) if path == Path(lm_eval.tasks.__file__).parent else build([path])
            )
        return index

    return built


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
    write(
        "local_text", [{"text": one} for one in TEXTS], doc_to_text="",
        output_type="loglikelihood_rolling",
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


class Reference:
    """What tasks are made of, from the definitions: a plain forward of litgpt's network for one
    text at a time, without padding, and the tokenizer's own file."""

    def __init__(self, directory: Path) -> None:
        stored = checkpoint.load(directory)
        self.network, self.most = stored.model(), stored.config.block_size
        self.tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.end = self.tokenizer.token_to_id("<|endoftext|>")

    def ids(self, text: str) -> list[int]:
        special = not text.startswith("<|endoftext|>")
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    @torch.inference_mode()
    def scores(self, context: list[int], ends: list[int]) -> tuple[float, bool]:
        """The sum of the log-probabilities of `ends`, and whether each is the likeliest."""
        row = torch.tensor([(context + ends)[-(self.most + 1) :]])
        logs = self.network(row[:, :-1]).log_softmax(-1)[0, -len(ends) :]
        wanted = row[0, -len(ends) :]
        sums = logs.double().gather(1, wanted[:, None]).sum().item()
        return sums, bool((logs.argmax(-1) == wanted).all())

    def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        spaces = context[len(context.rstrip()) :]  # they belong to what follows
        start = context.rstrip()
        before = self.ids(start) if start else [self.end]
        whole = self.ids(start + spaces + continuation)
        return self.scores(before, whole[len(before) if start else 0 :])

    def rolling(self, text: str) -> float:
        """Windows side by side, the last one reaching back; each token once."""
        ids, total = self.ids(text), 0.0
        for start in range(0, len(ids), self.most):
            part = ids[start : start + self.most]
            context = [self.end, *ids[:start]][-(self.most + 1 - len(part)) :]
            total += self.scores(context, part)[0]
        return total

    @torch.inference_mode()
    def greedy(self, prompt: str, stops: list[str], count: int) -> str:
        """Token by token, each from a forward of all before it."""
        ids = self.ids(prompt)[-(self.most - count) :]
        start = len(ids)
        while len(ids) < start + count:
            ids.append(int(self.network(torch.tensor([ids]))[0, -1].argmax()))
            text = self.tokenizer.decode(ids[start:])
            if ids[-1] == self.end or any(one in text for one in stops):
                break
        text = self.tokenizer.decode(ids[start:])
        for one in stops:
            text = text.split(one)[0]
        return text


def test_metrics_are_those_of_a_plain_forward(winner, tasks, tmp_path, capsys):
    reference = Reference(winner)
    found = run_tasks(checkpoint.load(winner), TaskSettings(TASKS, tasks), batch_size=4)
    results = found["results"]
    likelihoods = [
        np.array([reference.loglikelihood(q, f" {c}")[0] for c in choices])
        for q, choices, _ in QUESTIONS
    ]
    answers = [answer for _, _, answer in QUESTIONS]
    lengths = [np.array([len(c.encode()) for c in choices]) for _, choices, _ in QUESTIONS]
    right = [scores.argmax() == one for scores, one in zip(likelihoods, answers, strict=True)]
    normed = [
        (scores / size).argmax() == one
        for scores, size, one in zip(likelihoods, lengths, answers, strict=True)
    ]
    assert results["local_choice"]["acc,none"] == pytest.approx(np.mean(right))
    assert results["local_choice"]["acc_norm,none"] == pytest.approx(np.mean(normed))
    same = [
        reference.greedy(q or "import", ["\n\n", ":"], 20) == choices[answer]
        for q, choices, answer in QUESTIONS
    ]
    assert results["local_words"]["exact_match,none"] == pytest.approx(np.mean(same))
    total = sum(map(reference.rolling, TEXTS))
    size = sum(len(one.encode()) for one in TEXTS)
    bits = results["local_text"]["bits_per_byte,none"]
    assert bits == pytest.approx(-total / size / math.log(2), rel=1e-5)
    words = sum(len(re.split(r"\s+", one)) for one in TEXTS)
    perplexity = results["local_text"]["word_perplexity,none"]
    assert perplexity == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert found["n-samples"]["local_choice"]["effective"] == len(QUESTIONS)


class Request:
    def __init__(self, *args: object) -> None:
        self.args = args


def lm(directory: Path, **settings: object) -> HarnessModel:
    values = {"dtype": torch.float32, "batch_size": 3, "device": "cpu"} | settings
    return HarnessModel(checkpoint.load(directory), **values)


def begin_texts(directory: Path) -> None:
    """Let a checkpoint's tokenizer put a token before every text."""
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A",
        special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))],
    )
    tokenizer.save(str(directory / "tokenizer.json"))


PAIRS = [Request(q, c) for q, choices, _ in QUESTIONS for c in choices]
LONG = [Request("import os\n" * n) for n in (1, 5, 200)] + [Request("<|endoftext|>import os")]
GENERATED = [
    Request(q or "def", settings)
    for settings in (
        {"until": ["\n"], "max_gen_toks": 12},
        {"until": [], "max_gen_toks": 12, "do_sample": False},
    )
    for q, _, _ in QUESTIONS
]


@pytest.mark.parametrize(("layerwise", "begins"), [(True, False), (True, True), (False, False)])
def test_every_kind_of_request(layerwise, begins, winner, tmp_path):
    """The numbers and texts themselves, longer than the model takes among them; also where the
    tokenizer itself puts a token before every text. Against a plain forward, and against what the
    harness reads from an export on disk."""
    if not layerwise:
        winner = sized(TEACHER, tmp_path / "winner", channels=96, groups=4, layers=5, neurons=300)
    if begins:
        winner = shutil.copytree(winner, tmp_path / "winner")
        begin_texts(winner)
    reference, ours = Reference(winner), lm(winner)
    assert (ours.tok_encode("import")[0] == ours.eot_token_id) == begins
    found = (
        ours.loglikelihood(PAIRS),
        ours.loglikelihood_rolling(LONG),
        ours.generate_until(GENERATED),
    )
    if not begins:  # then the harness does not split where the definition does
        for (one, greedy), pair in zip(found[0], PAIRS, strict=True):
            expected, also = reference.loglikelihood(*pair.args)
            assert one == pytest.approx(expected, abs=1e-3)
            assert greedy == also
    assert found[1] == pytest.approx([reference.rolling(*one.args) for one in LONG], rel=1e-4)
    assert found[2] == [
        reference.greedy(prompt, settings["until"], settings["max_gen_toks"])
        for prompt, settings in (one.args for one in GENERATED)
    ]

    export(ExportConfig(winner, tmp_path / "hf", native=not layerwise))
    theirs = HFLM(pretrained=str(tmp_path / "hf"), trust_remote_code=True, device="cpu",
                  batch_size=2, dtype="float32")  # fmt: skip
    for (one, greedy), (other, also) in zip(found[0], theirs.loglikelihood(PAIRS), strict=True):
        assert one == pytest.approx(other, abs=1e-3)
        assert greedy == also
    assert found[1] == pytest.approx(theirs.loglikelihood_rolling(LONG), rel=1e-4)
    assert found[2] == theirs.generate_until(GENERATED)


def test_bfloat16(winner):
    """Log-probabilities are summed in float32 all the same."""
    half = lm(winner, dtype=torch.bfloat16)
    assert half.model.lm_head.weight.dtype == torch.bfloat16
    pair = "import os\nimport ", "sys\nprint(sys.path)"
    (near, _), = half.loglikelihood([Request(*pair)])  # fmt: skip
    assert near == pytest.approx(Reference(winner).loglikelihood(*pair)[0], rel=0.03)
    assert near != torch.tensor(near).bfloat16().item()


def test_sampling_and_beams_are_those_of_transformers(winner):
    """With a seed, twice the same."""
    ours = lm(winner)
    prompt, ids = "for i in ", torch.tensor([Reference(winner).ids("for i in ")])
    how = {"until": [], "max_gen_toks": 8}
    sampled = Request(prompt, how | {"do_sample": True, "temperature": 0.7})
    texts = []
    for _ in range(2):
        torch.manual_seed(0)
        texts += ours.generate_until([sampled])
    assert texts[0] == texts[1]
    beams = ours.generate_until([Request(prompt, how | {"num_beams": 3})])
    expected = ours.model.generate(
        ids, max_new_tokens=8, num_beams=3, do_sample=False, pad_token_id=ours.eot_token_id
    )
    expected = ours.tokenizer.decode(expected[0, ids.size(1) :], skip_special_tokens=True)
    assert beams == [expected.split("<|endoftext|>")[0]]


def test_a_stored_generation_config_counts(winner, tmp_path):
    """As it does for an export: another token may end a text."""
    directory, reference = shutil.copytree(winner, tmp_path / "winner"), Reference(winner)
    with torch.inference_mode():
        first = int(reference.network(torch.tensor([reference.ids("import os")]))[0, -1].argmax())
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, first]}))
    request = Request("import os", {"until": [], "max_gen_toks": 40})
    (stopped,), (whole,) = (lm(one).generate_until([request]) for one in (directory, winner))
    assert stopped == reference.tokenizer.decode([first])
    assert len(whole) > len(stopped)


def test_no_second_copy_of_the_weights(winner, monkeypatch):
    """Each is allocated once, where it is to be."""
    sizes: list[int] = []
    empty_like = torch.empty_like

    def counted(tensor, *args, **kwargs):
        made = empty_like(tensor, *args, **kwargs)
        sizes.append(made.nbytes)
        return made

    monkeypatch.setattr(torch, "empty_like", counted)
    stored = checkpoint.load(winner)
    model = lm(winner).model
    assert sum(sizes) == sum(one.nbytes for one in stored.weights.values())
    assert model.num_parameters() == sum(one.numel() for one in model.parameters())


def test_the_flags_of_the_harness(winner, tasks, tmp_path, capsys):
    """Against what they mean: the samples tell the prompts and what was generated."""
    directory, out = shutil.copytree(winner, tmp_path / "winner"), tmp_path / "results.json"
    base = ["--tasks", "local_words", "local_text", "--include-path", str(tasks), "--limit", "2"]
    command = ["eval", str(directory), *base, "--micro-batch", "2", "--out", str(out)]
    command += ["--log-samples", "--gen-kwargs", "max_gen_toks=3,until=zzzz", "--max-length", "9"]
    assert main([*command, "--apply-chat-template"]) == 2
    assert "--apply-chat-template: " in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.glob("*results*")) == []  # nothing half-written

    config = json.loads((directory / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}A:"
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert main([*command, "--apply-chat-template"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown == json.loads(out.read_text())
    assert shown["n-samples"]["local_text"] == {"original": 3, "effective": 2}
    lines = (tmp_path / "results.samples.jsonl").read_text().splitlines()
    samples = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [one["task"] for one in samples] == ["local_words"] * 2 + ["local_text"] * 2
    reference = Reference(directory)
    reference.most = 9
    for one in samples[:2]:
        prompt = f"<user>{one['doc']['text']}A:"
        assert one["arguments"][0][0] == prompt
        assert one["resps"] == [[reference.greedy(prompt, ["zzzz"], 3)]]
    for one in samples[2:]:
        assert one["resps"][0][0] == pytest.approx(reference.rolling(one["doc"]["text"]), rel=1e-4)

    out.unlink()
    assert main(command) == 2  # the samples are there already
    assert "results.samples.jsonl exists already" in capsys.readouterr().err


@pytest.mark.slow  # reads the harness's 14,000 files
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
    found = run_tasks(stored, TaskSettings(["local_[ct]*"], tasks, limit=2))["results"]
    assert set(found) == {"local_choice", "local_text"}
    found = run_tasks(stored, TaskSettings(["local_group", "local_text"], tasks))["results"]
    assert found["local_group"]["acc,none"] == found["local_choice"]["acc,none"]
    assert "local_text" in found
    with pytest.raises(UserError, match="'local_choice': found in both"):
        run_tasks(stored, TaskSettings(["local_group", "local_choice"], tasks))


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


def test_more_new_tokens_than_the_model_takes(winner, tasks, capsys):
    command = ["eval", str(winner), "--tasks", "local_words", "--include-path", str(tasks)]
    assert main([*command, "--gen-kwargs", "max_gen_toks=256"]) == 2
    assert "requested max tokens to generate (256) must be" in capsys.readouterr().err


def test_continuations_that_are_refused(winner):
    """Where the harness has assertions that say nothing."""
    with pytest.raises(UserError, match="'s' after 'import o', but the tokenizer leaves no token"):
        lm(winner).loglikelihood([Request("import o", "s")])
    with pytest.raises(UserError, match="a continuation is beyond the model's 256 tokens"):
        lm(winner).loglikelihood([Request("import", " os" * 257)])
    for context in (" ", "\n\n"):
        with pytest.raises(UserError, match=r"'x' after white space alone .* puts no BOS before"):
            lm(winner).loglikelihood([Request(context, "x")])


def test_a_context_of_white_space_follows_the_token_that_begins_a_text(winner, tmp_path):
    """HFLM puts white space at a context's end before the continuation."""
    directory = shutil.copytree(winner, tmp_path / "winner")
    begin_texts(directory)
    ((found, _),) = lm(directory).loglikelihood([Request("  ", "import")])
    reference = Reference(directory)
    context, ids = [reference.end], reference.ids("  import")[1:]
    assert found == pytest.approx(reference.scores(context, ids)[0], abs=1e-3)


@pytest.mark.slow  # reads the harness's 14,000 files
def test_a_task_that_nobody_knows(winner, tasks):
    with pytest.raises(UserError, match="--tasks local_chance: lm-evaluation-harness knows no"):
        run_tasks(checkpoint.load(winner), TaskSettings(["local_chance"], tasks))


def test_refusals(winner, tasks, tmp_path, capsys):
    stored = checkpoint.load(winner)
    with pytest.raises(UserError, match="nowhere is no directory"):
        run_tasks(stored, TaskSettings(TASKS, tmp_path / "nowhere"))
    bare = checkpoint.load(tiny_checkpoints.llama(tmp_path / "bare"))
    with pytest.raises(UserError, match="has no tokenizer, but tasks are text"):
        run_tasks(bare, TaskSettings(TASKS, tasks))
    for most in (0, 257):
        with pytest.raises(UserError, match=f"--max-length {most} cannot be: give 1 to 256"):
            lm(winner, max_length=most)
    for given, message in [
        ([], "give one of --text SOURCE and --tasks TASK"),
        (["--text", "stdlib:train", "--tasks", "a"], "give one of --text SOURCE and --tasks TASK"),
        (["--text", "stdlib:train", "--limit", "3"], "--limit is of use with --tasks, not with"),
        (["--tasks", "a", "--stride", "3"], "--stride is of use with --text, not with --tasks"),
        (["--tasks", "a", "--micro-batch", "0"], "--micro-batch 0"),
        (["--tasks", "a", "--limit", "0"], "--limit 0: it must be at least 1"),
        (["--tasks", "a", "--few-shot", "-1"], "--few-shot -1: it must be at least 0"),
        (["--text", "stdlib:train", "--log-samples"], "--log-samples is of use with --tasks"),
        (["--tasks", "a", "--log-samples"], "name a file with --out"),
        (["--tasks", "a", "--gen-kwargs", "greedy"], "give name=value,name=value"),
    ]:
        assert main(["eval", str(winner), *given]) == 2
        assert message in capsys.readouterr().err
