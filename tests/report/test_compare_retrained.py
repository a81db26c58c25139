"""A comparison with training: every answer's mask is trained by one protocol, shown in every table."""

import re

import numpy as np
import pytest

import prunebench
from prunebench.cli import main
from prunebench.comparison import table
from prunebench.comparison.run import resume
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import make_problem
from prunebench.networks.chosen import prunable_network
from prunebench.recovery.training.protocol import parse
from prunebench.recovery.training.starts import trainer

DIGITS = {"hidden": (8,), "epochs": 2}
TOTAL = 64 * 8 + 8 * 10


def test_answers_are_trained_as_the_run_itself_would_train_them(tmp_path):
    frame = prunebench.compare(
        "digits-mlp", ["obd"], problem_options=DIGITS, sizes=[TOTAL], densities=[0.2], blocks=1, seeds=1,
        retrain="epochs=1", cache=False, time_limit=1.0, out=tmp_path / "run",
    )  # fmt: skip
    row = frame[frame["solver"] == "obd"].iloc[0]
    problem = make_problem("digits-mlp", DIGITS)
    network = prunable_network(problem)
    (file,) = (tmp_path / "run" / "blocks").glob("*.npz")
    solution = prunebench.solve(prunebench.BlockProblem.load(file), "obd")
    network.assign(solution.weights)
    training = trainer(problem, network, solution.mask, parse("epochs=1"))
    training.epoch()
    training.finish()
    assert row["retrained_loss"] == pytest.approx(problem.evaluate(network.model)["loss"], rel=1e-12)
    summary = table.summary(frame).set_index("solver")
    assert summary.loc["obd", "retrained"] == row["retrained_accuracy"]


def test_the_command_and_the_page_show_a_column(tmp_path, capsys):
    words = ["compare", "digits-mlp", "--solver", "obd", "--size", "32", "--blocks", "1", "--seeds", "1",
             "--option", "hidden=8", "--option", "epochs=2", "--retrain", "epochs=1", "--time-limit", "1",
             "--no-cache", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(words) == 0
    assert "accuracy after retraining" in capsys.readouterr().out
    assert "accuracy after retraining" in (tmp_path / "run" / "report.html").read_text()


def test_what_cannot_be_trained_is_refused_before_any_work(tmp_path):
    with pytest.raises(InvalidInput, match="no network"):
        prunebench.compare("planted", ["obd"], retrain="", out=tmp_path / "run")
    with pytest.raises(InvalidInput, match="start=step:5 cannot be had"):
        prunebench.compare("mlpnet-mnist", ["obd"], retrain="start=step:5", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def ranked(path, **more):
    return prunebench.compare(
        "digits-mlp", ["obd", "magnitude", "woodfisher"], problem_options=DIGITS, sizes=[TOTAL], densities=[0.2],
        blocks=2, seeds=2, retrain="epochs=4", finalists="halving", cache=False, time_limit=0.5, true_loss=False,
        out=path, **more,
    )  # fmt: skip


def test_finalists_alone_are_trained_in_full(tmp_path):
    frame = ranked(tmp_path / "run")
    for _, block in frame.groupby("block_hash"):
        last = block[block["retrained_epochs"] == 4]
        assert 0 < len(last) < len(block)
        assert last["retrained_accuracy"].notna().all()
        assert block[block["retrained_epochs"] < 4]["retrained_accuracy"].isna().all()
        assert last["retrained_rank"].max() < block[block["retrained_epochs"] < 4]["retrained_rank"].min()
        # equal masks share a rank
        assert (block.groupby("mask")["retrained_rank"].nunique() == 1).all()
    problem = make_problem("digits-mlp", DIGITS)
    network = prunable_network(problem)
    row = frame[frame["retrained_rank"] == 1].iloc[0]
    (block,) = [held for file in (tmp_path / "run" / "blocks").glob("*.npz")
                if (held := prunebench.BlockProblem.load(file)).hash == row["block_hash"]]  # fmt: skip
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["mask"]), dtype=np.uint8))[: block.p].astype(bool)
    network.assign(np.where(bits, block.dense_weights, 0.0))
    training = trainer(problem, network, bits, parse("epochs=4"))
    while not training.done:
        training.epoch()
    training.finish()
    assert row["retrained_loss"] == pytest.approx(problem.evaluate(network.model)["loss"], rel=1e-12)


def test_a_block_of_which_rows_are_missing_is_ranked_again(tmp_path):
    whole = ranked(tmp_path / "run")
    for name in ("result.json", "results.parquet"):
        (tmp_path / "run" / name).unlink()
    events = tmp_path / "run" / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join(lines[:-2]))
    again = resume(tmp_path / "run")
    deterministic = whole["stochastic"] == False  # noqa: E712  # a column of pandas
    assert len(again) == len(whole)
    columns = ["solver", "mask"]
    assert again[deterministic][columns].equals(whole[deterministic][columns])
    assert again["retrained_rank"].notna().all()


@pytest.mark.parametrize(
    ("more", "match"),
    [({"retrain": None}, "ranks answers by training"), ({"retrain": "steps=5"}, "give the protocol epochs")],
)
def test_finalists_that_cannot_be_ranked_are_refused_before_any_work(tmp_path, more, match):
    with pytest.raises(InvalidInput, match=match):
        prunebench.compare("digits-mlp", ["obd"], finalists="halving", out=tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_controls_have_a_table_whose_terms_are_defined(tmp_path):
    words = ["prune", "digits-mlp", "--density", "0.2", "--solver", "magnitude", "--option", "epochs=2",
             "--retrain", "epochs=1", "--control", "reinit", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(words) == 0
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0
    page = re.sub(r"<script.*?</script>", "", (tmp_path / "page.html").read_text(), flags=re.DOTALL)
    table_of_controls = page[page.index(">Controls<") :]
    assert "the same mask, its weights initialised anew" in table_of_controls
    anchors = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= anchors
