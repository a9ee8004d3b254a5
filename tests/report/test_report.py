"""The page: its bytes, and what a real browser makes of them."""

# ruff: noqa: E501  (JavaScript in strings)

import html
import json
import math
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import matformer_lab.report.page as page_module
from matformer_lab.common.errors import InputError
from matformer_lab.report.layer_picture import describe_layers, layer_picture
from matformer_lab.report.page import render
from matformer_lab.report.page_rows import short_number
from matformer_lab.report.write import write_report
from matformer_lab.results.files import MARKER
from matformer_lab.results.read import read_sweep
from matformer_lab.results.sweep_results import SweepResults
from matformer_lab.statistics.ranking import rank
from matformer_lab.statistics.sample_size import items_needed
from tests.support.chromium import Page, browser, needs_chromium, open_page
from tests.support.synthetic import LAYERS, SLICES, Made, write_results, write_sweep

VENDOR = Path(page_module.__file__).parent / "assets" / "vendor"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sweep(tmp_path_factory.mktemp("sweeps") / "full", scale=0.05)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> SweepResults:
    return read_sweep(folder)


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text()


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


# --- the file ---


def test_the_folder_gets_page_and_pictures(folder: Path, text: str) -> None:
    assert {"report.html", "frontier.png", "frontier.svg"} <= {
        path.name for path in folder.iterdir()
    }
    # Nothing half-written is left: the one hidden file is the mark by which a sweep knows its folder.
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} <= {MARKER}
    assert len(text) < 1_200_000


def test_the_same_sweep_gives_the_same_page(folder: Path, text: str) -> None:
    assert render(read_sweep(folder)) == text


def test_nothing_in_the_page_points_outside(text: str) -> None:
    own = text
    for script in VENDOR.glob("*.js"):
        own = own.replace(script.read_text(), "")
    for found in re.findall(r"""(?:src|href|action|poster|data)\s*=\s*["']([^"']*)""", own):
        assert found.startswith(("#", "data:,")), found
    assert not re.search(r"@import|url\((?!#)", own)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and html.unescape(policy[1]).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy[1] and "http" not in policy[1]


def test_vendored_files_are_the_published_ones() -> None:
    table = (VENDOR / "README.md").read_text()
    for script in VENDOR.glob("*.js"):
        assert sha256(script.read_bytes()).hexdigest() in table
        assert "</script" not in script.read_text().lower()
        assert (VENDOR / f"{script.name.split('.')[0]}.LICENSE").exists()


def test_the_data_block_is_what_was_measured(
    text: str, folder: Path, finished: SweepResults
) -> None:
    data = data_of(text)
    results = pd.read_csv(folder / "results.csv")
    for panel in data["panels"][:-1]:
        name = {"HellaSwag": "hellaswag", "BoolQ": "boolq", "MMLU": "mmlu"}[panel["short"]]
        rows = results[results["task"] == name].set_index("slice")["value"]
        for at, value in zip(panel["slices"], panel["value"], strict=True):
            assert value == pytest.approx(rows[data["slices"][at]["name"]], abs=1e-12)
    for panel, found in zip(finished.panels, data["panels"], strict=True):
        for measure in ("effective", "total"):
            sizes = {m.name: getattr(m, measure) for m in finished.scored}
            assert tuple(found["rank"][measure]["verdict"]) == rank(panel, sizes).verdicts


