"""The results file: whole lines, resumable, and never rewritten."""

import json
import multiprocessing

import pytest
from riemopt_bench import registry
from riemopt_bench.interface import Budget
from riemopt_bench.train.store import Store, StoreError
from riemopt_bench.train.worker import RunSpec


def test_rows_come_back_in_order(tmp_path):
    store = Store(tmp_path)
    assert store.rows() == []
    for index in range(3):
        store.append({"key": str(index), "value": index})
    assert [row["value"] for row in store.rows()] == [0, 1, 2]
    assert store.keys() == {"0", "1", "2"}
    assert not store.truncated


@pytest.mark.parametrize("rest", ['{"key": "b", "val', "x", "{" + "y" * 200_000])
def test_a_cut_off_last_line_is_skipped_and_then_replaced(tmp_path, rest):
    store = Store(tmp_path)
    store.append({"key": "a"})
    with store.path.open("a") as file:
        file.write(rest)
    assert store.keys() == {"a"}
    assert store.truncated
    store.append({"key": "b"})
    assert [row["key"] for row in store.rows()] == ["a", "b"]
    assert not store.truncated


def test_a_cut_off_first_line(tmp_path):
    store = Store(tmp_path)
    store.path.write_text('{"key":')
    store.append({"key": "a"})
    assert store.path.read_text() == '{"key":"a"}\n'


@pytest.mark.parametrize("bad", ["not json", "[1]", '{"no": "key"}'])
def test_a_bad_line_in_the_middle_is_an_error_that_names_it(tmp_path, bad):
    store = Store(tmp_path)
    store.path.write_text('{"key": "a"}\n' + bad + '\n{"key": "b"}\n')
    with pytest.raises(StoreError, match=r"runs\.jsonl, line 2: .*delete that line"):
        store.rows()


def _append_many(directory, name):
    store = Store(directory)
    for index in range(20):
        store.append({"key": f"{name}{index}", "padding": "x" * 10_000})


def test_two_processes_append_whole_lines(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_many, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = Store(tmp_path).path.read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == 40


def spec(**changes):
    values = {
        "phase": "run",
        "problem": "pca",
        "method": "geoopt-adam",
        "lr": 0.1,
        "repetition": 0,
        "budget": Budget(3),
    }
    return RunSpec(**(values | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "tune"},
        {"problem": "circle"},
        {"method": "project-after-adam"},
        {"lr": 0.2},
        {"repetition": 1},
        {"budget": Budget(4)},
        {"budget": Budget(3, threads=2)},
    ],
    ids=str,
)
def test_the_key_depends_on_everything_that_determines_a_result(change):
    assert spec().key == spec().key
    assert spec(**change).key != spec().key


@pytest.mark.parametrize("kind", ["problem", "method"])
def test_the_key_changes_with_the_source(monkeypatch, kind):
    before = spec().key
    original = registry.source
    monkeypatch.setattr(registry, "source", lambda k, n: original(k, n) + "!" * (k == kind))
    assert spec().key != before


def test_the_source_of_a_problem_includes_the_shared_file_that_it_uses(monkeypatch):
    import inspect

    registry.source.cache_clear()
    before = registry.source("problem", "digits"), registry.source("problem", "pca")
    original = inspect.getsource

    def edited(module):
        return original(module) + ("# edited" if module.__name__.endswith("_classifier") else "")

    monkeypatch.setattr(inspect, "getsource", edited)
    registry.source.cache_clear()
    after = registry.source("problem", "digits"), registry.source("problem", "pca")
    registry.source.cache_clear()
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_new_version_of_what_is_measured_is_a_new_key(monkeypatch):
    from riemopt_bench import environment

    before = spec(method="riemopt-adam").key, spec().key
    original = environment.version
    monkeypatch.setattr(
        environment, "version", lambda p: original(p) + ("x" if p == "riemopt" else "")
    )
    assert spec(method="riemopt-adam").key != before[0]
    assert spec().key == before[1]


def test_the_seed_does_not_depend_on_the_method_and_tuning_has_other_seeds():
    assert spec().seed == spec(method="riemopt-adam", lr=3.0).seed
    seeds = {spec(phase=phase, repetition=r).seed for phase in ("run", "tune") for r in range(20)}
    assert len(seeds) == 40
