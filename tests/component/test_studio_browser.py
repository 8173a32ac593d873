"""The studio in headless Chromium, with a model server: every flow, by mouse and by keyboard only."""

import re
import shutil

import pytest

from components.image_example_gen import corrections
from pipeline.studio.options import StudioOptions

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

PATHS = ("", "/runs/1", "/compare?first=1&second=2", "/try", "/data", "/images", "/images/1", "/map", "/correct")


@pytest.fixture(scope="module")
def root(recorded_colors, tiny_model):
    """Two recorded runs, and two versions of the untrained model."""
    root = recorded_colors()
    for version in ("100", "200"):
        shutil.copytree(tiny_model.serving_dir, root / "colors/serving/colors" / version)
    return root


@pytest.fixture(scope="module")
def server(root, running_server):

    from serving.local_server.model_config import ModelConfig, VersionPolicy
    from serving.local_server.server_options import ServerOptions

    model = ModelConfig("colors", str(root / "colors/serving/colors"), VersionPolicy(None))
    with running_server(options=ServerOptions(models=(model,))) as server:
        yield server


@pytest.fixture(scope="module")
def studio(studio_browser, root, server):
    """Address of the studio."""
    with studio_browser.serve(StudioOptions(root=root, grpc=f"127.0.0.1:{server.grpc_port}")) as address:
        yield address


@pytest.fixture
def page(open_page, studio):
    return open_page(studio)


# === Accessibility ===


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_accessibility_problem(page, scheme, studio_browser):
    page.emulate_media(color_scheme=scheme)
    for path in ("/", *(f"/p/colors{path}" for path in PATHS)):
        page.goto(path)
        page.wait_for_load_state("networkidle")
        studio_browser.assert_accessible(page)


@pytest.mark.parametrize("path", PATHS)
def test_phones_need_no_sideways_scrolling(page, path):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"/p/colors{path}")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


# === Runs ===


