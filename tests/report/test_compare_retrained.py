"""A comparison with training: every answer's mask is trained by one protocol, shown in every table."""

import re

import pytest

import prunebench
from prunebench.cli import main
from prunebench.comparison import table
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
