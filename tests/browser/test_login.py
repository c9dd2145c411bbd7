"""The login in a real browser: a token by hand, a link with one, and a link from another site."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from webrig import Served, served

from tools.chromium import Tab, page
from tools.stage import Stage
from web.config import Access

pytestmark = pytest.mark.beside
VIEW, CONTROL = "view-secret-0123456789", "control-secret-0123456789"


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    with served(access=Access((f"view:{VIEW}", f"control:{CONTROL}"))) as server:
        yield server


def there(tab: Tab) -> None:
    """Waits for the page itself, through whatever it is sent on by."""
    tab.page.wait_for_selector("video#picture", state="attached")


def role(tab: Tab) -> str:
    return str(tab.page.evaluate("async () => (await (await fetch('/api/me')).json()).role"))


def test_a_token_by_hand(stage: Stage, running: Served) -> None:
    with page(stage.browser(), f"{running.url}/view?session=none") as tab:
        tab.page.fill("#token", "wrong")
        tab.page.click("button")
        tab.until("document.querySelector('#notice').textContent.startsWith('The token is wrong')")
        tab.page.fill("#token", f" {CONTROL} ")
        tab.page.keyboard.press("Enter")
        there(tab)
        assert tab.page.url == f"{running.url}/view?session=none", "the page that was asked for"
        assert role(tab) == "control"
        assert tab.page.evaluate("() => document.cookie") == "", "no script sees it"


def test_a_link_with_a_token_and_one_whose_token_is_wrong(stage: Stage, running: Served) -> None:
    with page(stage.browser(), f"{running.url}/view?session=none&token=wrong") as tab:
        tab.until("document.querySelector('#notice').textContent.startsWith('The link')")
        tab.page.fill("#token", VIEW)
        tab.page.click("button")
        there(tab)
        assert "token" not in tab.page.url
    with page(stage.browser(), f"{running.url}/view?session=none&token={VIEW}") as tab:
        there(tab)
        assert (tab.page.url, role(tab)) == (f"{running.url}/view?session=none", "view")


def test_a_link_from_another_site_opens_the_page_of_whoever_is_in(stage: Stage, running: Served) -> None:
    """It brings no cookie along (SameSite=Strict): the login sees that there is one, and opens the page."""
    with page(stage.browser(), f"{running.url}/view?token={VIEW}") as tab:
        there(tab)
        tab.page.goto("data:text/html,<a href='" + running.url + "/view?session=none'>there</a>")
        tab.page.click("a")
        tab.page.wait_for_url(f"{running.url}/view?session=none")
        there(tab)
        assert role(tab) == "view"
