"""The report from real runs: the page in a real browser, the figures for print, the command line."""

import html as html_tools
import itertools
import json
import os
import re
import shutil
import subprocess

import pytest

import prunebench
from prunebench import plot
from prunebench.cli import main
from prunebench.comparison.request import CompareRequest
from prunebench.core.errors import Interrupted, InvalidInput
from prunebench.log.run_directory import RunDirectory
from prunebench.report import write_report
from prunebench.report.contents import draw
from prunebench.report.gather import gather
from prunebench.report.reproduce import command
from prunebench.runs.prune import PruneRequest, prune

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
REQUIRE_BROWSER = "PRUNEBENCH_REQUIRE_BROWSER"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=30000",
    "--allow-file-access-from-files",
)  # fmt: skip
FUNCTIONS = (
    "quality_against_time", "performance_profile", "time_to_solution", "gap_against_size", "success_probability",
    "feasibility", "model_against_true", "steps_against_true", "accuracy_against_time", "loss_against_time",
    "accuracy_against_density", "density_per_layer",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison and pruning runs of the network that needs no download, every figure's data among them."""
    path = tmp_path_factory.mktemp("material")
    prunebench.compare(
        "digits-mlp", ["neal:reads=20", "exhaustive", "branch-and-bound", "qaoa-subspace"], out=path / "compare",
        sizes=(8, 40), blocks=2, seeds=2, time_limit=0.2, select="row", cache=False,
    )  # fmt: skip
    for density in (0.1, 0.3):
        request = PruneRequest(problem="digits-mlp", density=density, solver="magnitude", validate_every=1)
        prune(request, out=path / f"prune-magnitude-{density}")
    request = PruneRequest(
        problem="digits-mlp", density=0.1, solver="swap", coordinator="icbs", validate_every=2,
        coordinator_options={"steps": 6, "block_size": 64, "evaluate": True},
    )  # fmt: skip
    prune(request, out=path / "prune-swap")
    return path


@pytest.fixture(scope="module")
def page(folder):
    return write_report([folder], folder / "report.html")


@pytest.fixture(scope="module")
def browser():
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        reason = f"no browser is installed (looked for {', '.join(BROWSERS)})"
        if os.environ.get(REQUIRE_BROWSER) == "1":
            pytest.fail(f"{REQUIRE_BROWSER} is 1 but {reason}", pytrace=False)
        pytest.skip(reason)
    return found


def look(browser, page, scratch, width):
    """The page's document as the browser has it after drawing, in a frame of that width."""
    frame = scratch / "frame.html"
    frame.write_text(
        f"""<!doctype html>
<iframe id="frame" src="{page.as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>
<script>
const timer = setInterval(() => {{
  const inner = document.getElementById("frame").contentDocument.documentElement;
  if (inner.dataset.requests === undefined) return;
  clearInterval(timer);
  const plots = Array.from(inner.querySelectorAll(".plot"));
  const keys = Array.from(inner.querySelectorAll(".key"));
  const inside = (item) => item.getBoundingClientRect().right <= inner.clientWidth + 1;
  const seen = {{
    ...inner.dataset,
    series: Object.fromEntries(plots.map((plot) => [plot.id, JSON.parse(plot.dataset.series || "[]")])),
    heights: plots.map((plot) => plot.getBoundingClientRect().height),
    marks: Object.fromEntries(plots.map((plot) => [plot.id, Number(plot.dataset.marks)])),
    outside: [...plots, ...keys].filter((item) => !inside(item)).length,
    rows: Object.fromEntries(Array.from(inner.querySelectorAll("table")).map((t) => [t.id, t.tBodies[0].rows.length])),
  }};
  const first = plots[0], key = keys[0];
  const name = () => first.data.filter((trace) => trace.visible === false).map((trace) => trace.meta.series);
  seen.hiddenBefore = name();
  key.click();
  seen.hiddenAfter = name();
  const heading = Array.from(inner.querySelectorAll("#runs th button")).find((b) => b.textContent === "density");
  const column = () => Array.from(inner.querySelectorAll("#runs tbody tr")).map((tr) => tr.cells[3].textContent);
  heading.click(); seen.rising = column();
  heading.click(); seen.falling = column();
  document.documentElement.dataset.seen = JSON.stringify(seen);
}}, 50);
</script>""",
        encoding="utf-8",
    )
    profile = scratch / f"profile-{width}"
    ran = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={profile}", "--window-size=2000,1000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    found = re.search(r'data-seen="([^"]*)"', ran.stdout)
    assert found, f"the page was not drawn: {ran.stdout[:2000]}"
    return json.loads(html_tools.unescape(found.group(1)))


@pytest.mark.parametrize("width", [360, 1920])
def test_a_browser_draws_every_series_without_errors_network_or_overflow(browser, folder, page, tmp_path, width):
    seen = look(browser, page, tmp_path, width)
    assert json.loads(seen["errors"]) == []
    assert seen["requests"] == "0"
    assert seen["width"] == str(width)
    assert seen["overflow"] == "0"
    assert seen["outside"] == 0
    expected = {
        figure.id: [series.name for series in figure.series]
        for kind in draw(gather([folder]))
        for figure in kind.figures
    }
    assert len(expected) == 16
    assert seen["series"] == expected
    assert seen["drawn"] == str(len(expected))
    assert min(seen["heights"]) >= 300
    assert min(seen["marks"].values()) > 0
    assert seen["rows"]["answers-0"] > 20
    assert seen["hiddenAfter"] != seen["hiddenBefore"]
    assert seen["rising"] == sorted(seen["rising"])
    assert seen["falling"] == sorted(seen["falling"], reverse=True)


def test_the_browser_test_would_notice_a_script_error_and_a_request(browser, page, tmp_path):
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8")
    wrong = '<script>throw new Error("planted")</script><img src="http://localhost:9/x.png">'
    broken.write_text(text.replace("<main>", f"<main>{wrong}"), encoding="utf-8")
    errors = " ".join(json.loads(look(browser, broken, tmp_path, 800)["errors"]))
    assert "planted" in errors
    assert "blocked: http://localhost:9" in errors


def test_the_page_is_one_file_that_loads_nothing(page):
    text = page.read_text(encoding="utf-8")
    shell = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", shell)
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=", text)
    assert text.count("default-src 'none'") == 1
    assert '<meta name="viewport" content="width=device-width' in text
    assert sorted(p.name for p in page.parent.iterdir()) == sorted(
        ["compare", "prune-magnitude-0.1", "prune-magnitude-0.3", "prune-swap", "report.html"]
    )


def test_the_page_has_every_section_and_its_links_lead_somewhere(page):
    text = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Quality against time", "Accuracy against time", "Loss against time", "Accuracy against density",
        "Gap against block size", "Performance profile", "Predicted against true change, step by step",
        "Predicted against true change of the answers", "Density of each layer", "Success probability",
        "Time to solution", "Feasibility before repair", "Table of results", "What was skipped and why",
        "What was not pruned, and what no sample reached", "How to reproduce", "Glossary",
    ]  # fmt: skip
    anchors = set(re.findall(r'id="([^"]+)"', text))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= anchors
    assert "To fill it" not in text
    assert "exhaustive" in text[text.index("What was skipped and why</h2>") :].split("<h2>")[0]
    said = re.sub(r"<[^>]*>", "", text)
    assert "prunebench prune digits-mlp --density=0.1 --solver=swap --coordinator=icbs" in said


