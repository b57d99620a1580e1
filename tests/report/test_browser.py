"""The pages in a browser: nothing fetched, nothing wrong, everything there, on a screen and on a phone."""

import shutil

import pytest

from infoprune import pipeline
from infoprune.board.summary import lines, rank_correlation, ranks, stages_of, views_of
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.plan import Budget
from infoprune.report import comparison_page, kept_run, page
from infoprune.report.board_page import board_page

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("plotly")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(runs, rounds_run, wide_run, digits_board, tmp_path_factory):
    """Files of pages, by name."""
    folder = tmp_path_factory.mktemp("pages")
    written = {
        "cmi": page(runs["cmi"], [runs["l1"], runs["hrel"]]),
        "qsfm": page(runs["qsfm"]),
        "hrel": page(runs["hrel"]),
        "wide": page(wide_run),
        "rounds": page(rounds_run),
        "compare": comparison_page(list(runs.values())),
        "board": board_page(digits_board, "digits"),
    }
    for name, html in written.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in written}


@pytest.fixture(scope="module")
def loaded(browser, pages):
    """Load a page once by name, theme and address, and note what goes wrong on any of them."""
    found, wrong = {}, []

    def load(name, theme, address):
        if (name, theme, address) not in found:
            shown = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=theme).new_page()
            shown.set_default_timeout(180_000)
            shown.on("console", lambda said: wrong.append(f"{said.type}: {said.text}"))
            shown.on("pageerror", lambda error: wrong.append(str(error)))
            shown.on("request", lambda asked: wrong.append(asked.url[:99]) if asked.url.startswith("http") else None)
            shown.goto(pages[name].as_uri() + address)
            found[name, theme, address] = shown
        return found[name, theme, address]

    return load, wrong


@pytest.fixture
def opened(loaded):
    """Open a page as it is at first; in the test nothing may be fetched or go wrong."""
    load, wrong = loaded
    wrong.clear()

    def open_page(name, width=1280, theme="light", address=""):
        shown = load(name, theme, address)
        shown.set_viewport_size({"width": width, "height": 900})
        shown.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = false; })")
        if shown.locator("#layer").count() and not address:
            shown.locator("#layer").select_option("0")
        return shown

    yield open_page
    assert wrong == []


def points(shown):
    return shown.evaluate("document.getElementById('figure').data.map(trace => (trace.x || trace.z).length)")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["cmi", "qsfm", "hrel", "wide", "rounds", "compare"])
def test_every_page_fits_its_screen(opened, name, width):
    shown = opened(name, width)
    shown.wait_for_selector("#figure .main-svg")
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    # The figure follows the new width a moment later.
    shown.wait_for_function("document.querySelector('#figure .main-svg').clientWidth <= window.innerWidth")
    box = shown.locator("#figure").bounding_box()
    assert 300 <= box["width"] <= width
    assert box["height"] >= 300


def test_the_summary_is_what_the_run_measured(opened, runs):
    shown = opened("cmi")
    cards = shown.locator(".card").all_inner_texts()
    pruned = runs["cmi"].record["pruned"]
    assert len(cards) == 6
    assert f"{pruned['accuracy']:.2f} %" in cards[0]
    assert f"{pruned['latency_ms']:.2f} ms" in cards[5]
    assert shown.locator("#against tbody tr").count() == 3


def test_a_layer_is_chosen_by_table_list_button_and_address(opened, runs):
    layers = list(runs["cmi"].plan.decisions.values())
    shown = opened("cmi")

    def chosen():
        return shown.locator("#layer option:checked").inner_text().split(" ")[0], sum(points(shown)[1:])

    assert chosen() == (layers[0].layer, layers[0].filters)
    shown.get_by_role("link", name=layers[2].layer).click()
    shown.wait_for_function("document.getElementById('layer').value === '2'")
    assert chosen() == (layers[2].layer, layers[2].filters)
    shown.locator("#layer").select_option("1")
    assert chosen() == (layers[1].layer, layers[1].filters)
    shown.get_by_role("button", name="Next layer").click()
    shown.get_by_role("button", name="Next layer").click()
    assert chosen() == (layers[3].layer, layers[3].filters)
    assert shown.get_by_role("button", name="Next layer").is_disabled()
    assert layers[3].reason in shown.locator("#reason").inner_text()
    assert shown.locator("tr[aria-current]").count() == 1
    again = opened("cmi", address=f"#layer={layers[3].layer}")
    assert again.locator("#layer option:checked").inner_text().startswith(layers[3].layer)


