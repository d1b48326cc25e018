import pytest

from evo.errors import UserError
from evo.storage.run_directory import FILE, claim_run, read_settings

SETTINGS = {
    "teacher": "/models/a",
    "bins": ["25%", "50%"],
    "population": 50,
    "patience": None,
    "rate": 1e-5,
    "seed": 0,
    "workers": 2,
}


def test_claimed_once_then_found(tmp_path):
    run = tmp_path / "deep" / "run"
    assert claim_run(run, SETTINGS) is False
    assert read_settings(run) == SETTINGS
    assert claim_run(run, SETTINGS) is True
    assert [path.name for path in run.iterdir()] == [FILE]


def test_an_empty_directory_will_do(tmp_path):
    assert claim_run(tmp_path, SETTINGS) is False


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"population": 51}, "--population was 50, now it is 51"),
        ({"bins": ["50%", "25%"]}, r"--bins was 25% 50%, now it is 50% 25%"),
        ({"patience": 3}, "--patience was not given, now it is 3"),
        ({"rate": 2e-5}, "--rate was 1e-05, now it is 2e-05"),
        ({"dtype": "bfloat16"}, "--dtype was not given, now it is bfloat16"),
    ],
)
def test_other_settings_are_refused_with_the_difference(tmp_path, change, named):
    claim_run(tmp_path, SETTINGS)
    with pytest.raises(UserError, match=f"is a run with other settings: {named}"):
        claim_run(tmp_path, SETTINGS | change, free=("workers", "teacher"))
    assert read_settings(tmp_path) == SETTINGS


def test_free_settings_may_differ(tmp_path):
    claim_run(tmp_path, SETTINGS, free=("workers", "teacher"))
    changed = SETTINGS | {"workers": None, "teacher": "/elsewhere"}
    assert claim_run(tmp_path, changed, free=("workers", "teacher"))
    with pytest.raises(UserError, match="--workers was 2, now it is not given"):
        claim_run(tmp_path, changed, free=("teacher",))


def test_what_a_killed_start_left_does_not_matter(tmp_path):
    for name in (f".{FILE}.host.1.tmp", ".lock"):
        (tmp_path / name).write_text("half")
    assert claim_run(tmp_path, SETTINGS) is False
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".git").mkdir()
    with pytest.raises(UserError, match="is not empty and no run"):
        claim_run(tmp_path / "other", SETTINGS)


def test_what_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not empty and no run: name another --out"):
        claim_run(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for under in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot write"):
            claim_run(under, SETTINGS)


@pytest.mark.parametrize("content", [b"", b"a: [", b"- 1", b"\xff\xfe\x00"])
def test_damaged_settings(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    for ask in (read_settings, lambda path: claim_run(path, SETTINGS)):
        with pytest.raises(UserError, match="is no run"):
            ask(tmp_path)


def test_no_run_at_all(tmp_path):
    with pytest.raises(UserError, match=r"is no run: it has no settings\.yaml"):
        read_settings(tmp_path / "nowhere")


def test_what_was_typed_is_named_before_what_follows_from_it(tmp_path):
    follows = {"steps": 10, "text_hash": "a", "flops_per_token": 7}
    claim_run(tmp_path, SETTINGS | follows)
    now = SETTINGS | {"population": 51, "steps": 20, "text_hash": "b", "flops_per_token": 8}
    for key, named in (
        ("population", "--population was 50"),
        ("steps", "--tokens, in steps, was 10, now it is 20"),
        ("text_hash", "the text that --text names has other content than when the run began"),
        ("flops_per_token", "--flops-per-token was 7"),
    ):
        with pytest.raises(UserError, match=f"other settings: {named}"):
            claim_run(tmp_path, now)
        now[key] = (SETTINGS | follows)[key]
    assert claim_run(tmp_path, now)


def test_more_of_a_run_is_claimed_once_it_is_reopened(tmp_path):
    claim_run(tmp_path, SETTINGS)
    called = []

    def reopen(before, now):
        assert read_settings(tmp_path) == SETTINGS
        called.append((before["population"], now["population"]))

    more = {"growing": ("population",), "reopen": reopen, "first": lambda: called.append("first")}
    assert claim_run(tmp_path, SETTINGS | {"population": 60}, **more)
    assert called == ["first", (50, 60)]
    assert read_settings(tmp_path)["population"] == 60
    assert claim_run(tmp_path, SETTINGS | {"population": 60}, **more)
    assert len(called) == 2