def test_layer_pictures_say_width_skip_and_attention(finished: SweepResults) -> None:
    parent = finished.parent
    for one in finished.scored:
        paths = dict(re.findall(r'class="([^"]+)" d="([^"]+)"', layer_picture(parent, one)))
        kept = one.slice.kept(LAYERS)
        drawn = {}
        for kind in ("ffn", "ffn full"):
            for x, height in re.findall(r"M([\d.]+) [\d.]+h8v([\d.]+)", paths.get(kind, "")):
                layer = int(float(x) // 10)
                drawn[layer] = float(height)
                assert (parent.layer_types[layer] == "full_attention") == (kind == "ffn full")
        assert drawn == {
            layer: pytest.approx(46 * width / 16384, abs=0.01)
            for layer, width in zip(kept, one.slice.widths, strict=True)
        }
        holes = {int(float(x) // 10) for x in re.findall(r"M([\d.]+) ", paths.get("hole", ""))}
        assert holes == set(one.slice.skipped)
        marks = paths["mark"].count("M") + paths.get("mark gone", "").count("M")
        assert marks == parent.layer_types.count("full_attention")
        said = describe_layers(parent, one)
        assert ("skipped" in said) == bool(one.slice.skipped)


def test_comparison_as_a_table_answers_how_many_items(finished: SweepResults) -> None:
    table = finished.comparison("e3.79b-layer", "e3.59b-layer").set_index("task")
    assert list(table.index) == ["hellaswag", "boolq", "mmlu", "average"]
    for panel in finished.panels:
        row, found = table.loc[panel.name], panel.compare("e3.79b-layer", "e3.59b-layer")
        assert row["difference"] == pytest.approx(100 * found.difference)
        assert row["low"] < row["difference"] < row["high"]
        assert row["separable"] == found.separable
        assert row["items"] == panel.n
        assert pd.isna(row["items_needed"]) == (found.difference == 0)
    p_holm = table["p_holm"].to_dict()
    assert pd.isna(p_holm["average"]) and 0 <= p_holm["mmlu"] <= 1
    with pytest.raises(InputError, match=r"no slice 'nobody'; it has e2b, "):
        finished.comparison("e2b", "nobody")


def test_numbers_are_short() -> None:
    cases = {
        1_905_495_648: "1.91 B",
        3_980_491_248: "3.98 B",
        476_373: "476 K",
        999_700: "1.00 M",
        12: "12",
    }
    assert {value: short_number(value) for value in cases} == cases


def test_commands_and_provenance_recreate_the_run(folder: Path, text: str) -> None:
    page = html.unescape(text)
    assert (
        "pip install matformer-lab==0.1.0 torch==2.13.0 transformers==5.23.0 lm-eval==0.4.13"
        in page
    )
    assert "matformer-lab sweep recipe.yaml --out full" in page
    assert (folder / "recipe.yaml").read_text() in page
    assert "5f" * 32 in page


def test_notes_name_what_limits_the_numbers(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, scale=0.01, parent="tiny", shrink=4000)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"limit": 20}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = pd.read_parquet(folder / "results.parquet")
    gone = (results["slice"] == "e2b") & (results["task"] == "boolq")
    write_results(folder, results[~gone])
    (folder / "samples" / "e2b" / "boolq.parquet").unlink()
    page = render(read_sweep(folder))
    assert "Scored with limit 20" in page
    assert "boolq is not scored yet for e2b" in page
    average = data_of(page)["panels"][-1]
    assert len(average["slices"]) == len(SLICES) - 1


WICKED = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


def test_wicked_names_stay_text(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path, slices=(Made(WICKED, (1,)), *SLICES[:2]), scale=0.005, parent=WICKED
    )
    page = render(read_sweep(folder))
    assert "<img src=x" not in page and "<script>alert" not in page and "49" + "}}" not in page
    assert data_of(page)["slices"][0]["name"] == WICKED or WICKED in {
        one["name"] for one in data_of(page)["slices"]
    }
    assert page.count("</script") == 4  # the data block, d3, plot, ours


def _remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def _rename(folder: Path, old: str, new: str) -> None:
    results = pd.read_parquet(folder / "results.parquet")
    results["slice"] = results["slice"].replace(old, new)
    results.to_parquet(folder / "results.parquet")


def _drop_item(folder: Path) -> None:
    path = folder / "samples" / "e2b" / "boolq.parquet"
    pd.read_parquet(path).iloc[:-1].to_parquet(path)


@pytest.mark.parametrize(
    ("damage", "arguments", "wanted"),
    [
        (_remove, ("slices.json",), "slices.json: not found"),
        (_write, ("slices.json", "{"), "slices.json: not valid JSON"),
        (_write, ("slices.json", '{"parent": {}}'), "slices.json: key 'parent.ref' is missing"),
        (_write, ("recipe.yaml", "- x"), "recipe.yaml: must hold a mapping"),
        (_write, ("recipe.yaml", "tasks: [{}]"), "recipe.yaml: "),
        (_write, ("recipe.yaml", "tasks: [nothing]"), "no scores of the recipe's tasks"),
        (_write, ("results.parquet", "x"), "results.parquet: cannot be read"),
        (_remove, ("results.parquet",), "results.parquet: not found"),
        (_rename, ("e2b", "stranger"), "does not describe stranger"),
        (_drop_item, (), "scored on different items"),
    ],
)
def test_a_folder_that_does_not_hold_together_is_refused(
    tmp_path: Path, damage: Callable[..., None], arguments: tuple[str, ...], wanted: str
) -> None:
    folder = write_sweep(tmp_path / "sweep", slices=SLICES[:3], scale=0.005)
    damage(folder, *arguments)
    with pytest.raises(InputError) as caught:
        write_report(folder)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "report.html").exists() and not (folder / "frontier.png").exists()


# --- in a browser ---


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as driver:
        yield driver


@pytest.fixture
def desktop(chromium: Any, folder: Path) -> Page:
    return open_page(chromium, folder / "report.html")


@needs_chromium
def test_it_opens_without_an_error_or_a_request(desktop: Page) -> None:
    assert desktop.js("return document.readyState") == "complete"
    assert desktop.console() == []
    assert desktop.requests() == []
    assert desktop.files() == []


@needs_chromium
def test_the_numbers_on_the_page_are_those_of_results_csv(desktop: Page, folder: Path) -> None:
    results = pd.read_csv(folder / "results.csv")
    heads = desktop.texts("#table thead th")
    rows = desktop.js(
        "return [...document.querySelectorAll('#table tbody tr')].map((r) =>"
        " [...r.cells].map((c) => [c.dataset.value, c.firstChild ? c.firstChild.textContent.trim() : '']))"
    )
    assert len(rows) == len(SLICES)
    for row in rows:
        cells = dict(zip(heads, row, strict=True))
        mine = results[(results["slice"] == cells["Slice"][0]) & results["primary"]].set_index(
            "task"
        )
        for title, task in (("HellaSwag", "hellaswag"), ("BoolQ", "boolq"), ("MMLU", "mmlu")):
            value, shown = cells[title]
            assert float(value) == pytest.approx(mine.loc[task, "value"], abs=1e-12)
            assert shown == f"{100 * mine.loc[task, 'value']:.1f}"
        assert float(cells["Average"][0]) == pytest.approx(mine["value"].mean(), abs=1e-12)
        assert int(cells["Effective"][0]) == mine["effective_params"].iloc[0]
        assert int(cells["Total"][0]) == mine["total_params"].iloc[0]


@needs_chromium
def test_changing_the_task_changes_chart_summary_and_verdicts(
    desktop: Page, finished: SweepResults
) -> None:
    for k, panel in enumerate(finished.panels):
        desktop.js("document.querySelectorAll('#tasks input')[arguments[0]].click()", k)
        ranking = rank(panel, finished.effective)
        assert desktop.texts("#chart-title") == [finished.title(panel.name)]
        summary = desktop.texts("#summary")[0]
        assert summary.startswith(f"{ranking.verdicts.count('on the frontier')} on the frontier")
        assert f"n = {panel.n:,}" in summary
        verdicts = desktop.js(
            "return Object.fromEntries([...document.querySelectorAll('#table tbody tr')].map((r) =>"
            " [r.cells[0].dataset.value, r.querySelector('.verdict').dataset.value]))"
        )
        assert verdicts == dict(zip(panel.slices, ranking.verdicts, strict=True))
        points = desktop.js("return document.querySelectorAll('#chart .hit').length")
        assert points == len(panel.slices)
        diamonds = desktop.js("return document.querySelectorAll('#chart .published path').length")
        assert diamonds == len(finished.published.get(panel.name, {}))


@needs_chromium
def test_points_stand_where_their_numbers_say(desktop: Page, finished: SweepResults) -> None:
    desktop.js("document.querySelectorAll('#tasks input')[2].click()")
    found = desktop.js(
        "return [...document.querySelectorAll('#chart .hit')].map((h) =>"
        " [Number(h.dataset.slice), Number(h.getAttribute('cx')), Number(h.getAttribute('cy'))])"
    )
    panel = finished.panels[2]
    xs = [finished.scored[k].effective for k, _, _ in found]
    ys = [panel.values[panel.index(finished.scored[k].name)] for k, _, _ in found]
    for values, pixels, sign in (
        (xs, [x for _, x, _ in found], 1),
        (ys, [y for _, _, y in found], -1),
    ):
        a, b = values.index(min(values)), values.index(max(values))
        slope = (pixels[b] - pixels[a]) / (values[b] - values[a])
        assert math.copysign(1, slope) == sign
        for value, pixel in zip(values, pixels, strict=True):
            assert pixel == pytest.approx(pixels[a] + slope * (value - values[a]), abs=0.6)


@needs_chromium
@pytest.mark.parametrize(("width", "least"), [(1280, 12), (390, 5)])
def test_labels_in_the_chart_do_not_collide(
    chromium: Any, folder: Path, width: int, least: int
) -> None:
    page = open_page(chromium, folder / "report.html", width=width)
    for k in range(4):
        page.js("document.querySelectorAll('#tasks input')[arguments[0]].click()", k)
        boxes = page.js(
            "return [...document.querySelectorAll('#chart text.label')].map((t) => {"
            " const b = t.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom, t.textContent]})"
        )
        assert len(boxes) >= least
        assert {"e4b", "e2b"} <= {box[4] for box in boxes}
        for a, b in combinations(boxes, 2):
            across = min(a[2], b[2]) - max(a[0], b[0])
            down = min(a[3], b[3]) - max(a[1], b[1])
            assert min(across, down) < 0.6, (a, b)


@needs_chromium
def test_sizes_can_be_total_or_bytes_at_a_dtype(desktop: Page, finished: SweepResults) -> None:
    choose = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change'))"
    )
    label = "return [...document.querySelectorAll('#chart svg text, svg#chart text')].map((t) => t.textContent)"
    spoken = "return document.querySelector('#chart .hit').getAttribute('aria-label')"
    desktop.js(choose, "size", "total")
    assert "total parameters (B)" in desktop.js(label)
    smallest = min(one.total for one in finished.scored)
    assert f"{smallest / 1e9:.2f} B" in desktop.js(spoken)
    desktop.js(choose, "size", "bytes")
    for bits, name in ((32, "fp32"), (4, "int4")):
        desktop.js(choose, "dtype", str(bits))
        assert any(f"bytes in {name} (GB)" in text for text in desktop.js(label))
        assert f"{smallest * bits / 8 / 1e9:.3g} GB" in desktop.js(spoken).replace(".0 GB", ".0 GB")
    desktop.js(choose, "size", "effective")
    assert desktop.js("return document.getElementById('dtype-label').hidden")


