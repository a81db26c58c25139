"""Bad models, texts and networks on the command line: one line, no run directory; and what the hub is asked for."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow
import pyarrow.parquet
import pytest
import torch

from prunebench.cli import main
from prunebench.core import registry

pytestmark = pytest.mark.usefixtures("torchvision_imports")

ICBS = ["--coordinator", "icbs", "--steps", "1", "--samples", "8", "--option", "accept_samples=8"]
LAYER_WISE = ["--coordinator", "layer-wise", "--solver", "wanda", "--samples", "8"]


def refused(capsys, tmp_path, *words, how=LAYER_WISE, problem="causal-lm"):
    """The one line with which a pruning run ends before it began."""
    out = tmp_path / "run"
    code = main(["prune", problem, "--density", "0.5", *how, *map(str, words), "--quiet", "--out", str(out)])
    told = capsys.readouterr()
    assert code == 2
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1
    assert not out.exists()
    assert "Error:" not in told.err.removeprefix("prunebench: error:")
    return told.err


def options(folder, **more):
    given = {"model": folder, "text": folder / "text.json", "context": 16} | more
    return [part for key, value in given.items() for part in ("--option", f"{key}={value}")]


@pytest.fixture
def copy(tiny_mistral, tmp_path):
    """A copy of the small model, to be broken."""
    return shutil.copytree(tiny_mistral, tmp_path / "model")


def configured(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weights(folder, change):
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    change(held)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("how", [ICBS, LAYER_WISE])
def test_a_quantised_model(capsys, tmp_path, copy, how):
    configured(copy, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "has quantised weights (gptq)" in refused(capsys, tmp_path, *options(copy), how=how)


@pytest.mark.parametrize("how", [ICBS, LAYER_WISE])
def test_weights_that_share_memory(capsys, tmp_path, copy, how, monkeypatch):
    from prunebench.networks import language_models

    loaded = language_models.load_model

    def tied(*arguments):
        model = loaded(*arguments)
        model.model.layers[1].mlp.up_proj.weight.data = model.model.layers[0].mlp.up_proj.weight.data
        return model

    monkeypatch.setattr(language_models, "load_model", tied)
    text = refused(capsys, tmp_path, *options(copy), how=how)
    shared = "'model.layers.0.mlp.up_proj.weight' has its memory in common with 'model.layers.1.mlp.up_proj.weight'"
    assert shared in text


def test_layers_that_are_not_there(capsys, tmp_path, copy):
    text = refused(capsys, tmp_path, *options(copy), "--option", "problem.layers=q_projj")
    assert "did you mean 'q_proj'?" in text
    assert "choose one of down_proj" in refused(capsys, tmp_path, *options(copy), "--option", "problem.layers=lm_head")


def test_a_text_shorter_than_the_context_and_a_context_too_long(capsys, tmp_path, copy):
    (tmp_path / "short.txt").write_text("w1 w2 w3 w4")
    text = refused(capsys, tmp_path, *options(copy, text=tmp_path / "short.txt"))
    assert "shorter than one context of 16; give a longer text" in text
    assert "made for 64 tokens" in refused(capsys, tmp_path, *options(copy, context=65))


def test_texts_under_another_key(capsys, tmp_path, copy):
    from prunebench.data.texts import documents

    rows = [{"id": number, "body": {"content": f"w1 w2 text {number}"}} for number in range(3)]
    expected = [row["body"]["content"] for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "columns.json").write_text(json.dumps({"id": [0, 1, 2], "said": expected}))
    (tmp_path / "table.csv").write_text("id,said\n" + "".join(f"{n},{text}\n" for n, text in enumerate(expected)))
    pyarrow.parquet.write_table(pyarrow.table({"said": expected}), tmp_path / "table.parquet")
    assert documents(str(tmp_path / "rows.jsonl"), "train", key="body.content") == expected
    for name in ("columns.json", "table.csv", "table.parquet"):
        assert documents(str(tmp_path / name), "train", key="said") == expected
    text = refused(capsys, tmp_path, *options(copy, text=tmp_path / "rows.jsonl"))
    assert "has no 'text' in it, but 'id', 'body'; say which holds the text with --option text_key=NAME" in text
    text = refused(capsys, tmp_path, *options(copy, text=tmp_path / "table.parquet"))
    assert "has no 'text' in it, but 'said'" in text
    given = options(copy, text=tmp_path / "rows.jsonl", text_key="body.content", validation_documents=1)
    text = refused(capsys, tmp_path, *given)
    assert "tokens (2 of its 3 documents: --option validation_documents=1), shorter than one context of 16" in text


def test_a_tokenizer_of_another_model(capsys, tmp_path, copy):
    file = copy / "tokenizer.json"
    held = json.loads(file.read_text())
    held["model"]["vocab"] |= {f"more{number}": 48 + number for number in range(12)}
    file.write_text(json.dumps(held))
    text = copy / "text.json"
    text.write_text(json.dumps(["w1 w2 more11 w3 " * 9] * 120))
    assert "the text holds token 59 ('more11') and model" in refused(capsys, tmp_path, *options(copy))
    file.unlink()
    assert "has no tokenizer that can be read" in refused(capsys, tmp_path, *options(copy))


def test_a_configuration_that_is_not_the_weights(capsys, tmp_path, copy):
    configured(copy, vocab_size=60)
    text = refused(capsys, tmp_path, *options(copy))
    assert "lm_head.weight is (48, 32) in the file and (60, 32) by the configuration" in text


def test_a_checkpoint_that_lacks_a_weight_is_not_filled_up_with_random_numbers(capsys, tmp_path, copy):
    weights(copy, lambda held: held.pop("model.layers.1.mlp.up_proj.weight"))
    text = refused(capsys, tmp_path, *options(copy))
    assert "lacks 1 weights that its config.json asks for, the first is model.layers.1.mlp.up_proj.weight" in text


@pytest.mark.parametrize("how", [ICBS, LAYER_WISE])
def test_weights_that_are_not_numbers(capsys, tmp_path, copy, how):
    weights(copy, lambda held: held["model.layers.0.mlp.up_proj.weight"][0, :2].fill_(float("nan")))
    text = refused(capsys, tmp_path, *options(copy), how=how)
    assert "layer 'model.layers.0.mlp.up_proj.weight' holds 2 weights that are NaN" in text


def test_a_file_that_is_cut_off(capsys, tmp_path, copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    assert "cannot be loaded as a causal language model" in refused(capsys, tmp_path, *options(copy))


def test_a_folder_that_does_not_exist(capsys, tmp_path, copy):
    text = refused(capsys, tmp_path, *options(copy, model=tmp_path / "nothing"))
    assert "is no folder that exists, and no name on the hub" in text


@pytest.mark.parametrize(("package", "problem"), [("transformers", "causal-lm"), ("timm", "deit-imagenet")])
def test_an_extra_that_is_not_installed(capsys, tmp_path, monkeypatch, package, problem):
    installed = registry._installed
    monkeypatch.setattr(registry, "_installed", lambda name: name != package and installed(name))
    text = refused(capsys, tmp_path, problem=problem)
    assert f"needs {package}, which is not installed; run: pip install 'prunebench[{package}]'" in text


@pytest.mark.parametrize(("package", "words"), [("lm_eval", ["tasks=boolq"]), ("accelerate", ["device=auto"])])
def test_a_package_that_an_option_needs(capsys, tmp_path, copy, monkeypatch, package, words):
    installed = registry._installed
    monkeypatch.setattr(registry, "_installed", lambda name: name != package and installed(name))
    more = [part for word in words for part in ("--option", word)]
    text = refused(capsys, tmp_path, *options(copy), *more)
    assert package in text
    assert "run" in text


@pytest.mark.parametrize(("offline", "words"), [("0", "the hub cannot be reached"), ("1", "HF_HUB_OFFLINE forbids")])
@pytest.mark.parametrize("what", ["nobody/nothing", "c4", "wikitext"])
def test_no_network(capsys, tmp_path, copy, monkeypatch, offline, words, what):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    given = options(copy, model=what) if "/" in what else options(copy, text=what)
    assert words in refused(capsys, tmp_path, *given)


# What the hub is asked for

FILES = {
    ("c4", "train"): ("allenai/c4", "en/c4-train.00000-of-01024.json.gz"),
    ("c4", "validation"): ("allenai/c4", "en/c4-validation.00000-of-00008.json.gz"),
    ("wikitext", "train"): ("Salesforce/wikitext", "wikitext-2-raw-v1/train-00000-of-00001.parquet"),
    ("wikitext", "test"): ("Salesforce/wikitext", "wikitext-2-raw-v1/test-00000-of-00001.parquet"),
}
"""The files of the public repositories, as they are named there."""

READ = (
    "import json, sys; from prunebench.data.texts import documents; "
    "print(json.dumps(documents(sys.argv[1], sys.argv[2])))"
)


def content(text, part, folder):
    """A file as the repository has it, and the documents in it."""
    if text == "c4":
        rows = [{"text": f"{part} document {number}", "timestamp": "t", "url": "u"} for number in range(3)]
        return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()), [row["text"] for row in rows]
    import pyarrow
    import pyarrow.parquet

    lines = ["", f" = {part} = \n", " a line \n"]
    pyarrow.parquet.write_table(pyarrow.table({"text": lines}), folder / "made.parquet")
    return (folder / "made.parquet").read_bytes(), ["".join(lines)]


def read(text, part, **environment):
    """documents(text, part) in a process of its own, whose settings of the hub are its own."""
    held = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-c", READ, text, part], env=held | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("text", "part"), list(FILES))
def test_a_filled_cache_is_read_without_a_network(tmp_path, text, part):
    repository, name = FILES[text, part]
    data, expected = content(text, part, tmp_path)
    folder = tmp_path / "home" / "hub" / f"datasets--{repository.replace('/', '--')}"
    file = folder / "snapshots" / "a1" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a1")
    assert read(text, part, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1") == expected


class Hub(ThreadingHTTPServer):
    """A hub on this machine with one file; it notes what it is asked for."""

    def __init__(self, path, data):
        self.path, self.data, self.asked = path, data, []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        self.server.asked.append((self.command, self.path))
        found = self.path == self.server.path
        self.send_response(200 if found else 404)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        self.send_header("Content-Length", str(len(self.server.data) if found else 0))
        self.end_headers()
        if body and found:
            self.wfile.write(self.server.data)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("text", "part"), list(FILES))
def test_the_hub_is_asked_for_exactly_the_file_once(tmp_path, text, part):
    repository, name = FILES[text, part]
    data, expected = content(text, part, tmp_path)
    with Hub(f"/datasets/{repository}/resolve/main/{name}", data) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        where = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
        settings = where | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        assert read(text, part, **settings) == expected
        asked = list(hub.asked)
        assert {path for _, path in asked} == {hub.path}
        assert [command for command, _ in asked].count("GET") == 1
        assert read(text, part, **settings) == expected
        assert hub.asked == asked
        hub.shutdown()


def test_weights_in_the_file_are_those_of_the_model(copy):
    from prunebench import make_problem
    from prunebench.networks.checkpoints import read_state

    model = make_problem("causal-lm", {"model": str(copy)}).model()
    held = read_state(copy / "model.safetensors")
    assert all(torch.equal(dict(model.named_parameters())[name], tensor) for name, tensor in held.items())


def test_a_model_that_sees_the_tokens_that_follow(capsys, tmp_path, copy):
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=48, max_position_embeddings=64, **sizes)
    BertLMHeadModel(config).save_pretrained(copy)
    capsys.readouterr()
    text = refused(capsys, tmp_path, *options(copy))
    assert "sees the tokens that follow, so it has no perplexity" in text
