"""A fragment of HTML from a file, reduced to what a drawing needs: no script, no style, no address, no foreign tag.

A run folder may come from a stranger. Everything else a report takes from one is escaped as text; the drawing of the stream
is markup already, so it passes this list of what is allowed, and whatever is not on it is dropped.
"""

from html import escape
from html.parser import HTMLParser

TAGS = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "pre", "p", "b", "i", "u"}
ATTRIBUTES = {"class", "title"}
SILENT = {"script", "style", "template", "iframe", "object", "svg", "math", "title", "textarea", "noscript"}


class _Filter(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.open: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SILENT:
            self.silent += 1
        elif not self.silent and tag in TAGS:
            kept = "".join(f' {k}="{escape(v or "")}"' for k, v in attrs if k in ATTRIBUTES)
            self.out.append(f"<{tag}{kept}>")
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in SILENT:
            self.silent = max(0, self.silent - 1)
        elif not self.silent and tag in self.open:
            # What was left open inside is closed too, so that the fragment cannot close a tag of the page around it.
            while self.open:
                last = self.open.pop()
                self.out.append(f"</{last}>")
                if last == tag:
                    break

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.out.append(escape(data))


def clean(fragment: str) -> str:
    """The fragment with the tags and attributes of the list only, every tag closed, all text escaped."""
    reader = _Filter()
    reader.feed(fragment)
    reader.close()
    return "".join(reader.out) + "".join(f"</{tag}>" for tag in reversed(reader.open))
