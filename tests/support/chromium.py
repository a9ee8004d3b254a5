"""A real headless Chromium for the tests of the page, and for its screenshots in docs/."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def why_not() -> str | None:
    """Why there is no Chromium to test in; None where there is one."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install '.[dev]')"
    if not any(map(shutil.which, BROWSERS)) or not shutil.which("chromedriver"):
        return "no Chromium with chromedriver (on Debian: apt-get install chromium chromium-driver)"
    return None


needs_chromium = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@dataclass
class Page:
    """An open page."""

    driver: Any

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())"
        )
        return list(self.js(script, selector))

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call, the page itself aside."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                url = message["params"].get("request", message["params"])["url"]
                if not url.startswith(("file://", "data:", "about:")):
                    found.append(url)
        return found

    def files(self) -> list[str]:
        """Every resource the page loaded, itself aside, as the browser counts them."""
        return list(self.js("return performance.getEntriesByType('resource').map((e) => e.name)"))

    def screenshot(self, path: Path) -> None:
        """The whole page, however long."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = {"captureBeyondViewport": True, "clip": clip}
        data = self.driver.execute_cdp_cmd("Page.captureScreenshot", shot)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        data = self.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
        path.write_bytes(base64.b64decode(data))

    def media(self, **features: str) -> None:
        listed = [
            {"name": k.replace("_", "-"), "value": v} for k, v in features.items() if k != "media"
        ]
        setting = {"media": features.get("media", ""), "features": listed}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", setting)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium, logging its console and every request."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def open_page(
    driver: Any, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False
) -> Page:
    """Load a file in a viewport of that size, with empty logs."""
    page = Page(driver)
    driver.get("about:blank")
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.media(prefers_color_scheme="dark" if dark else "light")
    page.console()
    page.requests()
    driver.get(path.resolve().as_uri())
    return page


def screenshots(report: Path, folder: Path) -> None:
    """The page on a desktop, on a phone, in the dark, and as it is printed."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        for name, width, dark in (
            ("desktop", 1280, False),
            ("phone", 390, False),
            ("dark", 1280, True),
        ):
            open_page(driver, report, width=width, dark=dark).screenshot(
                folder / f"report-{name}.png"
            )
        page = open_page(driver, report, width=760)
        page.media(media="print")
        page.js("dispatchEvent(new Event('beforeprint'))")
        page.screenshot(folder / "report-print.png")


if __name__ == "__main__":  # every picture in docs/: python tests/chromium.py SWEEP_FOLDER docs
    import sys

    sweep, docs = map(Path, sys.argv[1:])
    screenshots(sweep / "report.html", docs / "images")
    shutil.copy(sweep / "frontier.png", docs / "frontier.png")
