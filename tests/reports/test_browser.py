"""The pages in headless Chromium, driven by its command line."""

import json
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PAGES = ["index.html", "wd_sweep.html", "optimizers.html", "benchmarks.html", "calibration.html"]
# The pages load nothing; the browser's own calls home are kept quiet as well.
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def pages(drawn, everything):
    """Every kind of page; a study's with its figures, the ledger with claims of every kind."""
    return drawn | {"index.html": everything["index.html"]}


@pytest.fixture
def browse(tmp_path, pages):
    """Opens a page, with `script` run at its end; returns what the browser wrote on stdout and stderr."""

    def open_page(name, *flags, script="", head=""):
        page = pages[name].replace("</body>", f"<script>{script}</script></body>")
        page = page.replace("<head>", f"<head>{head}")
        (tmp_path / name).write_text(page, encoding="utf-8")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        return subprocess.run(
            [BROWSER, *QUIET, profile, *flags, f"file://{tmp_path / name}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    return open_page


def dom(browse, name, script=""):
    return browse(name, "--dump-dom", script=script).stdout


def pixels(browse, tmp_path, name, *flags, head=""):
    shot = tmp_path / "shot.png"
    shot.unlink(missing_ok=True)
    browse(name, f"--screenshot={shot}", "--window-size=1000,1400", *flags, head=head)
    return matplotlib.image.imread(shot)[..., :3]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_without_a_word_on_the_console_and_fits_its_window(browse, name):
    script = "document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth"
    outcome = browse(name, "--dump-dom", "--window-size=600,900", script=script)
    assert "CONSOLE" not in outcome.stderr
    assert int(re.search(r'data-overflow="(-?\d+)"', outcome.stdout)[1]) <= 0
    assert "</html>" in outcome.stdout


def test_a_script_error_would_be_seen(browse):
    assert "CONSOLE" in browse("index.html", "--dump-dom", script="nowhere.at.all()").stderr


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_the_order(browse):
    script = """
        const table = document.querySelector("table.sortable");
        const shown = () => [...table.tBodies[0].rows].map((row) => row.cells[2].textContent.trim()).join(" ");
        const heading = table.tHead.rows[0].cells[2];
        heading.firstChild.click();
        document.body.dataset.up = shown();
        document.body.dataset.ariaUp = heading.ariaSort;
        heading.firstChild.click();
        document.body.dataset.down = shown();
        document.body.dataset.ariaDown = heading.ariaSort;
    """
    html = dom(browse, "wd_sweep.html", script)
    data = dict(re.findall(r'data-([a-z-]+)="([^"]*)"', html[html.index("<body") : html.index("<header")]))
    up = [float(text) for text in data["up"].split()]
    assert up == sorted(up)
    assert data["down"].split() == data["up"].split()[::-1]
    assert (data["aria-up"], data["aria-down"]) == ("ascending", "descending")


def test_numbers_sort_by_their_powers_of_ten(browse):
    script = """
        const table = document.querySelector("table.sortable");
        const texts = ["9.00·10⁻⁷", "12", "−3.00·10⁵", "3.34·10⁻⁶", "2.00·10¹⁰"];
        const rows = [...table.tBodies[0].rows];
        while (rows.length < texts.length) rows.push(table.tBodies[0].appendChild(rows[0].cloneNode(true)));
        rows.forEach((row, i) => i < texts.length ? (row.cells[2].textContent = texts[i]) : row.remove());
        rows.forEach((row) => delete row.cells[2].dataset.sort);
        table.tHead.rows[0].cells[2].firstChild.click();
        document.body.dataset.up = [...table.tBodies[0].rows].map((row) => row.cells[2].textContent).join(" ");
    """
    assert 'data-up="−3.00·10⁵ 9.00·10⁻⁷ 3.34·10⁻⁶ 12 2.00·10¹⁰"' in dom(browse, "wd_sweep.html", script)


def seen_by(browse, choices):
    """What the ledger shows where radio buttons are checked: claims, headings, the two sums of counts, the excuse."""
    script = """
        const seen = {};
        const visible = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility());
        document.getElementById("not-run").open = true;
        const numbers = (group) => [...document.querySelectorAll(`.${group} .by`)].map((by) =>
          [...by.children].filter((one) => one.checkVisibility()).map((one) => one.textContent).join("+"));
        const sum = (texts) => texts.map(Number).reduce((a, b) => a + b, 0);
        for (const [verdict, topic] of CHOICES) {
          document.getElementById(`verdict-${verdict}`).checked = true;
          document.getElementById(`topic-${topic}`).checked = true;
          const [, ...verdicts] = numbers("counts"), [, ...topics] = numbers("topics");
          seen[`${verdict} ${topic}`] = [visible(".ledger tbody tr").length, visible(".group h2").length,
            sum(verdicts), sum(topics), visible(".nothing").length];
        }
        document.body.dataset.seen = JSON.stringify(seen);
    """
    dumped = dom(browse, "index.html", script.replace("CHOICES", json.dumps(choices)))
    return json.loads(re.search(r'data-seen="([^"]*)"', dumped)[1].replace("&quot;", '"'))


def test_the_ledger_filters_with_nothing_but_its_radio_buttons_and_leaves_no_empty_heading(browse):
    seen = seen_by(
        browse,
        [
            ["all", "all"],
            ["holds-so-far", "all"],
            ["all", "weight-decay"],
            ["holds-so-far", "loss"],
            ["cited", "framing"],
        ],
    )
    assert seen["all all"][0] == 85
    assert seen["all all"][2:] == [85, 85, 0]
    claims, headings, verdicts, topics, nothing = seen["holds-so-far all"]
    assert claims == topics == 1, "the counts of topics follow the verdict"
    assert headings == 1
    assert (verdicts, nothing) == (85, 0)
    claims, _, verdicts, topics, nothing = seen["all weight-decay"]
    assert claims == verdicts == 11, "the counts of verdicts follow the topic"
    assert (topics, nothing) == (85, 0)
    assert seen["holds-so-far loss"][:2] == [0, 0]
    assert seen["holds-so-far loss"][4] == 1, "where nothing is left the page says so"
    assert seen["cited framing"][1] == 1


def test_a_link_to_a_claim_that_was_not_run_unfolds_it(browse):
    script = """
        location.hash = "#claim-85";
        setTimeout(() => (document.body.dataset.open = document.getElementById("not-run").open), 100);
    """
    assert 'data-open="true"' in browse("index.html", "--dump-dom", "--virtual-time-budget=2000", script=script).stdout


def narrow(pages, tmp_path, name, script):
    """What `script` finds on a page 390 pixels wide: a browser's window is never so narrow, but a frame in it is."""
    page = pages[name].replace("</body>", f"<script>parent.found = (() => {{ {script} }})()</script></body>")
    (tmp_path / "framed.html").write_text(page, encoding="utf-8")
    frame = '<iframe src="framed.html" style="width:390px;height:900px" onload="document.body.dataset.found=found">'
    head = f"<!doctype html><body>{frame}</iframe></body>"
    (tmp_path / "frame.html").write_text(head, encoding="utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    flags = [*QUIET, "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom", profile]
    command = [BROWSER, *flags, f"file://{tmp_path / 'frame.html'}"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return re.search(r'data-found="([^"]*)"', out)[1]


@pytest.mark.parametrize("name", PAGES)
def test_on_a_phone_no_part_and_no_arm_is_off_the_screen(pages, tmp_path, name):
    script = """
        const cut = [...document.querySelectorAll(".cards td, .cards th, .stack td, .stack th, h1, .answer, nav a")]
          .filter((cell) => cell.checkVisibility() && !cell.closest("thead"))
          .filter((cell) => cell.getBoundingClientRect().right > 391)
          .map((cell) => cell.textContent.trim());
        return JSON.stringify([document.documentElement.scrollWidth, cut.slice(0, 5)]);
    """
    assert narrow(pages, tmp_path, name, script).replace("&quot;", '"') == "[390,[]]"


@pytest.mark.parametrize("name", ["wd_sweep.html", "optimizers.html"])
def test_at_1280_pixels_no_table_of_parts_or_arms_is_cut(browse, name):
    script = """
        const cut = [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth + 1)
          .map((box) => box.ariaLabel).filter((label) => !label.startsWith("Data"));
        document.body.dataset.cut = JSON.stringify(cut);
    """
    html = browse(name, "--dump-dom", "--window-size=1280,900", script=script).stdout
    assert 'data-cut="[]"' in html, re.search('data-cut="([^"]*)"', html)[1]


@pytest.mark.parametrize("name", PAGES)
def test_what_a_finger_is_to_hit_is_large_enough(browse, name):
    script = """
        const small = [];
        const least = (selector, width, height) => {
          for (const target of document.querySelectorAll(selector)) {
            const box = target.getBoundingClientRect();
            if (target.checkVisibility() && (box.width < width || box.height < height))
              small.push(`${target.tagName} ${target.textContent.trim()} ${box.width} ${box.height}`);
          }
        };
        least("nav a, summary, label, button", 24, 32);
        least(".ids a", 24, 24);
        document.body.dataset.small = JSON.stringify(small);
    """
    for size in ("1280,900", "600,900"):
        html = browse(name, "--dump-dom", f"--window-size={size}", script=script).stdout
        assert 'data-small="[]"' in html, (size, re.search('data-small="([^"]*)"', html)[1])


def test_commands_have_a_copy_button(browse):
    html = dom(browse, "wd_sweep.html")
    assert re.search(r"<pre[^>]*><code>python -m studies.wd_sweep[^<]*</code><button[^>]*>Copy</button>", html)


@pytest.mark.parametrize("name", PAGES)
def test_dark_mode_reaches_the_page_and_its_charts(browse, tmp_path, name):
    light = pixels(browse, tmp_path, name, "--blink-settings=preferredColorScheme=1")
    dark = pixels(browse, tmp_path, name, "--blink-settings=preferredColorScheme=0")
    assert np.median(light) > 0.95
    assert np.median(dark) < 0.15
    # Ink is drawn on both: no chart goes under in its ground.
    assert (light < 0.3).all(axis=-1).mean() > 0.005
    assert (dark > 0.7).all(axis=-1).mean() > 0.005


def test_a_page_without_scripts_shows_the_same_charts(browse, tmp_path):
    # Chromium takes no screenshots with its scripts switched off, so the page forbids them.
    head = """<meta http-equiv="Content-Security-Policy" content="script-src 'none'">"""
    assert ">Copy<" not in browse("wd_sweep.html", "--dump-dom", head=head).stdout
    # Sort signs and copy buttons alone come by script; they are small.
    with_script = pixels(browse, tmp_path, "wd_sweep.html")
    without = pixels(browse, tmp_path, "wd_sweep.html", head=head)
    assert np.abs(with_script - without).mean() < 0.01


def test_charts_are_written_in_the_font_of_the_page(browse):
    script = """
        const fonts = [...document.querySelectorAll("body, svg text")].map((text) => getComputedStyle(text).fontFamily);
        document.body.dataset.fonts = new Set(fonts).size;
    """
    assert 'data-fonts="1"' in dom(browse, "wd_sweep.html", script)


def test_no_text_of_a_chart_is_cut_off(browse):
    script = """
        const cut = [];
        for (const svg of document.querySelectorAll("figure svg")) {
          if (!svg.checkVisibility()) continue;
          const box = svg.getBoundingClientRect();
          for (const text of svg.querySelectorAll("text")) {
            const b = text.getBoundingClientRect();
            if (b.left < box.left - 2 || b.right > box.right + 2 || b.top < box.top - 2 || b.bottom > box.bottom + 2)
              cut.push(text.textContent);
          }
        }
        document.body.dataset.cut = JSON.stringify(cut);
    """
    for name in PAGES[1:]:
        for size in ("1280,900", "600,900"):
            html = browse(name, "--dump-dom", f"--window-size={size}", script=script).stdout
            assert 'data-cut="[]"' in html, (name, size, re.search('data-cut="([^"]*)"', html)[1])