def test_the_curve_shows_the_cut(opened, runs):
    decision = next(iter(runs["cmi"].plan.decisions.values()))
    shown = opened("cmi")
    figure = "document.getElementById('figure')"
    assert shown.evaluate(f"{figure}.layout.shapes[0].x0") == len(decision.kept) + 0.5
    assert f"cut: {len(decision.kept)} kept" in shown.locator("#figure .annotation-text").first.text_content()
    assert shown.evaluate(f"{figure}.data[0].y") == pytest.approx(decision.curve, rel=1e-5, abs=1e-9)


def test_candidates_are_drawn_where_the_layer_could_have_been_cut(opened, rounds_run):
    decision = next(iter(rounds_run.plan.decisions.values()))
    shown = opened("rounds")
    drawn = shown.evaluate("document.getElementById('figure').data.find(trace => trace.name === 'candidates')")
    assert drawn["x"] == [3, 5, 8]
    assert drawn["y"] == pytest.approx([decision.curve[place - 1] for place in (3, 5, 8)], rel=1e-5, abs=1e-9)
    assert [" % on held-out" in text for text in drawn["text"]] == [True, False, True]
    assert "% of the labels' entropy" in shown.locator("#figure-note").inner_text()


def test_the_information_plane_shows_every_layer(opened):
    shown = opened("rounds")
    paths = "document.getElementById('plane').data"
    assert shown.evaluate(f"{paths}.map(path => path.name)") == ["features.0", "features.4"]
    assert shown.evaluate(f"{paths}[0].x") == pytest.approx([4.0, 4.1, 4.2, 4.3, 4.4] * 2)
    assert shown.evaluate(f"{paths}[0].marker.size") == [7] * 5 + [13] + [7] * 4
    shown.locator("#plane-view").select_option("width")
    assert shown.evaluate(f"{paths}[1].y") == [1.5] * 10
    assert shown.locator("#rounds tbody tr").count() == 2
    assert "undone" in shown.locator("#rounds tbody tr").nth(1).inner_text()
    assert opened("cmi").locator("#plane, #rounds").count() == 0


def test_the_matrix_is_ordered_with_removed_filters_behind_the_lines(opened, runs):
    name, decision = next(iter(runs["qsfm"].plan.decisions.items()))
    alike = runs["qsfm"].evidence[name]["similarity"].double()
    order = [f for f in decision.order if f in decision.kept] + [f for f in decision.order if f not in decision.kept]
    shown = opened("qsfm")
    found = shown.evaluate("document.getElementById('figure').data[0].z")
    expected = alike[order][:, order]
    step = float(expected.max() - expected.min()) / 255
    for row, right in zip(found, expected.tolist(), strict=True):
        assert row == pytest.approx(right, abs=step)
    assert shown.evaluate("document.getElementById('figure').layout.shapes[0].x0") == len(decision.kept) - 0.5


def test_on_a_phone_no_figure_hides_behind_scrolling(opened):
    for name in ("cmi", "rounds", "compare"):
        shown = opened(name, width=390)
        widths = shown.evaluate(
            "[...document.querySelectorAll('.rows')].map((one) => [one.scrollWidth, one.parentElement.clientWidth])"
        )
        assert widths
        assert all(table <= room for table, room in widths)
        cells = shown.evaluate(
            "[...document.querySelectorAll('.rows td')].map((one) => one.getBoundingClientRect().right)"
        )
        assert max(cells) <= 390


