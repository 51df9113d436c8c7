"""What several test files share: a real browser."""

import pytest
from playwright.sync_api import sync_playwright

from course_commands.doctor import find_browser


@pytest.fixture(scope="session")
def browser():
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += ["--enable-unsafe-swiftshader"]  # WebGL without a graphics card
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=options)
        yield browser
        browser.close()
