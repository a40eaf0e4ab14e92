"""A browser without a window: pages of `memfs report` and `memfs web` as people look at them.

Invariant: a browser that was started here is gone at the end, with all that it wrote; what its
console said, and what it asked for, can be looked at.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

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


_AXE = "axe-core/node_modules/axe-core/axe.min.js"
"""In the environment of Python: `tools/setup.sh --tests` installs it there."""

_VIOLATIONS = """
const done = arguments[arguments.length - 1];
axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] }).then(
  (result) => done(result.violations
    .filter((each) => ["serious", "critical"].includes(each.impact))
    .flatMap((each) => each.nodes.map((node) =>
      `${each.id}: ${node.target.join(" ")}: ${node.failureSummary}`))),
  (error) => done([`axe failed: ${error}`]));
"""

_PRESS = """
const [css, text] = arguments;
const pressed = [...document.querySelectorAll(`${css} button`)]
  .find((each) => each.innerText.trim() === text && !each.disabled);
pressed?.focus();
pressed?.click();
return pressed !== undefined;
"""
"""JavaScript: press a button as a keyboard does, and return whether there is one."""

_MISPLACED = """
const found = [];
const wide = document.documentElement.scrollWidth;
if (wide > innerWidth) found.push("the page is wider than the window");
for (const part of document.querySelectorAll("section, aside:not([hidden])")) {
  if (part.scrollWidth > part.clientWidth + 1) {
    found.push(`${part.textContent.trim().slice(0, 20)} scrolls`);
  }
}
const shown = (text) => {
  // What is to be seen of a label: it may be cut off by the part of the chart that it is in.
  let { left, right, top, bottom } = text.getBoundingClientRect();
  for (let at = text.parentElement; at.tagName !== "svg"; at = at.parentElement) {
    const name = /#([^"')]+)/.exec(at.getAttribute("clip-path") || "");
    if (!name) continue;
    const box = document.getElementById(name[1]).firstElementChild.getBBox();
    const place = at.getScreenCTM();
    left = Math.max(left, place.e + box.x);
    right = Math.min(right, place.e + box.x + box.width);
    top = Math.max(top, place.f + box.y);
    bottom = Math.min(bottom, place.f + box.y + box.height);
  }
  return { left, right, top, bottom, text: text.textContent };
};
for (const chart of document.querySelectorAll(".chart:not([hidden])")) {
  const room = chart.getBoundingClientRect();
  const labels = [...chart.querySelectorAll("svg text")].map(shown)
    .filter((each) => each.text.trim() && each.right - each.left > 1 && each.bottom - each.top > 1);
  if (!labels.length) found.push(`${chart.id}: no label`);
  labels.forEach((each, at) => {
    if (each.left < room.left - 1 || each.right > room.right + 1 || each.top < room.top - 1
        || each.bottom > room.bottom + 1) found.push(`${chart.id}: ${each.text} stands out`);
    for (const other of labels.slice(at + 1)) {
      const wide = Math.min(each.right, other.right) - Math.max(each.left, other.left);
      const high = Math.min(each.bottom, other.bottom) - Math.max(each.top, other.top);
      // Boxes have some air above and below the letters.
      if (wide > 1 && high > 3) found.push(`${chart.id}: ${each.text} and ${other.text} overlap`);
    }
  });
}
return found;
"""


@functools.cache
def _axe() -> str:
    path = Path(sys.prefix) / _AXE
    if not path.exists():
        pytest.skip("axe-core is not installed: tools/setup.sh --tests")
    return path.read_text(encoding="utf-8")


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
        """Click the button below an element that has a text.

        Not at a place in the window: what comes above the button while the driver looks for it
        would move it away, and the click would meet something else.
        """
        if self.run(_PRESS, css, text):
            return
        raise AssertionError(f"no button {text!r} in {css}: {self.text(css)!r}")

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever it returns
        """Run JavaScript in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def set_colours(self, scheme: str) -> None:
        """Have pages drawn `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def set_width(self, width: int, height: int = 1200) -> None:
        """Give pages so much room, in CSS pixels, whatever the window has."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def reset(self) -> None:
        """Show an empty page as wide as the window, in light colours; forget what was told."""
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.set_colours("light")
        self.take_errors()
        self.take_requests()

    def picture(self, path: Path, width: int = 1300) -> None:
        """Write what the whole page looks like as a PNG."""
        self.set_width(width)
        height = cast("int", self.run("return document.documentElement.scrollHeight"))
        self.set_width(width, min(height, 12_000))
        self.driver.save_screenshot(str(path))
        self.set_width(width)

    def misplaced(self) -> list[str]:
        """Return labels of charts that lie on each other or stand out, and what is too wide."""
        return cast("list[str]", self.run(_MISPLACED))

    def violations(self) -> list[str]:
        """Return what is wrong for people with other senses or hands, by axe-core.

        Rules of WCAG 2.2 at levels A and AA, where axe calls a fault serious or critical.
        """
        self.run(_axe())
        found = self.driver.execute_async_script(_VIOLATIONS)
        return cast("list[str]", found)

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