def test_names_from_the_data_cannot_become_markup(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder / "prune-magnitude-0.1", copy)
    held = json.loads((copy / "run.json").read_text())
    held["request"]["problem"] = "</script><script>alert(1)</script>"
    (copy / "run.json").write_text(json.dumps(held))
    text = write_report([copy], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_a_page_of_one_run_says_what_would_fill_the_other_figures(folder, tmp_path):
    text = write_report([folder / "prune-magnitude-0.1"], tmp_path / "r.html").read_text(encoding="utf-8")
    text = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert text.count("To fill it") == 9
    assert "prunebench compare digits-mlp" in text


def test_an_unreadable_table_is_named_and_the_rest_is_reported(folder, tmp_path):
    for name in ("compare", "prune-swap"):
        shutil.copytree(folder / name, tmp_path / "all" / name)
    (tmp_path / "all" / "compare" / "results.parquet").write_bytes(b"not a table")
    material = gather([tmp_path / "all"])
    assert len(material.runs) == 1
    assert material.comparisons == ()
    assert "results.parquet cannot be read" in material.unreadable[0][1]
    text = write_report([tmp_path / "all"], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "could not be read" in text


def test_runs_that_are_still_going_are_reported_from_their_events(folder, tmp_path):
    for name in ("compare", "prune-swap"):
        copy = tmp_path / name
        shutil.copytree(folder / name, copy)
        for file in ("result.json", "results.parquet", "mask.safetensors"):
            (copy / file).unlink(missing_ok=True)
        lines = (copy / "events.jsonl").read_text().splitlines(keepends=True)
        (copy / "events.jsonl").write_text("".join(lines[: len(lines) // 2]) + lines[-1][:20])
    material = gather([tmp_path])
    assert [source.finished for source in (material.comparisons[0].source, material.runs[0].source)] == [False, False]
    assert len(material.runs[0].events) == 3
    text = write_report([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count("is not finished") == 2
    assert "icbs · swap (unfinished)" in text


@pytest.mark.parametrize(
    "request_of",
    [
        PruneRequest(
            problem="digits-mlp", density=0.07, solver="anneal", coordinator="icbs", seed=3, seconds=2.5,
            solver_options={"sweeps": "50"}, coordinator_options={"steps": "7", "block_size": "32", "accept": "model"},
            problem_options={"hidden": "16,8"}, block_seconds=0.5, validate_every=2, executor="local:2", mode="select",
        ),
        PruneRequest(
            problem="digits-mlp", density=0.1, solver="iht", scope="layer", curvature={"samples": 300, "ridge": 0.5}
        ),
    ],
)  # fmt: skip
def test_the_printed_prune_command_asks_for_the_same(request_of, monkeypatch):
    asked = []

    def note(request, **_more):
        asked.append(request)
        raise Interrupted("noted")

    monkeypatch.setattr("prunebench.commands.prune.prune", note)
    words = command(json.loads(json.dumps(request_of.as_json()))).split()
    assert words[0] == "prunebench"
    main([*words[1:], "--quiet"])
    assert asked == [request_of]


def test_the_printed_compare_command_asks_for_the_same(folder, monkeypatch):
    asked = []

    def note(problem, solvers, **wanted):
        wanted.pop("out")
        wanted.pop("say")
        asked.append(CompareRequest(problem=problem, solvers=tuple(solvers), **wanted))
        raise Interrupted("noted")

    monkeypatch.setattr("prunebench.commands.compare.compare", note)
    run = RunDirectory.open(folder / "compare")
    main([*command({**run.request, "cache": True}).split()[1:], "--quiet"])
    original = CompareRequest.from_json({**run.request, "cache": True}, "x")
    assert asked == [original]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_every_figure_is_drawn_for_print_with_its_series_in_the_legend(folder, tmp_path, name, ending):
    drawing = getattr(plot, name)(folder)
    file = plot.save(drawing, tmp_path / f"{name}.{ending}")
    held = file.read_bytes()
    assert held.startswith(b"%PDF" if ending == "pdf" else b"<?xml")
    legend = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert len(legend) == len(set(legend)) > 0
    if ending == "svg":
        # Text stays text, so that a paper's fonts and search find it.
        assert all(label.replace("&", "&amp;") in held.decode() for label in legend)
        again = plot.save(getattr(plot, name)(folder), tmp_path / "again.svg")
        assert again.read_bytes() == held


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_text_of_a_printed_figure_is_cropped_or_lies_on_another(folder, name):
    drawing = getattr(plot, name)(folder)
    drawing.canvas.draw()
    legend = drawing.legends[0].get_window_extent()
    frame = drawing.bbox
    assert frame.x0 - 1 <= legend.x0
    assert legend.x1 <= frame.x1 + 1
    assert legend.y0 >= frame.y0 - 1
    for axes in drawing.axes:
        if not axes.axison:
            continue
        box = axes.get_tightbbox()
        assert frame.x0 - 1 <= box.x0
        assert box.x1 <= frame.x1 + 1
        assert box.y1 <= frame.y1 + 1
        assert not box.overlaps(legend)
        boxes = sorted((t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()), key=lambda b: b.x0)
        boxes = [b for b in boxes if axes.bbox.x0 - 1 <= (b.x0 + b.x1) / 2 <= axes.bbox.x1 + 1]
        assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))


def test_a_table_is_drawn_into_axes_of_ones_own(folder):
    from matplotlib.figure import Figure

    frame = prunebench.comparison.table.read(folder / "compare")
    axes = Figure().subplots()
    plot.gap_against_size(frame, axes)
    assert len(axes.lines) > 3
    assert axes.get_legend() is not None
    with pytest.raises(InvalidInput, match="fill 2 panels"):
        plot.quality_against_time(frame, axes)
    plot.quality_against_time(frame[frame["p"] == 8], Figure().subplots())
    with pytest.raises(InvalidInput, match="to fill it: prunebench prune"):
        plot.accuracy_against_time(frame)


def test_a_wrong_file_for_a_figure_is_refused(folder, tmp_path):
    drawing = plot.gap_against_size(folder)
    with pytest.raises(InvalidInput, match="does not exist"):
        plot.save(drawing, tmp_path / "nowhere" / "x.svg")
    with pytest.raises(InvalidInput, match=r"use \.svg, \.pdf or \.png"):
        plot.save(drawing, tmp_path / "x.docx")


def test_the_command_writes_the_page_and_the_figures(folder, tmp_path, capsys):
    code = main(
        ["report", str(folder), "-o", str(tmp_path / "r.html"), "--figures", str(tmp_path / "figures"), "--json"]
    )
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert told["report"] == str(tmp_path / "r.html")
    assert (told["comparisons"], told["runs"], told["unreadable"]) == (1, 3, [])
    assert (tmp_path / "r.html").stat().st_size > 1_000_000
    assert sorted(told["figures"]) == sorted(str(file) for file in (tmp_path / "figures").iterdir())
    assert len(told["figures"]) == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["NOWHERE"], "no such directory"),
        (["EMPTY"], "nothing to report"),
        (["GOOD", "-o", "NOWHERE/r.html"], "does not exist"),
        (["GOOD", "-o", "EMPTY"], "is a folder"),
        (["GOOD", "--format", "docx"], "invalid choice"),
    ],
)
def test_a_wrong_request_is_refused_with_one_line(folder, tmp_path, capsys, words, said):
    (tmp_path / "empty").mkdir()
    places = {"NOWHERE": tmp_path / "nowhere", "EMPTY": tmp_path / "empty", "GOOD": folder / "prune-magnitude-0.1"}
    for key, path in places.items():
        words = [word.replace(key, str(path)) for word in words]
    code = main(["report", *words])
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert said in err