def test_maps_stand_beside_the_images_they_are_of(opened):
    shown = opened("cmi")
    pairs = shown.locator("#pairs .pair")
    assert pairs.count() > 0
    for pair in pairs.all():
        assert pair.locator(".source img").count() == pair.locator(".tile.gone span").count()


def test_bars_are_the_relevance(opened, runs):
    decision = next(iter(runs["hrel"].plan.decisions.values()))
    shown = opened("hrel")
    bars = shown.evaluate("document.getElementById('figure').data.map(trace => trace.y)")
    assert sorted(bars[0]) == pytest.approx(sorted(decision.scores[i] for i in decision.kept), rel=1e-5)
    assert sorted(bars[1]) == pytest.approx(sorted(decision.scores[i] for i in decision.removed), rel=1e-5)


def test_feature_maps_are_drawn_on_demand(opened, runs):
    decision = next(iter(runs["cmi"].plan.decisions.values()))
    shown = opened("cmi")
    assert 0 < shown.locator("#pairs .pair").count() <= 6
    assert not shown.locator("#kept").is_visible()
    shown.locator("#filters summary").click()
    shown.wait_for_selector("#kept .tile")
    assert shown.locator("#kept .tile").count() == len(decision.kept)
    assert shown.locator("#removed .tile.gone").count() == len(decision.removed)
    assert shown.locator("#kept .tile").first.locator("span").count() == 3
    # The pictures themselves are there: no tile is an empty image.
    assert shown.evaluate("""async () => {
        const image = new Image();
        image.src = document.querySelector("#kept span").style.backgroundImage.slice(5, -2);
        await image.decode();
        return image.naturalWidth;
    }""") > 8  # fmt: skip


def test_the_theme_follows_the_system_and_can_be_switched(opened):
    def background(page):
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    light, dark = opened("cmi"), opened("cmi", theme="dark")
    assert background(light) != background(dark)
    light.get_by_role("button", name="Dark theme").click()
    assert background(light) == background(dark)
    assert light.get_by_role("button", name="Light theme").is_visible()
    ink = "document.getElementById('figure').layout.font.color"
    assert light.evaluate(ink) == dark.evaluate(ink)
    light.reload()
    assert background(light) == background(dark)
    light.get_by_role("button", name="Light theme").click()


def test_the_keyboard_reaches_everything(opened):
    shown = opened("cmi")
    reached = set()
    for _ in range(40):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"theme", "layer", "next", "features.0", "features.10", "Settings"} <= reached
    shown.locator("#layer").focus()
    shown.keyboard.press("ArrowDown")
    shown.wait_for_function("document.getElementById('layer').value === '1'")


def test_four_thousand_filters_stay_fluid(opened):
    shown = opened("wide")
    shown.locator("#filters summary").click()
    session = shown.context.new_cdp_session(shown)
    session.send("Performance.enable")

    def processor_seconds():
        return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}["ProcessTime"]

    # Seconds of the processor, not of the clock: the machine may be busy with something else.
    start = processor_seconds()
    shown.locator("#layer").select_option("12")
    shown.wait_for_function("document.querySelectorAll('#kept .tile').length === 256")
    shown.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert processor_seconds() - start < 2
    assert shown.locator("#removed .tile").count() == 256


@pytest.fixture(scope="module")
def resnet_page(data_dir, weights_dir, tmp_path_factory):
    """The page of the published ResNet-56, cut on real images."""
    network = NetworkOptions("resnet56", weights_dir / "akamaster_resnet56-4bfd9763.th")
    images = DataOptions("cifar10", data_dir, batch_size=64, calibration=64)
    model = run_network.open_network(network, "cpu")
    batches = run_images.batches(run_images.open_parts(images).calibration, model, images)
    result = pipeline.prune(model, batches, criterion="qsfm", budget=Budget(macs=0.6), repair=None)
    file = tmp_path_factory.mktemp("resnet") / "report.html"
    file.write_text(page(kept_run(model, result, result.record(), batches)), encoding="utf-8")
    return file


