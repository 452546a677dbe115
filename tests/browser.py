"""A real browser that looks at a page: what it drew, how wide things came out, what it fetched.

The page stands in a frame, because a browser's window cannot be made as narrow as a phone. A script put into a copy of
it measures and tells the page around.
"""

import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")
DESKTOP, PHONE = 1200, 390

_MEASURE = """<script>addEventListener("load", () => {
  const all = (what, of = document) => [...of.querySelectorAll(what)];
  const wide = part => part.getBoundingClientRect().width;
  const style = part => getComputedStyle(part);
  parent.postMessage(JSON.stringify({
    text: document.body.innerText,
    room: innerWidth,
    needed: document.documentElement.scrollWidth,
    pictures: [...document.images].map(image => image.complete ? image.naturalWidth : 0),
    drawings: all("svg").map(svg => ({
      labels: all("text", svg).map(part => part.textContent),
      boxes: all("rect", svg).map(box => box.getBoundingClientRect().height),
      lines: all("polyline", svg).length,
    })),
    bars: Object.fromEntries(all("h2").map(title => {
      let group = title.nextElementSibling;
      while (group && group.tagName != "H2" && !group.classList.contains("bars")) group = group.nextElementSibling;
      if (!group || group.tagName == "H2") return [title.textContent, []];
      return [title.textContent, all("div", group).map(bar => [bar.previousElementSibling.innerText, wide(bar),
        bar.nextElementSibling.innerText])];
    })),
    colours: {paper: style(document.querySelector("main")).backgroundColor, ink: style(document.body).color},
    fetched: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !/^data:/.test(name)),
  }), "*");
});</script>"""
_AROUND = """<!doctype html><body style="margin:0"><iframe src="{page}" width="{width}" height="{height}"
style="border:0;display:block"></iframe><pre id="found" hidden></pre>
<script>
addEventListener("message", told => {{ document.getElementById("found").textContent = told.data; }});
</script>"""


@dataclass(frozen=True)
class Look:
    """What the browser found."""

    pixels: np.ndarray  # uint8 [height, width, 3]
    found: dict[str, Any]  # as _MEASURE tells it

    def bars(self, title: str) -> list[tuple[str, float, str]]:
        """(label, px, text) of the bars under a heading."""
        return [tuple(bar) for bar in self.found["bars"][title]]  # type: ignore[misc]


def look(page: Path, folder: Path, width: int = DESKTOP, *, dark: bool = False, height: int = 2400) -> Look:
    """The page in a frame of that many px; `folder` is empty and for the browser."""
    folder.mkdir()
    text = page.read_text(encoding="utf-8")
    assert text.count("</body>") == 1
    (folder / "page.html").write_text(text.replace("</body>", f"{_MEASURE}</body>"), encoding="utf-8")
    around = folder / "around.html"
    around.write_text(_AROUND.format(page="page.html", width=width, height=height), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    flags += [f"--user-data-dir={folder / 'home'}", f"--window-size={max(width, 500)},{height}"]
    flags += [f"--screenshot={folder / 'shot.png'}", "--virtual-time-budget=5000"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [str(BROWSER), *flags, around.as_uri()], check=True, timeout=60, capture_output=True, text=True
    )
    told = re.search(r'<pre id="found"[^>]*>(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr
    with Image.open(io.BytesIO((folder / "shot.png").read_bytes())) as picture:
        pixels = np.asarray(picture.convert("RGB"))[:, :width]
    return Look(pixels, json.loads(html.unescape(told[1])))
