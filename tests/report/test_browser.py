"""The page in a real browser: at a desk and on a phone, by day and by night, for people who do not see it."""

from __future__ import annotations

import shutil

import pytest
from pyarrow import parquet

from ggmi_callbacks.report import report

from ._ledgers import known, large

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = playwright.expect
expect.set_options(timeout=60_000)  # the machine may do much else
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs a chromium on the path; Playwright's own is not downloaded"),
]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TEXTS = [
    {"prompt": f"What is {i} and {i}?", "completion": f"It is {2 * i}. " + "A_word_without_any_end" * 20 * (i % 2)}
    for i in range(8)
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return report(known(), tmp_path_factory.mktemp("report") / "gain.html", texts=TEXTS)


@pytest.fixture
def visit(browser):
    """Open a file; what the browser complains of, or asks for, fails the test."""
    opened, complaints = [], []

    def visit(file, viewport=DESK, scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if request.url != file.as_uri() else None)
        opened.append(context)
        page.goto(file.as_uri())
        return page

    yield visit
    for context in opened:
        context.close()
    assert [text for text in complaints if not text.startswith("data:")] == []


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_runs_over_the_width(visit, file, viewport):
    page = visit(file, viewport)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_the_search_box_finds_samples_by_number_source_and_text(visit, file):
    page = visit(file, PHONE)
    page.fill("#query", "model dropped")
    expect(page.locator("#count")).to_have_text("3 found")
    page.fill("#query", "what is 3 and")
    expect(page.locator("#count")).to_have_text("1 found")
    assert "It is 6." in page.inner_text("#found")
    page.keyboard.press("Enter")  # submits nothing
    page.fill("#query", "no such word")
    expect(page.locator("#count")).to_have_text("0 found")
    page.fill("#query", "")
    expect(page.locator("#count")).to_have_text("")
    assert page.inner_text("#found") == ""


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(visit, file, viewport, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = visit(file, viewport, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.fill("#query", "what")
    expect(page.locator("#found li")).not_to_have_count(0)
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_the_first_key_leads_past_the_navigation_and_focus_is_seen(visit, file):
    page = visit(file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"


def test_in_print_the_search_box_is_gone_and_all_samples_are_there(visit, file):
    page = visit(file)
    page.emulate_media(media="print")
    assert not page.is_visible("#search")
    assert page.locator(".card").count() == 7


def test_a_hundred_thousand_rows_open_within_two_seconds(visit, tmp_path):
    source = tmp_path / "ledger.parquet"
    parquet.write_table(large(100_000), source)
    texts = [f"sample {i} " + "word " * 40 for i in range(100_000)]
    file = report(source, tmp_path / "gain.html", texts=texts)
    page = visit(file)
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})  # of the page alone, however busy the machine
    page.reload()
    numbers = {entry["name"]: entry["value"] for entry in client.send("Performance.getMetrics")["metrics"]}
    assert 0 < numbers["TaskDuration"] < 2


def test_malicious_texts_run_nothing(visit, tmp_path):
    evil = ["</script><script>document.title='owned'</script>", "<img src=x onerror=\"document.title='owned'\">"] * 4
    page = visit(report(known(), tmp_path / "gain.html", texts=evil, title="mine"))
    page.fill("#query", "script")
    expect(page.locator("#found li")).not_to_have_count(0)
    page.fill("#query", "onerror")
    expect(page.locator("#found li").first).to_contain_text("<img")
    assert page.title() == "mine"
