"""A browser without a window, as the page of `memfs web` is looked at by people.

Invariant: a browser that was started here is gone at the end, with all that it wrote; what its
console said, and what it asked for, can be looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, cast

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
"""Those of the packages `chromium` and `chromium-driver`, which fit together."""

_ARGUMENTS = (
    "--headless=new",
    # The tests are root's, and pages are memfs's own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1300,1500",
)


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, css: str) -> WebElement:
        """Return the first element that a selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """Return what is to be read in the first such element; empty while it is being replaced."""
        try:
            found = self.driver.find_elements(By.CSS_SELECTOR, css)
            return found[0].text if found else ""
        except StaleElementReferenceException:
            return ""

    def see(self, css: str, *texts: str) -> None:
        """Return once an element shows all of these texts."""
        wait_for(
            lambda: all(text in self.text(css) for text in texts),
            lambda: f"{texts} in {css}: {self.text(css)!r}",
        )

    def press(self, css: str, text: str) -> None:
        """Click the button below an element that has a text."""
        for button in self.driver.find_elements(By.CSS_SELECTOR, f"{css} button"):
            if button.text == text:
                button.click()
                return
        raise AssertionError(f"no button {text!r} in {css}: {self.text(css)!r}")

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever it returns
        """Run JavaScript in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def set_colours(self, scheme: str) -> None:
        """Have pages drawn `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def picture(self, path: Path) -> None:
        """Write what the whole page looks like as a PNG."""
        height = cast("int", self.run("return document.documentElement.scrollHeight"))
        self.driver.set_window_size(1300, min(height + 200, 4000))
        self.driver.save_screenshot(str(path))

    def take_errors(self) -> list[str]:
        """Return what the console has said since the last call, warnings included."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]  # of selenium

    def take_requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        found = []
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]  # of selenium
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(str(message["params"]["request"]["url"]))
        return found


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Yield a browser."""
    profile = tempfile.mkdtemp(prefix="memfs-browser-")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        # What the browser leaves behind lies there, too.
        service = Service(DRIVER, env=os.environ | {"TMPDIR": profile})
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield Browser(driver)
        finally:
            driver.quit()
    finally:
        shutil.rmtree(profile, ignore_errors=True)