def test_a_real_resnet56(resnet_page, browser):
    assert resnet_page.stat().st_size < 10_000_000
    wrong = []
    shown = browser.new_page()
    shown.set_default_timeout(180_000)
    shown.on("console", lambda said: wrong.append(said.text))
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("request", lambda asked: wrong.append(asked.url[:99]) if asked.url.startswith("http") else None)
    shown.goto(resnet_page.as_uri() + "#layer=layer2.0.conv2")
    assert shown.locator("h1").inner_text() == "resnet56 pruned by qsfm"
    assert shown.locator("#layers tbody tr").count() == 30
    assert "Coupled with layer2.1.conv2" in shown.locator("#reason").inner_text()
    shown.locator("#filters summary").click()
    shown.wait_for_selector("#kept .tile")
    assert shown.locator(".tiles .tile").count() == 32
    shown.close()
    assert wrong == []


def test_a_comparison_can_be_by_any_cost(opened, runs):
    shown = opened("compare")
    figure = "document.getElementById('figure').data[1].x.slice().sort()"
    for cost in ("macs", "parameters", "latency_ms"):
        shown.locator("#cost").select_option(cost)
        expected = [run.record["pruned"][cost] for run in runs.values()]
        assert sorted(shown.evaluate(figure)) == pytest.approx(sorted(expected))
    assert shown.locator("#runs tbody tr").count() == len(runs)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_board_fits_its_screen(opened, width, theme):
    shown = opened("board", width, theme)
    for figure in ("ranks", "correlation"):
        shown.wait_for_selector(f"#{figure} .main-svg")
        shown.wait_for_function(f"document.querySelector('#{figure} .main-svg').clientWidth <= window.innerWidth")
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    # On a phone the head of a table lies wholly outside the screen: it must not cover the rows.
    right = shown.evaluate("document.querySelector('#board .rows thead th:last-child').getBoundingClientRect().right")
    assert right < 0 if width == 390 else right > 0


def test_the_board_shows_the_budget_and_stage_that_are_chosen(opened, digits_board):
    shown = opened("board")
    tables = shown.locator("[data-view]")
    assert [tables.nth(i).is_visible() for i in range(tables.count())] == [True, False]
    shown.locator("#board-view").select_option("1")
    assert [tables.nth(i).is_visible() for i in range(tables.count())] == [False, True]
    view = views_of(digits_board)[1]
    for number, stage in enumerate(stages_of(digits_board)):
        shown.locator("#board-stage").select_option(str(number))
        drawn = shown.evaluate("document.getElementById('ranks').data[0]")
        expected = {name: sum(found) / len(found) for name, found in ranks(digits_board, view, stage).items()}
        assert dict(zip(drawn["y"], drawn["x"], strict=True)) == pytest.approx(expected)
        assert drawn["x"] == sorted(drawn["x"], reverse=True)
    shown.locator("#board-view").select_option("0")


def test_the_board_shows_every_row_and_how_far_criteria_agree(opened, digits_board):
    shown = opened("board")
    rows = shown.locator("[data-view='0'] tbody tr").all_inner_texts()
    found = lines(digits_board, views_of(digits_board)[0])
    assert [row.split()[0] for row in rows] == [line.criterion for line in found]
    assert all(line.accuracy["bn"].text() in row for line, row in zip(found, rows, strict=True) if line.accuracy)
    names, matrix = rank_correlation(digits_board.scored)
    drawn = shown.evaluate("document.getElementById('correlation').data[0]")
    assert drawn["x"] == names
    for row, right in zip(drawn["z"], matrix.tolist(), strict=True):
        assert row == pytest.approx(right, abs=1e-3)
    assert "needs labels" in shown.locator("#failures").inner_text()
