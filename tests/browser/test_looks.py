"""How the pages look, light and dark, on a phone and on a desk, and whether everybody can use them.

Pictures go to artifacts/looks/, for people to look at; with --screenshots the README's five to docs/images/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from box import REPOSITORY, Box, wait_for
from playwright.sync_api import BrowserContext, Page, expect

from .conftest import ARTIFACTS, GATE, take_picture
from .person import Person, Visitor

pytestmark = pytest.mark.browser

SIZES = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1280, "height": 800}}
README = REPOSITORY / "docs" / "images"
MOST_BYTES = 150_000

# Each finds elements that somebody could not use.
NAMELESS = """() => [...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, a, progress, meter')]
    .filter(e => e.getClientRects().length && !e.closest('[aria-hidden=true]'))
    .filter(e => !(e.labels && [...e.labels].some(l => l.textContent.trim())) && !e.textContent.trim()
        && !e.getAttribute('aria-label') && !document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim())
    .map(e => e.outerHTML)"""
TWICE = "() => [...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)"
WIDER_THAN_THE_SCREEN = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
LOW_CONTRAST = """() => {
    const context = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const rgba = colour => {
        context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const paint = rgba(getComputedStyle(e).backgroundColor);
            if (paint[3] === 255) return paint;
        }
        return [255, 255, 255, 255];
    };
    return [...document.querySelectorAll('body *')]
        .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
        .filter(e => e.getClientRects().length && !e.closest('.hidden, .skip, :disabled, noscript'))
        .map(e => {
            const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML];
        })
        .filter(([contrast]) => contrast < 4.5).map(([contrast, html]) => contrast.toFixed(1) + ' ' + html);
}"""
PLOT = """import matplotlib.pyplot as plt