@needs_chromium
def test_every_column_sorts_both_ways(desktop: Page) -> None:
    heads = desktop.texts("#table thead th")
    for column, head in enumerate(heads):
        orders = []
        for _ in range(2):
            desktop.js(
                "document.querySelectorAll('#table thead button')[arguments[0]].click()", column
            )
            state = desktop.js(
                "return [document.querySelectorAll('#table thead th')[arguments[0]].getAttribute('aria-sort'),"
                " document.querySelectorAll('#table [aria-sort=ascending], #table [aria-sort=descending]').length,"
                " [...document.querySelectorAll('#table tbody tr')].map((r) => r.cells[arguments[0]].dataset.value)]",
                column,
            )
            assert state[1] == 1
            values = state[2]
            numeric = head not in ("Slice", "Verdict")
            if numeric:
                numbers = [float(value) for value in values if value]
                assert numbers == sorted(numbers, reverse=state[0] == "descending")
                assert not any(values[len(numbers) :])  # cells without a number come last
            orders.append(state[0])
        assert set(orders) == {"ascending", "descending"}
    names = desktop.js(
        "return [...document.querySelectorAll('#table tbody th')].map((c) => c.dataset.value)"
    )
    assert sorted(names) == sorted(made.name for made in SLICES)


@needs_chromium
def test_hover_tells_sizes_scores_and_interval(desktop: Page, finished: SweepResults) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    desktop.js("document.querySelectorAll('#tasks input')[2].click(); scrollTo(0, 0)")
    hits = desktop.driver.find_elements(By.CSS_SELECTOR, "#chart .hit")
    hit = hits[3]
    ActionChains(desktop.driver).move_to_element(hit).perform()
    one = finished.scored[int(hit.get_attribute("data-slice"))]
    panel = finished.panels[2]
    k = panel.index(one.name)
    tip = desktop.texts("#tip")[0]
    assert not desktop.js("return document.getElementById('tip').hidden")
    assert one.name in tip and f"{one.effective / 1e9:.2f} B effective" in tip
    assert f"{100 * panel.values[k]:.1f} %" in tip
    assert f"[{100 * panel.intervals[k, 0]:.1f}, {100 * panel.intervals[k, 1]:.1f}]" in tip
    published = one.published_score("mmlu")
    assert published is not None
    assert f"published {100 * published:.1f}" in tip
    box = desktop.js(
        "const b = document.getElementById('tip').getBoundingClientRect(); return [b.left, b.right]"
    )
    assert box[0] >= 0 and box[1] <= 1280
    assert desktop.console() == []


