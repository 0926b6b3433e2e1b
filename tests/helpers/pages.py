"""A page of HTML as a tree, and what a browser says of it."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

VOID = ("meta", "link", "img", "br", "hr", "input")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Loads the page once at each width, opens everything, and writes what it finds into its own body.
WRAPPER = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="found"></pre><script>
const frames = [...document.querySelectorAll("iframe")];
const look = async frame => {{
  const page = frame.contentDocument, root = page.documentElement;
  for (const part of page.querySelectorAll("details")) part.open = true;
  const images = [...page.images];
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  const wide = [...page.body.querySelectorAll("*")].filter(
    part => !part.closest(".scroll, svg, pre, .skip, .hidden")
      && part.getBoundingClientRect().right > root.clientWidth + 1
  );
  return {{
    width: root.clientWidth, needed: root.scrollWidth, wide: wide.map(part => part.outerHTML.slice(0, 120)),
    images: images.length, broken: images.filter(image => !image.naturalWidth).length,
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
    paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
  }};
}};
window.onload = async () => {{
  document.getElementById("found").textContent = JSON.stringify(await Promise.all(frames.map(look)));
}};
</script></body>"""


class _Tree(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Element("page")
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = SubElement(self.open[-1], tag, {name: value or "" for name, value in attrs})
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        SubElement(self.open[-1], tag, {name: value or "" for name, value in attrs})

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        parent = self.open[-1]
        if len(parent):
            parent[-1].tail = (parent[-1].tail or "") + data
        else:
            parent.text = (parent.text or "") + data


def tree(page: str) -> Element:
    """The elements of a page; each must be closed where it was opened."""
    parser = _Tree()
    parser.feed(page)
    parser.close()
    assert parser.open == [parser.root]
    return parser.root


def text(element: Element) -> str:
    """Its text, with single spaces."""
    return " ".join("".join(element.itertext()).split())


def with_class(element: Element, name: str) -> list[Element]:
    return [found for found in element.iter() if name in found.get("class", "").split()]


def browser() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def seen(page: Path, widths: list[int], scheme: str, folder: Path) -> tuple[list[dict], list[str]]:
    """What a headless browser finds at each width, and what it writes to its console.

    scheme: `light` or `dark`, the reader's preference.
    """
    frames = "".join(f'<iframe src="{page.as_uri()}" width="{width}" height="900" style="border:0"></iframe>'
                     for width in widths)  # fmt: skip
    wrapper = folder / f"wrapper-{scheme}.html"
    wrapper.write_text(WRAPPER.format(frames=frames), encoding="utf-8")
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files",
        "--disable-background-networking", "--disable-component-update", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0", "--window-size=1600,1000",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--virtual-time-budget=20000",
        "--dump-dom", wrapper.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    found = next(part for part in tree(done.stdout).iter("pre") if part.get("id") == "found")
    return json.loads(text(found)), said