plt.figure(figsize=(6, 2.4))
plt.bar(range(1, 8), degrees, color="#1f6f64")
plt.show()
print("A week in May")"""
FOCUS_RING = """() => {
    const style = getComputedStyle(document.activeElement);
    return [document.activeElement.outerHTML, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
}"""


@pytest.fixture(scope="module")
def class_box() -> Iterator[Box]:
    """A class with names for the pictures."""
    with Box(GATE) as box:
        box.add_user("ms-rivera", admin=True)
        for name in ("ada", "ben", "chen", "dilara"):
            box.add_user(name)
        box.put("ada", "data.csv", "day,temperature\\n1,21\\n")
        yield box


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Keep a picture, and check the page it shows: picture(page, "login-desk-light")."""
    (ARTIFACTS / "looks").mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> None:
        take_picture(page, ARTIFACTS / "looks" / f"{name}.png", animations="disabled")
        assert page.evaluate(NAMELESS) == [], name
        assert page.evaluate(TWICE) == [], name
        assert page.evaluate(LOW_CONTRAST) == [], name
        assert page.evaluate(WIDER_THAN_THE_SCREEN) <= 0, name
        assert page.locator("h1").count() == 1, name
        assert page.locator("html").get_attribute("lang") == "en"

    return take


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_fits_and_can_be_read(
        class_box: Box, person: Callable[..., Person], picture: Callable[[Page, str], None], size: str, scheme: str) -> None:
    look = f"{size}-{scheme}"
    ada = person(class_box, "ada", viewport=SIZES[size], color_scheme=scheme)
    ada.open("/hub/login")
    picture(ada.page, f"login-{look}")
    ada.sign_in(password="not this one")
    ada.sees("do not fit together")
    picture(ada.page, f"login-refused-{look}")
    ada.sign_in()
    ada.open("/user/ada/lab/tree/data.csv")
    ada.sees("not running")
    picture(ada.page, f"stopped-{look}")
    with ada.held_back():
        ada.click("Start my server")
        expect(ada.page.locator("[aria-current=step]")).to_have_text("Your notebook is starting")
        picture(ada.page, f"progress-{look}")
    ada.is_at("/user/ada/lab*")
    ada.open("/hub/home")
    ada.sees("Running")
    picture(ada.page, f"home-{look}")
    assert ada.open("/user/ben/lab") == 403
    picture(ada.page, f"error-{look}")
    assert ada.open("/hub/no-such-page") == 404
    picture(ada.page, f"missing-{look}")
    ada.open("/hub/change-password")
    picture(ada.page, f"password-{look}")

    teacher = person(class_box, "ms-rivera", viewport=SIZES[size], color_scheme=scheme)
    teacher.sign_in("/hub/admin")
    expect(teacher.page.get_by_role("rowheader", name="ada")).to_be_visible()
    picture(teacher.page, f"admin-{look}")

    ada.stop_server()
    picture(ada.page, f"home-stopped-{look}")


def test_keyboard_alone_is_enough_and_shows_where_it_is(class_box: Box, person: Callable[..., Person]) -> None:
    ben = person(class_box, "ben")
    ben.open("/hub/login?next=/hub/home")
    expect(ben.page.get_by_label("Name")).to_be_focused()
    ben.page.keyboard.type("ben")
    ben.page.keyboard.press("Tab")
    ben.page.keyboard.type(ben.password)
    ben.page.keyboard.press("Enter")
    ben.is_at("/hub/home")
    seen = set()
    while True:
        ben.page.keyboard.press("Tab")
        element, ring = ben.page.evaluate(FOCUS_RING)
        if element in seen or element.startswith("<body"):
            break
        seen.add(element)
        assert ring, f"no ring around {element}"
    for words in ("Skip to the content", "Classroom", "Sign out", "Change password"):
        assert any(words in element for element in seen), f"{words} cannot be reached"


def test_skip_link_leads_past_the_header(class_box: Box, visitor: Callable[..., Visitor]) -> None:
    somebody = visitor(class_box)
    somebody.open("/hub/login")
    skip = somebody.page.get_by_role("link", name="Skip to the content")
    skip.focus()
    expect(skip).to_be_in_viewport()
    skip.press("Enter")
    expect(somebody.page.get_by_role("main")).to_be_focused()


def test_pictures_for_the_readme(class_box: Box, person: Callable[..., Person], new_context: Callable[..., BrowserContext],
                                 tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Always taken, so that they can be; kept only with --screenshots."""
    folder = README if request.config.getoption("screenshots") else tmp_path
    folder.mkdir(parents=True, exist_ok=True)

    def keep(page: Page, name: str) -> None:
        file = folder / f"{name}.png"
        take_picture(page, file, animations="disabled", caret="hide")
        assert file.stat().st_size <= MOST_BYTES, f"{name}.png is too large for the README"

    with ExitStack() as stack:
        chen = person(class_box, "chen")
        chen.open("/hub/login")
        keep(chen.page, "login")
        stack.enter_context(chen.held_back())
        chen.sign_in("/hub/spawn")
        expect(chen.page.locator("[aria-current=step]")).to_have_text("Your notebook is starting")
        keep(chen.page, "progress")
    chen.sees_launcher()
    chen.new_notebook()
    chen.run("degrees = [14, 17, 21, 19, 16, 18, 22]\nprint('The warmest day had', max(degrees), 'degrees.')",
             prints="The warmest day had 22 degrees.")
    chen.run(PLOT, prints="A week in May")
    expect(chen.page.locator(".jp-Cell-outputArea img")).to_be_visible()
    chen.save_as("first-lesson.ipynb")
    keep(chen.page, "lab")
    chen.open("/hub/home")
    chen.sees("Running")
    keep(chen.page, "home")
    with class_box.student("dilara") as dilara:
        dilara.to_server()
    teacher = person(class_box, "ms-rivera")
    teacher.sign_in("/hub/admin")
    wait_for("what both servers use", lambda: teacher.open("/hub/admin") and teacher.page.get_by_role("row").filter(
        has_text="Running").filter(has_text="MB").count() == 2)
    keep(teacher.page, "admin")