@needs_chromium
def test_the_keyboard_is_enough(chromium: Any, folder: Path, finished: SweepResults) -> None:
    from selenium.webdriver.common.keys import Keys

    page = open_page(chromium, folder / "report.html")
    active = page.driver.switch_to

    def press(key: str) -> None:
        active.active_element.send_keys(key)

    def focused() -> str:
        return str(
            page.js(
                "const a = document.activeElement; return a.id || a.getAttribute('class') || a.tagName"
            )
        )

    seen = []
    for _ in range(12):
        press(Keys.TAB)
        seen.append(focused())
    assert seen[0] == "skip" and "size" in seen and any("hit" in name for name in seen)
    # task by arrow keys
    page.js("document.querySelector('#tasks input:checked').focus()")
    press(Keys.ARROW_LEFT)
    assert page.texts("#chart-title") == [finished.title("mmlu")]
    # points by arrow keys, in order of size
    page.js("document.querySelector('#chart .hit').focus()")
    visited = []
    for _ in SLICES:
        visited.append(int(active.active_element.get_attribute("data-slice")))
        assert not page.js("return document.getElementById('tip').hidden")
        press(Keys.ARROW_RIGHT)
    sizes = [finished.scored[k].effective for k in visited]
    assert sorted(visited) == list(range(len(SLICES))) and sizes == sorted(sizes)
    press(Keys.HOME)
    press(Keys.ENTER)
    assert int(page.js("return document.getElementById('left').value")) == visited[0]
    press(Keys.ESCAPE)
    assert page.js("return document.getElementById('tip').hidden")
    # sorting
    page.js("document.querySelectorAll('#table thead button')[0].focus()")
    press(Keys.ENTER)
    assert (
        page.js("return document.querySelector('#table thead th').getAttribute('aria-sort')")
        == "ascending"
    )
    assert page.console() == []


