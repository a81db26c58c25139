"""The report from real runs: the page in a real browser, the figures for print, the command line."""

import itertools
import json
import re
import shutil

import pytest

import prunebench
from browser import Browser
from prunebench import plot
from prunebench.cli import main
from prunebench.comparison.request import CompareRequest
from prunebench.core.errors import Interrupted, InvalidInput
from prunebench.log.run_directory import RunDirectory
from prunebench.report import exports, write_report
from prunebench.report.contents import draw
from prunebench.report.gather import gather
from prunebench.report.reproduce import command
from prunebench.runs.prune import PruneRequest, prune

FUNCTIONS = (
    "quality_against_time", "performance_profile", "time_to_solution", "gap_against_size", "success_probability",
    "feasibility", "model_against_true", "steps_against_true", "accuracy_against_time", "loss_against_time",
    "accuracy_against_density", "density_per_layer", "ranking",
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
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


LOOK = """(() => {
  const root = document.documentElement;
  const all = (what, where) => Array.from((where || document).querySelectorAll(what));
  const inside = (item) => item.getBoundingClientRect().right <= root.clientWidth + 1;
  const seen = (item) => item.getClientRects().length > 0;
  const touching = (texts) => {
    const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([one, a], i) => boxes.slice(i + 1)
      .filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
      .map(([two]) => `${one} / ${two}`));
  };
  // a text that leaves its own picture is cut or lies on something else
  const leaving = (svg) => {
    const frame = svg.getBoundingClientRect();
    return all("text", svg).filter((text) => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    }).map((text) => text.textContent);
  };
  const plots = all(".plot");
  const ink = (item) => getComputedStyle(item).color;
  return {
    ...root.dataset,
    series: Object.fromEntries(plots.map((plot) => [plot.id, JSON.parse(plot.dataset.series || "[]")])),
    heights: plots.map((plot) => plot.getBoundingClientRect().height),
    marks: Object.fromEntries(plots.map((plot) => [plot.id, Number(plot.dataset.marks)])),
    outside: [...plots, ...all(".key")].filter((item) => seen(item) && !inside(item)).length,
    rows: Object.fromEntries(all("table").map((table) => [table.id, table.tBodies[0].rows.length])),
    overlaps: plots.flatMap((plot) => touching(all("text:not(.turned)", plot)).map((pair) => `${plot.id}: ${pair}`)),
    left: plots.flatMap((plot) => leaving(plot.querySelector("svg")).map((text) => `${plot.id}: ${text}`)),
    headings: touching(all("h1, h2, h3, .subtle, figcaption, .plot, .legend").filter(seen)),
    masks: all(".mask img").filter((image) => image.naturalWidth > 0).length,
    paper: getComputedStyle(document.body).backgroundColor,
    swap: ink(all(".s").find((item) => item.getAttribute("style").includes("#0072B2"))),
    buttons: all(".take button").filter(seen).length,
  };
})()"""
"""What the page is like once it is drawn."""

WAYS = [(360, False, False), (900, True, False), (1920, False, False), (720, False, True)]
"""Three widths, one of them on a dark desktop, and the page as it is printed."""


@pytest.mark.parametrize(("width", "dark", "printed"), WAYS)
def test_a_browser_draws_every_series_without_errors_overlaps_or_overflow(browser, folder, page, width, dark, printed):
    browser.open(page.as_uri(), width, dark=dark, printed=printed)
    seen = browser.run(LOOK)
    assert json.loads(seen["errors"]) == []
    assert browser.errors == []
    assert seen["requests"] == "0"
    assert seen["width"] == str(width)
    assert seen["overflow"] == "0" or printed
    assert seen["outside"] == 0
    expected = {
        figure.id: [series.name for series in figure.series]
        for kind in draw(gather([folder]))
        for figure in kind.figures
    }
    assert len(expected) == 18
    assert seen["series"] == expected
    assert seen["drawn"] == str(len(expected))
    assert min(seen["heights"]) >= 150
    assert min(seen["marks"].values()) > 0
    assert seen["rows"]["answers-0"] > 20
    assert seen["masks"] == 6
    assert seen["overlaps"] == []
    assert seen["left"] == []
    assert seen["headings"] == []
    assert seen["theme"] == ("dark" if dark else "light")
    assert seen["paper"] == ("rgb(21, 23, 28)" if dark else "rgb(255, 255, 255)")
    assert seen["swap"] == ("rgb(77, 168, 232)" if dark else "rgb(0, 114, 178)")
    assert (seen["buttons"] == 0) == printed


def test_what_can_be_clicked_does_what_it_says(browser, folder, page):
    browser.open(page.as_uri(), 1200)
    hidden = "document.querySelectorAll('#quality-0-0 g.off').length"
    assert browser.run(hidden) == 0
    browser.run("document.querySelector('.key[data-plot=\"quality-0-0\"]').click()")
    assert browser.run(hidden) == 1
    browser.run("document.getElementById('theme').click()")
    assert browser.run("document.documentElement.dataset.theme") == "dark"
    heading = "Array.from(document.querySelectorAll('#runs th button')).find((b) => b.textContent === 'density')"
    place = browser.run(f"{heading}.closest('th').cellIndex")
    column = f"Array.from(document.querySelectorAll('#runs tbody tr')).map((tr) => tr.cells[{place}].textContent)"
    browser.run(f"{heading}.click()")
    assert browser.run(column) == ["0.1", "0.1", "0.3"]
    browser.run(f"{heading}.click()")
    assert browser.run(column) == ["0.3", "0.1", "0.1"]
    point = browser.run(
        "(() => { const box = document.querySelector('#gap-0-0 .mark').getBoundingClientRect();"
        "const event = new PointerEvent('pointermove', {clientX: box.x + 3, clientY: box.y + 3});"
        "document.querySelector('#gap-0-0 svg').dispatchEvent(event);"
        "return document.querySelector('#gap-0-0 .tip').textContent; })()"
    )
    assert point.startswith("random")
    assert "p = 8, gap" in point
    assert browser.errors == []


def test_the_pages_tables_are_taken_as_the_command_writes_them(browser, folder, page):
    browser.open(page.as_uri(), 1200)
    for table in exports.every_table(gather([folder])):
        taken = f"window.tableTexts.{{}}(document.getElementById({table.id!r}))"
        assert browser.run(taken.format("csv")) == exports.csv_text(table)
        assert browser.run(taken.format("latex")) == exports.latex_text(table)


def test_it_is_printed_on_pages_that_do_not_tear_figures(browser, page):
    browser.open(page.as_uri(), 1400)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 5
    assert browser.errors == []
    browser.open(page.as_uri(), 720, printed=True)
    rule = "getComputedStyle(document.querySelector('figure')).breakInside"
    assert browser.run(rule) == "avoid"
    # a page of A4 between its margins
    tallest = browser.run("Math.max(...Array.from(document.querySelectorAll('figure'), (f) => f.offsetHeight))")
    assert tallest < 1016


def test_the_browser_test_would_notice_a_script_error_a_request_and_an_overlap(browser, page, tmp_path):
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8")
    wrong = '<script>throw new Error("planted")</script><img src="http://localhost:9/x.png">'
    broken.write_text(text.replace("<main>", f"<main>{wrong}"), encoding="utf-8")
    browser.open(broken.as_uri(), 800)
    errors = " ".join(json.loads(browser.run("document.documentElement.dataset.errors")))
    assert "planted" in errors
    assert "blocked: http://localhost:9" in errors
    assert any("planted" in error for error in browser.errors)
    browser.run(
        "document.querySelectorAll('.plot text').forEach((t) => { t.setAttribute('x', 40); t.setAttribute('y', 40); })"
    )
    assert len(browser.run(LOOK)["overlaps"]) > 10


def test_the_page_is_one_file_that_loads_nothing(page):
    text = page.read_text(encoding="utf-8")
    shell = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", shell)
    assert not re.search(r"<(script|link|iframe)[^>]*\s(src|href)=", text)
    assert not re.search(r'<img[^>]*\ssrc="(?!data:image/png)', text)
    assert text.count("default-src 'none'") == 1
    assert '<meta name="viewport" content="width=device-width' in text
    assert sorted(p.name for p in page.parent.iterdir()) == sorted(
        ["compare", "prune-magnitude-0.1", "prune-magnitude-0.3", "prune-swap", "report.html"]
    )


def test_the_page_has_every_section_and_its_links_lead_somewhere(page):
    text = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Verdict", "Ranking",
        "Quality against time", "Accuracy against time", "Loss against time", "Accuracy against density",
        "Gap against block size", "Performance profile", "Predicted against true change, step by step",
        "Predicted against true change of the answers", "Density of each layer", "Success probability",
        "Time to solution", "Feasibility before repair", "Masks", "Table of results", "What was skipped and why",
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
    assert text.count("To fill it") == 10
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
    assert "icbs · swap · blocks of 64 (unfinished)" in text


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
        [
            "report", str(folder), "-o", str(tmp_path / "r.html"), "--figures", str(tmp_path / "figures"),
            "--tables", str(tmp_path / "tables"), "--json",
        ]
    )  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert told["report"] == str(tmp_path / "r.html")
    assert (told["comparisons"], told["runs"], told["unreadable"]) == (1, 3, [])
    assert 100_000 < (tmp_path / "r.html").stat().st_size < 2_000_000
    names = {file.name for file in (tmp_path / "tables").iterdir()}
    assert {"verdict-0.csv", "verdict-0.tex", "summary-0.csv", "answers-0.tex", "runs.csv", "skipped.csv"} <= names
    assert sorted(told["tables"]) == sorted(str(file) for file in (tmp_path / "tables").iterdir())
    assert sorted(told["figures"]) == sorted(str(file) for file in (tmp_path / "figures").iterdir())
    assert len(told["figures"]) == 18


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