def test_runs_are_compared_by_keyboard(page, studio_browser):
    page.goto("/p/colors")
    studio_browser.tab_to(page, page.get_by_role("button", name="Compare"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Run 1 and run 2")
    expect(page.get_by_role("cell", name="worse").first).to_be_visible()


def test_progress_appears_without_a_reload(page, root):
    import fcntl

    page.goto("/p/colors")
    expect(page.locator("#progress .pill")).to_have_text("refused by Evaluator")
    with (root / "colors/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        expect(page.locator("#progress .pill")).to_have_text("running")
        assert page.locator("#progress .pending").count() > 5
    expect(page.locator("#progress .pill")).to_have_text("refused by Evaluator")


def test_a_rollback_is_confirmed_by_keyboard_and_can_be_restored(open_page, recorded_colors, studio_browser):
    root = recorded_colors()
    base = root / "colors/serving/colors"
    for version in ("100", "200"):
        (base / version).mkdir(parents=True)
        (base / version / "saved_model.pb").touch()
    with studio_browser.serve(StudioOptions(root=root)) as address:
        page = open_page(address)
        page.goto("/p/colors")
        studio_browser.tab_to(page, page.get_by_role("link", name="Roll back to 100"))
        page.keyboard.press("Enter")
        studio_browser.tab_to(page, page.get_by_role("button", name="Roll back"))
        page.keyboard.press("Enter")
        page.wait_for_url("**/p/colors#versions")
        assert sorted(path.name for path in base.iterdir()) == ["100", "withdrawn-200"]
        page.get_by_role("link", name="Restore 200").click()
        page.get_by_role("button", name="Restore").click()
        page.wait_for_url("**/p/colors#versions")
        assert sorted(path.name for path in base.iterdir()) == ["100", "200"]


# === Try ===


@pytest.fixture
def image(tmp_path, tiny_model):
    path = tmp_path / "image.png"
    path.write_bytes(tiny_model.image_bytes[1])
    return path


def wait_for_results(page):
    expect(page.locator("#columns .column").first).to_be_visible()
    expect(page.locator("#columns .summary").first).not_to_be_empty()


def test_two_versions_are_shown_side_by_side(page, image):
    page.goto("/p/colors/try")
    page.locator("#version-b").select_option("100")
    page.locator("#file").set_input_files(image)
    expect(page.locator("#columns h2")).to_have_text(["Version 200", "Version 100"])


def test_code_of_the_request_is_copied(page, image):
    page.goto("/p/colors/try")
    page.locator("#file").set_input_files(image)
    wait_for_results(page)
    page.get_by_role("button", name="Copy the code for Python").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "GrpcClient(" in copied and "'colors'" in copied
    assert "curl -s" in page.locator("#snippets").inner_text()
    assert "tfx-vision predict image.png" in page.locator("#snippets").inner_text()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_are_dropped_and_pasted(page, image, way):
    page.goto("/p/colors/try")
    page.evaluate(
        """([bytes, way]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
          const event = way === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
          document.body.dispatchEvent(event);
        }""",
        [list(image.read_bytes()), way],
    )
    wait_for_results(page)


def test_a_photograph_is_taken_by_keyboard(page, studio_browser):
    page.goto("/p/colors/try")
    studio_browser.tab_to(page, page.locator("#camera"))
    page.keyboard.press("Enter")
    expect(page.locator("#shoot")).to_be_focused()
    studio_browser.wait_until(page, "document.getElementById('video').videoWidth > 0")
    page.keyboard.press("Enter")
    wait_for_results(page)


def test_what_is_not_an_image_is_a_message(page, tmp_path):
    (tmp_path / "text.png").write_text("text")
    page.goto("/p/colors/try")
    page.locator("#file").set_input_files(tmp_path / "text.png")
    expect(page.locator("#problem")).to_contain_text("cannot show this file")


# === Data ===


def test_images_are_filtered_and_opened_by_keyboard(page, studio_browser):
    page.goto("/p/colors/data")
    studio_browser.tab_to(page, page.get_by_role("link", name="2 images of red in test"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/images?class=red&split=test")
    expect(page.locator("#images .thumb")).to_have_count(2)
    studio_browser.tab_to(page, page.locator("#images .thumb").first)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/images/\d+$"))
    expect(page.get_by_role("definition").first).to_have_text("red")


def test_differences_lead_to_their_images(page):
    page.goto("/p/colors/data")
    links = page.locator(".places a")
    assert links.count() > 1
    for index in range(links.count()):
        page.goto("/p/colors/data")
        links.nth(index).click()
        expect(page).to_have_url(re.compile("/p/colors/images[?]"))
        expect(page.locator("#images .thumb").first).to_be_visible()


def test_a_hostile_file_name_is_shown_as_text(page):
    for path in ("/images", "/images/1", "/correct", "/data"):
        page.goto(f"/p/colors{path}")
        page.wait_for_load_state("networkidle")
        assert page.locator('img[src="x"]').count() == 0
    page.goto("/p/colors/images/1")
    expect(page.get_by_role("heading", level=1)).to_have_text("<img src=x onerror=alert(1)>.png")


# === Map ===


@pytest.fixture
def open_map(page, studio_browser):
    page.goto("/p/colors/map")
    studio_browser.wait_until(
        page, "!document.getElementById('map-view').hidden || !document.getElementById('compute').hidden"
    )
    if page.locator("#compute").is_visible():
        page.locator("#start").click()
    expect(page.locator("#map-view")).to_be_visible()
    expect(page.locator("#legend label")).to_have_count(3)
    return page


def test_a_lasso_shows_metrics_and_images(open_map):
    page, box = open_map, open_map.locator("#points").bounding_box()
    page.locator("#mode-lasso").click()
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()
    expect(page.locator("#sel-count")).to_have_text("30")
    expect(page.locator("#sel-images .thumb")).to_have_count(30)
    assert page.locator("#sel-classes tr").count() == 3


def test_the_map_is_used_by_keyboard(open_map, studio_browser):
    page = open_map
    studio_browser.tab_to(page, page.locator("#points"))
    for key in ("+", "ArrowLeft", "ArrowRight", "-", "0", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#sel-count")).to_have_text("30")
    page.keyboard.press("Escape")
    expect(page.locator("#selection")).to_be_hidden()


def test_colours_and_projections_change(open_map, studio_browser):
    page = open_map
    page.locator("#color").select_option("error")
    expect(page.locator("#legend label")).to_have_count(2)
    page.locator("#color").select_option("slice=brightness")
    expect(page.locator("#legend")).to_contain_text("dark")
    studio_browser.wait_until(page, "!document.querySelector('#projection option[value=tsne]').disabled")
    page.locator("#projection").select_option("tsne")
    page.locator("#points").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#sel-count")).to_have_text("30")


def test_the_nearest_training_images_are_shown(open_map, image):
    page = open_map
    page.goto("/p/colors/images/5")
    page.get_by_role("link", name="Try this image").click()
    wait_for_results(page)
    # Its own image is the nearest one.
    expect(page.locator("#nearest .thumb").first).to_contain_text("similarity 1.000")


# === Correct ===


def test_labels_are_corrected_by_keyboard_only(page, root):
    page.goto("/p/colors/correct")
    expect(page.locator("#photo-link")).to_contain_text("onerror")
    page.keyboard.press("a")
    expect(page.locator("#photo-link")).to_have_text("green/1.png")
    page.keyboard.press("r")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    expect(page.locator("#photo-link")).to_have_text("red/2.png")
    page.keyboard.press("d")
    expect(page.locator("#review-text")).to_contain_text("3 of 3")
    page.keyboard.press("u")
    expect(page.locator("#review-text")).to_contain_text("2 of 3")
    page.keyboard.press("k")
    expect(page.locator("#review-text")).to_contain_text("3 of 3")
    page.reload()
    expect(page.locator("#review-text")).to_contain_text("3 of 3")
    decisions = corrections.read(str(root / "colors/studio/corrections.csv"))
    assert {name: (entry.action, entry.label) for name, entry in decisions.items()} == {
        "<img src=x onerror=alert(1)>.png": ("relabel", "red"),
        "green/1.png": ("relabel", "red"),
        "red/2.png": ("keep", ""),
    }


def test_a_decision_that_cannot_be_stored_is_not_counted(page, root):
    page.goto("/p/colors/correct")
    expect(page.locator("#item-label")).not_to_be_empty()
    before = page.locator("#review-text").inner_text()
    page.route("**/correct/decide", lambda route: route.abort())
    page.keyboard.press("d")
    expect(page.locator("#problem")).to_contain_text("does not respond")
    assert page.locator("#review-text").inner_text() == before