@needs_chromium
def test_comparison_agrees_with_python(desktop: Page, finished: SweepResults) -> None:
    choose = (
        "for (const [id, v] of [['left', arguments[0]], ['right', arguments[1]]]) {"
        " document.getElementById(id).value = v; }"
        "document.getElementById('left').dispatchEvent(new Event('change'));"
        "return [...document.querySelectorAll('#pairs tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    for a, b in ((0, 15), (9, 8), (3, 4), (14, 13)):
        rows = desktop.js(choose, a, b)
        one, two = finished.scored[a].name, finished.scored[b].name
        for row, panel in zip(rows, finished.panels, strict=True):
            found = panel.compare(one, two)
            shown = [
                float(x.replace("−", "-")) for x in re.findall(r"[+−]\d+\.\d+", " ".join(row[1:3]))
            ]
            expected = [100 * found.difference, 100 * found.low, 100 * found.high]
            assert shown == pytest.approx(expected, abs=0.006)
            assert ("not separable" in row[2]) == (not found.separable)
            if found.wins is not None:
                assert row[3] == f"{found.wins:,} : {found.losses:,}"
            plan = items_needed(panel, one, two)
            if found.separable:
                assert row[6] == "enough"
            elif plan.need is None:
                assert row[6].startswith("none; could show")
            else:
                assert int(row[6].replace(",", "")) == pytest.approx(plan.need, rel=1e-3)


@needs_chromium
def test_a_wicked_sweep_runs_no_script_and_shows_its_names(chromium: Any, tmp_path: Path) -> None:
    slices = (Made(WICKED, (1,)), *SLICES[:4])
    folder = write_sweep(tmp_path, slices=slices, scale=0.005, parent=WICKED)
    page_path = write_report(folder)
    page = open_page(chromium, page_path)
    assert WICKED in page.js(
        "return [...document.querySelectorAll('#table tbody th')].map((c) => c.dataset.value)"
    )
    assert page.texts("h1") == [WICKED]
    page.js("document.querySelectorAll('#chart .hit')[0].focus()")
    assert page.js("return document.querySelectorAll('img').length") == 0
    assert page.console() == [] and page.requests() == []


@needs_chromium
def test_the_policy_stops_a_script_that_is_not_ours(
    chromium: Any, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.html"
    text = (folder / "report.html").read_text()
    broken.write_text(
        text.replace(
            "<main>",
            "<main><script>window.pwned = 1</script><img src='https://example.invalid/x.png'>",
            1,
        )
    )
    page = open_page(chromium, broken)
    assert page.js("return window.pwned") is None
    said = " ".join(page.console())
    assert "script-src" in said and "img-src" in said
    assert page.js("return document.querySelector('main img').naturalWidth") == 0


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_sticks_out_on_a_small_screen(chromium: Any, folder: Path, width: int) -> None:
    page = open_page(chromium, folder / "report.html", width=width, height=800)
    assert page.js("return document.documentElement.scrollWidth") <= width
    smallest = page.js(
        "return Math.min(...[...document.querySelectorAll('main p, main td, main th, main button, main select, header p')]"
        ".filter((e) => e.offsetParent && e.textContent.trim()).map((e) => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12
    assert page.console() == []


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = (c) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > 200) return c; } return [255, 255, 255]; };
const out = [];
for (const e of document.querySelectorAll('p, td, th, li, h1, h2, h3, span, button, select, label, summary, pre, strong, #chart text')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.closest('[hidden], .hidden, .skip, .thumb')) continue;
  const svg = e.tagName === 'text' || e.tagName === 'tspan';
  const style = getComputedStyle(e);
  const [a, b] = [light(rgb(svg ? style.fill : style.color)), light(behind(e))].sort((x, y) => y - x);
  out.push([(a + .05) / (b + .05), e.tagName, e.className.baseVal ?? e.className, e.textContent.slice(0, 30)]);
}
return out.sort((x, y) => x[0] - y[0]).slice(0, 5);
"""


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_text_has_the_contrast_that_wcag_aa_asks_for(
    chromium: Any, folder: Path, dark: bool
) -> None:
    page = open_page(chromium, folder / "report.html", dark=dark)
    background = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (background != "rgb(255, 255, 255)") == dark
    for ratio, *element in page.js(CONTRAST):
        assert ratio >= 4.5, (ratio, element)


@needs_chromium
def test_print_is_light_without_controls_and_whole(
    chromium: Any, folder: Path, tmp_path: Path
) -> None:
    page = open_page(chromium, folder / "report.html", dark=True)
    page.media(media="print", prefers_color_scheme="dark")
    assert page.js("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.js("return getComputedStyle(document.querySelector('.controls')).display") == "none"
    page.js("window.dispatchEvent(new Event('beforeprint'))")
    assert page.js("return [...document.querySelectorAll('details')].every((d) => d.open)")
    drawn_for = "return document.querySelector('#chart svg').viewBox.baseVal.width"
    assert page.js(drawn_for) < 700  # paper is narrower than this window
    page.pdf(tmp_path / "page.pdf")
    page.js("window.dispatchEvent(new Event('afterprint'))")
    assert page.js(drawn_for) > 1000
    assert (tmp_path / "page.pdf").stat().st_size > 30_000


@needs_chromium
def test_without_scripts_scores_and_pictures_are_still_there(
    chromium: Any, folder: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.html"
    bare.write_text(
        re.sub(r"<script>.*?</script>", "", (folder / "report.html").read_text(), flags=re.S)
    )
    page = open_page(chromium, bare)
    assert len(page.texts("#table tbody tr")) == len(SLICES)
    assert len(page.texts("#layers figure")) == len(SLICES)
    box = page.js(
        "const b = document.querySelector('#layers figure svg').getBBox(); return [b.width, b.height]"
    )
    assert box[0] > 300 and box[1] > 40
